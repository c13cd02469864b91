//! Where a machine is read from.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::sysfs::Tree;
use crate::{DiscoveryError, Found, hwloc, hwloc_xml, machine_file};

/// Where to read a machine from: the value of `--machine`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// This host.
    Live,
    /// A machine file (JSON), an hwloc export (XML), or a folder that holds `sys/` (and `proc/`).
    File(PathBuf),
    /// A description in hwloc's synthetic form, without the leading `synthetic:`.
    Synthetic(String),
}

/// How to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whether the live host is asked through NVML.
    pub nvml: bool,
    /// The NVML library, where the usual name is not to be searched.
    pub nvml_library: Option<PathBuf>,
    /// Where the live host's `sys/` and `proc/` are. At another place than `/`, hwloc is not asked: it reads `/`.
    pub host_root: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self { nvml: true, nvml_library: None, host_root: PathBuf::from("/") }
    }
}

impl Source {
    /// Reads the command line's form: nothing for the live host, `synthetic:…`, else a path.
    pub fn parse(text: Option<&str>) -> Self {
        match text {
            None => Self::Live,
            Some(text) => match text.strip_prefix("synthetic:") {
                Some(description) => Self::Synthetic(description.to_owned()),
                None => Self::File(PathBuf::from(text)),
            },
        }
    }
}

/// Reads the machine that `source` describes.
pub fn discover(source: &Source, options: &Options) -> Result<Found, DiscoveryError> {
    match source {
        Source::Live => hwloc::live(options),
        Source::Synthetic(description) => hwloc::synthetic(description),
        Source::File(path) => read_path(path),
    }
}

fn read_path(path: &Path) -> Result<Found, DiscoveryError> {
    let unreadable = |source| DiscoveryError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Tree::open(path)?.read();
    }
    let limit_mib = machine_file::LIMIT_MIB.max(hwloc_xml::LIMIT_MIB);
    let mut bytes = Vec::new();
    fs::File::open(path)
        .map_err(unreadable)?
        .take((limit_mib << 20) + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    // The name decides where it says something, so that an empty or cut file is reported as what it should have been.
    let extension = path.extension().map(std::ffi::OsStr::to_ascii_lowercase);
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    let json = match extension.as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("json") => true,
        Some("xml") => false,
        _ => match first {
            Some(b'{') => true,
            Some(b'<') => false,
            _ => return Err(DiscoveryError::UnknownKind(path.to_owned())),
        },
    };
    if json { machine_file::parse(&bytes, path) } else { hwloc_xml::parse(&bytes, path) }
}
