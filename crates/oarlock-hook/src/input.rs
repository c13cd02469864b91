//! Reading what a runtime hands over, which a container may have had a say in: bounded, and never waited for.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::State;
use rustix::fs::{FileType, Mode, OFlags};

use crate::failure::Failure;

/// The kernel executes nothing with more than 6 MiB of arguments and environment; annotations may be 256 KiB.
pub(crate) const LONGEST: u64 = 16 << 20;

/// All of a stream.
pub(crate) fn read(stream: impl Read, what: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let unreadable = |source| Failure::Read { what: what.to_owned(), source };
    stream.take(LONGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST {
        return Err(Failure::TooLong { what: what.to_owned(), limit: LONGEST });
    }
    Ok(bytes)
}

/// The container's state, as a hook gets it (OCI runtime specification, "State").
pub(crate) fn state(stream: impl Read) -> Result<State, Failure> {
    const WHAT: &str = "the state on standard input";
    let bytes = read(stream, WHAT)?;
    serde_json::from_slice(&bytes).map_err(|source| Failure::Malformed {
        what: WHAT.to_owned(),
        expected: "an OCI container's state",
        source,
    })
}

/// The path of a bundle's configuration. Only an absolute path without `..` is one that a runtime gives.
pub(crate) fn config_of(bundle: &Path) -> Result<PathBuf, Failure> {
    let no_bundle = |rule| Failure::NoBundle { path: bundle.to_owned(), rule };
    if !bundle.is_absolute() {
        return Err(no_bundle("a bundle's path is absolute"));
    }
    if bundle.components().any(|part| part == Component::ParentDir) {
        return Err(no_bundle("a bundle's path has no \"..\""));
    }
    Ok(bundle.join("config.json"))
}

/// A whole file, which is neither a link nor anything else that is no file.
pub(crate) fn file(path: &Path) -> Result<Vec<u8>, Failure> {
    read(open(path)?, &format!("\"{}\"", path.display()))
}

/// Such a file, not yet read.
pub(crate) fn open(path: &Path) -> Result<File, Failure> {
    let unreadable = |source: io::Error| Failure::Read { what: format!("\"{}\"", path.display()), source };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| unreadable(errno.into()))?;
    let stat = rustix::fs::fstat(&file).map_err(|errno| unreadable(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(unreadable(io::Error::other("it is no regular file")));
    }
    Ok(File::from(file))
}
