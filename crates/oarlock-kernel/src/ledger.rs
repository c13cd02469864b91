//! The ledger folder: what was planned for each managed container of this host, for agent, hook and command line alike.
//!
//! ```text
//! /run/oarlock/ledger.lock      held (flock) by whoever plans and writes
//! /run/oarlock/ledger/ID.json   one entry per container, replaced whole
//! /run/oarlock/ledger/.new      the entry that is being written
//! ```
//!
//! It holds plans, and never what is so at the moment: which process is which rank, and whether it is held, is read from
//! the kernel. It is a cache: whoever deletes it loses nothing that the runtime and the cgroup tree do not tell again.
//! Nothing is synced to a disk, as nothing of it counts after a boot: an entry names the boot that it is of.

mod entry;
mod lock;
mod read;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use entry::{Before, ContainerSets, Entry, Pod, Source, boot_id};
pub use lock::Locked;
pub use read::{Contents, Reader};

/// The longest container id.
const LONGEST_ID: usize = 128;

/// A living agent looks so often for what was unpinned by hand: whoever marks an entry waits a little longer before undoing
/// what the agent did.
pub const HEEDED_EVERY: Duration = Duration::from_millis(100);

/// Where the ledger is.
#[derive(Debug, Clone)]
pub struct LedgerFolder {
    folder: PathBuf,
    lock: PathBuf,
}

/// Why the ledger, or one entry of it, cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// An id that is none of a container.
    #[error(
        "{:?} is no container id: that is 1 to {LONGEST_ID} letters, digits, '_', '-' and '.', the first a letter or digit",
        id.chars().take(LONGEST_ID).collect::<String>()
    )]
    NoId {
        /// The id.
        id: String,
    },
    /// A file that is no entry.
    #[error("\"{}\" is no ledger entry", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong in it, and where.
        source: serde_json::Error,
    },
    /// A file that holds the entry of another container than its name says.
    #[error("\"{}\" is no ledger entry: it holds container {id:?}", path.display())]
    Misnamed {
        /// The file.
        path: PathBuf,
        /// The container that it holds.
        id: String,
    },
    /// A file longer than any entry.
    #[error("\"{}\" is no ledger entry: it is longer than {limit} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The length of the longest possible entry.
        limit: u64,
    },
    /// Another process holds the lock.
    #[error("\"{}\" has been held by another process for {patience:?}", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
        /// How long this one waited.
        patience: Duration,
    },
    /// The kernel refused or failed.
    #[error("failed to {what} \"{}\"", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl LedgerFolder {
    /// The ledger in a run folder (`/run/oarlock`). Nothing has to be there yet.
    pub fn in_run_dir(run_dir: &Path) -> Self {
        Self { folder: run_dir.join("ledger"), lock: run_dir.join("ledger.lock") }
    }

    /// Takes the lock, and waits so long at most for another process to give it back. Who decides from what the ledger
    /// holds reads it after this, and writes before the lock is dropped.
    pub fn lock(&self, patience: Duration) -> Result<Locked, LedgerError> {
        Locked::take(self, patience)
    }

    /// A reader, for entries of this boot ([`boot_id`]). It takes no lock: every entry is whole at any time.
    pub fn reader(&self, boot: impl Into<String>) -> Reader {
        Reader::new(self.folder.clone(), boot.into())
    }

    /// The file of a container, by its id, which anybody may have made up.
    fn file_name(id: &str) -> Result<String, LedgerError> {
        if is_id(id) { Ok(format!("{id}.json")) } else { Err(LedgerError::NoId { id: id.to_owned() }) }
    }
}

/// What runtimes give as ids, and nothing that could be a path, hidden, or a list.
fn is_id(id: &str) -> bool {
    id.len() <= LONGEST_ID
        && id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

fn failed(what: &'static str, path: &Path, source: impl Into<io::Error>) -> LedgerError {
    LedgerError::Io { what, path: path.to_owned(), source: source.into() }
}

#[cfg(test)]
mod tests;
