//! Reading: only what changed since the last time.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use oarlock_core::ledger::{Holding, Ledger};
use rustix::fs::{Mode, OFlags};

use super::{Entry, LedgerError, failed, is_id};

/// The longest entry: 8,192 ranks, each with a list of its own.
const LIMIT: u64 = 16 << 20;
/// A folder that changes twice in one tick of the file system's clock shows one time of change: a time so near is not
/// trusted. Ticks last 10 ms at most.
const SETTLED: Duration = Duration::from_millis(100);

/// Reads the ledger again and again, and each time only what changed.
#[derive(Debug)]
pub struct Reader {
    folder: PathBuf,
    boot: String,
    /// The folder as it was read last, where any later change shows in this.
    pub(super) seen: Option<Stamp>,
    contents: Contents,
}

/// What the ledger holds.
#[derive(Debug, Default)]
pub struct Contents {
    /// By container id.
    files: BTreeMap<String, (Stamp, State)>,
}

#[derive(Debug)]
enum State {
    Entry(Box<Entry>),
    /// Of another boot: its container is gone.
    Stale,
    Fault(LedgerError),
}

/// What changes whenever a file or folder does. A file that is replaced is another inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Contents {
    /// The entry of a container.
    pub fn get(&self, id: &str) -> Option<&Entry> {
        self.files.get(id).and_then(|(_, state)| state.entry())
    }

    /// The entries of this boot, by container id.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.files.values().filter_map(|(_, state)| state.entry())
    }

    /// The ids of the containers whose entries are of another boot: they are to be removed.
    pub fn stale(&self) -> impl Iterator<Item = &str> {
        self.files.iter().filter(|(_, (_, state))| matches!(state, State::Stale)).map(|(id, _)| id.as_str())
    }

    /// The files that are no entries, by the container's id in their name, and why.
    pub fn faults(&self) -> impl Iterator<Item = (&str, &LedgerError)> {
        self.files.iter().filter_map(|(id, (_, state))| match state {
            State::Fault(error) => Some((id.as_str(), error)),
            State::Entry(_) | State::Stale => None,
        })
    }

    /// How long ago the entry of a container was written; `None` where there is none, or the clock was set back since.
    pub fn age(&self, id: &str) -> Option<Duration> {
        let (stamp, _) = self.files.get(id)?;
        let (seconds, nanoseconds) = stamp.modified;
        let written = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanoseconds).ok()?);
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.checked_sub(written)
    }

    /// Who holds CPUs exclusively, for the planner of container `planned`, whose own holding is not in its way.
    pub fn holdings(&self, planned: &str) -> Ledger {
        let holders =
            self.entries().filter(|entry| !entry.exclusive.is_empty() && !entry.unpinned && entry.id != planned);
        let holding = |entry: &Entry| Holding {
            holder: format!("{}/{}/{}", entry.pod.namespace, entry.pod.name, entry.name),
            cpus: entry.exclusive.clone(),
        };
        Ledger { holdings: holders.map(holding).collect() }
    }
}

impl State {
    fn entry(&self) -> Option<&Entry> {
        match self {
            Self::Entry(entry) => Some(entry),
            Self::Stale | Self::Fault(_) => None,
        }
    }
}

impl Reader {
    pub(super) fn new(folder: PathBuf, boot: String) -> Self {
        Self { folder, boot, seen: None, contents: Contents::default() }
    }

    /// What the ledger holds now. Where nothing changed since the last time, this is one `stat` of the folder.
    pub fn read(&mut self) -> Result<&Contents, LedgerError> {
        let folder = match fs::metadata(&self.folder) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (self.seen, self.contents) = (None, Contents::default());
                return Ok(&self.contents);
            }
            Err(error) => return Err(failed("read", &self.folder, error)),
        };
        let stamp = Stamp::of(&folder);
        if self.seen != Some(stamp) {
            // Before the files, so that what changes while they are read is read the next time.
            let settled = folder.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            self.seen = settled.filter(|&age| age > SETTLED).map(|_| stamp);
            self.read_files()?;
        }
        Ok(&self.contents)
    }

    fn read_files(&mut self) -> Result<(), LedgerError> {
        let mut before = std::mem::take(&mut self.contents.files);
        let unreadable = |error| failed("read", &self.folder, error);
        for item in fs::read_dir(&self.folder).map_err(unreadable)? {
            let item = item.map_err(unreadable)?;
            let name = item.file_name();
            let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".json")).filter(|id| is_id(id)) else {
                continue;
            };
            let stamp = match item.metadata() {
                Ok(metadata) => Stamp::of(&metadata),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("read", &item.path(), error)),
            };
            let state = match before.remove(id) {
                Some((seen, state)) if seen == stamp => state,
                _ => match read(&item.path(), id) {
                    Ok(Some(entry)) if entry.boot == self.boot => State::Entry(entry),
                    Ok(Some(_)) => State::Stale,
                    Ok(None) => continue,
                    Err(error) => State::Fault(error),
                },
            };
            self.contents.files.insert(id.to_owned(), (stamp, state));
        }
        Ok(())
    }
}

/// Reads one file; `None` where it is gone.
fn read(path: &Path, id: &str) -> Result<Option<Box<Entry>>, LedgerError> {
    // What is no file shall neither be followed nor waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => fs::File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(failed("read", path, errno)),
    };
    let mut text = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut text).map_err(|error| failed("read", path, error))?;
    if text.len() as u64 > LIMIT {
        return Err(LedgerError::TooLong { path: path.to_owned(), limit: LIMIT });
    }
    let entry: Entry =
        serde_json::from_slice(&text).map_err(|source| LedgerError::Malformed { path: path.to_owned(), source })?;
    if entry.id != id {
        return Err(LedgerError::Misnamed { path: path.to_owned(), id: entry.id });
    }
    Ok(Some(Box::new(entry)))
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}
