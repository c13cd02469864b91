//! Reading one kernel file: absent is `None`, malformed is an error with path and text.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use oarlock_core::idset::{IdSet, Kind};

use crate::DiscoveryError;

/// No file read here is longer: the longest, `meminfo` and `mounts`, stay far below.
const LIMIT_MIB: u64 = 4;

/// The text of a kernel file up to its first NUL byte, trimmed; `None` where the file is absent.
///
/// Trees copied out of `/sys` can hold files padded with NUL bytes, since the copy took the size that `stat` reported.
pub(crate) fn text(path: &Path) -> Result<Option<String>, DiscoveryError> {
    let read = |path: &Path| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        fs::File::open(path)?.take((LIMIT_MIB << 20) + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let mut bytes = match read(path) {
        Ok(bytes) => bytes,
        // ENODEV, ENOENT while reading: the device went away after the file was opened.
        Err(error) if is_absence(&error) => return Ok(None),
        Err(source) => return Err(DiscoveryError::Read { path: path.to_owned(), source }),
    };
    if bytes.len() as u64 > LIMIT_MIB << 20 {
        return Err(DiscoveryError::TooLarge { path: path.to_owned(), limit_mib: LIMIT_MIB });
    }
    if let Some(nul) = bytes.iter().position(|&byte| byte == 0) {
        bytes.truncate(nul);
    }
    Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned()))
}

fn is_absence(error: &io::Error) -> bool {
    const ENODEV: i32 = 19;
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(ENODEV)
}

/// A set in the kernel's list form.
pub(crate) fn list<K: Kind>(path: &Path) -> Result<Option<IdSet<K>>, DiscoveryError> {
    let Some(text) = text(path)? else { return Ok(None) };
    match text.parse() {
        Ok(set) => Ok(Some(set)),
        Err(error) => Err(DiscoveryError::malformed(path, &text, "a list like 0-3,8", Box::from(error))),
    }
}

/// What is online, in the list form. Something always is: an empty file says nothing.
pub(crate) fn online<K: Kind>(path: &Path) -> Result<Option<IdSet<K>>, DiscoveryError> {
    Ok(list(path)?.filter(|set: &IdSet<K>| !set.is_empty()))
}

/// A set in the kernel's mask form. The kernel writes an empty set as zeros: a file of nothing, or of NUL bytes, says
/// nothing.
pub(crate) fn mask<K: Kind>(path: &Path) -> Result<Option<IdSet<K>>, DiscoveryError> {
    let Some(text) = text(path)?.filter(|text| !text.is_empty()) else { return Ok(None) };
    // The error's own text would only repeat the mask.
    IdSet::from_mask(&text)
        .map(Some)
        .map_err(|_| DiscoveryError::malformed(path, &text, "a mask of 32-bit hexadecimal words", None))
}

/// A set that the kernel writes both as a mask and as a list. Where both are there the mask counts, as for hwloc: trees
/// that were edited by hand were edited there.
pub(crate) fn mask_or_list<K: Kind>(
    folder: &Path,
    mask_name: &str,
    list_name: &str,
) -> Result<Option<IdSet<K>>, DiscoveryError> {
    match mask(&folder.join(mask_name))? {
        Some(set) => Ok(Some(set)),
        None => list(&folder.join(list_name)),
    }
}

/// A decimal number, possibly negative; an empty file says nothing.
pub(crate) fn number(path: &Path) -> Result<Option<i64>, DiscoveryError> {
    match text(path)? {
        None => Ok(None),
        Some(text) if text.is_empty() => Ok(None),
        Some(text) => match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(DiscoveryError::malformed(path, &text, "a number", None)),
        },
    }
}

/// A hexadecimal number, by the kernel written with `0x`.
pub(crate) fn hex(path: &Path) -> Result<Option<u32>, DiscoveryError> {
    match text(path)? {
        None => Ok(None),
        Some(text) if text.is_empty() => Ok(None),
        Some(text) => match u32::from_str_radix(text.strip_prefix("0x").unwrap_or(&text), 16).ok() {
            Some(number) => Ok(Some(number)),
            None => Err(DiscoveryError::malformed(path, &text, "a hexadecimal number like 0x10de", None)),
        },
    }
}

/// The names in a folder, sorted; `None` where there is no such folder.
pub(crate) fn names(folder: &Path) -> Result<Option<Vec<String>>, DiscoveryError> {
    let read = |folder: &Path| -> io::Result<Vec<String>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    match read(folder) {
        Ok(mut names) => {
            names.sort();
            Ok(Some(names))
        }
        Err(error) if is_absence(&error) => Ok(None),
        Err(source) => Err(DiscoveryError::Read { path: folder.to_owned(), source }),
    }
}
