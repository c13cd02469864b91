//! Why no machine could be read.

use std::error::Error;
use std::path::{Path, PathBuf};

use oarlock_core::machine::Contradiction;

/// Why a source gives no machine. The text names the path; the cause is the error's source and is not repeated in it.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// A file or folder that should be there cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file that is larger than any machine's description.
    #[error("{} is larger than {limit_mib} MiB, the most that is read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound, in MiB.
        limit_mib: u64,
    },
    /// A kernel file whose text is not what the kernel writes there.
    #[error("{}: \"{text}\" is not {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it holds, cut to one short line.
        text: String,
        /// What it should hold.
        what: &'static str,
        /// What the parser says, where it says more.
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// A folder that is no machine's root.
    #[error("{} holds no sys/devices/system: a folder must be a machine's root, with sys/ and proc/ in it", .0.display())]
    NotATree(PathBuf),
    /// A file of no known kind.
    #[error("{} is neither a machine file (JSON), an hwloc export (XML) nor a folder with sys/", .0.display())]
    UnknownKind(PathBuf),
    /// XML that ends too early.
    #[error("{}:{line}:{column}: the XML is cut here", path.display())]
    XmlCut {
        /// The file.
        path: PathBuf,
        /// The last line, from 1.
        line: usize,
        /// The column after its last character, from 1.
        column: usize,
    },
    /// XML that is malformed; the cause names line and column.
    #[error("{} is not well-formed XML", path.display())]
    Xml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: roxmltree::Error,
    },
    /// XML that is well-formed, and no topology that can be read.
    #[error("{}:{line}:{column}: {message}", path.display())]
    HwlocXml {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u32,
        /// Column, from 1.
        column: u32,
        /// The rule that is broken, with the text that breaks it.
        message: String,
    },
    /// hwloc cannot read the synthetic description.
    #[error(
        "\"synthetic:{description}\" is not a topology in hwloc's synthetic form, like synthetic:node:2 core:4 pu:2"
    )]
    Synthetic {
        /// The description.
        description: String,
        /// hwloc's reason.
        source: Box<dyn Error + Send + Sync>,
    },
    /// hwloc cannot read this host.
    #[error("hwloc cannot read this machine")]
    Hwloc(#[source] Box<dyn Error + Send + Sync>),
    /// A machine file that breaks a rule of the form.
    #[error("{}", path.display())]
    MachineFile {
        /// The file.
        path: PathBuf,
        /// The broken rule.
        source: crate::machine_file::Problem,
    },
    /// The parts of a source contradict each other.
    #[error("{} contradicts itself", .source_name)]
    Contradiction {
        /// The file, folder or other source.
        source_name: String,
        /// The parts.
        source: Contradiction,
    },
}

impl DiscoveryError {
    pub(crate) fn malformed(
        path: &Path,
        text: &str,
        what: &'static str,
        source: impl Into<Option<Box<dyn Error + Send + Sync>>>,
    ) -> Self {
        Self::Malformed { path: path.to_owned(), text: excerpt(text), what, source: source.into() }
    }
}

/// The first line of `text`, cut to a length that fits an error.
pub(crate) fn excerpt(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    let mut short: String = line.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect();
    if line.chars().nth(80).is_some() {
        short.push('…');
    }
    short
}
