//! Writing: under the one lock, an entry at a time, each replaced whole.

use std::fs;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{Entry, LedgerError, LedgerFolder, failed};

/// The entry that is being written. No container has this id.
const NEW: &str = ".new";
/// `flock` itself waits for ever, so that it is asked again and again.
const PAUSE: Duration = Duration::from_millis(2);

/// The lock of the ledger, held until this is dropped. The kernel gives it back for a process that dies.
#[derive(Debug)]
pub struct Locked {
    _lock: OwnedFd,
    folder: PathBuf,
}

impl Locked {
    pub(super) fn take(ledger: &LedgerFolder, patience: Duration) -> Result<Self, LedgerError> {
        let path = &ledger.lock;
        fs::create_dir_all(&ledger.folder).map_err(|error| failed("make", &ledger.folder, error))?;
        let deadline = Instant::now() + patience;
        loop {
            // Whoever may open it may hold it: root alone.
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let lock = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600));
            let lock = lock.map_err(|errno| failed("open", path, errno))?;
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let ours = rustix::fs::fstat(&lock).map_err(|errno| failed("open", path, errno))?;
                    // The run folder may have been removed meanwhile, and others hold what stands at its place now.
                    if fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.st_dev, ours.st_ino)) {
                        return Ok(Self { _lock: lock, folder: ledger.folder.clone() });
                    }
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(errno) => return Err(failed("lock", path, errno)),
            }
            if Instant::now() >= deadline {
                return Err(LedgerError::Busy { path: path.clone(), patience });
            }
            thread::sleep(PAUSE);
        }
    }

    /// Writes the entry in place of the one that the container had.
    pub fn put(&self, entry: &Entry) -> Result<(), LedgerError> {
        let path = self.folder.join(LedgerFolder::file_name(&entry.id)?);
        let new = self.folder.join(NEW);
        let text = serde_json::to_vec(entry);
        let text = text.map_err(|source| LedgerError::Malformed { path: path.clone(), source })?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(&new, flags, Mode::from_raw_mode(0o644));
        let mut file = fs::File::from(file.map_err(|errno| failed("write", &new, errno))?);
        file.write_all(&text).map_err(|error| failed("write", &new, error))?;
        fs::rename(&new, &path).map_err(|error| failed("write", &path, error))
    }

    /// Removes the entry of a container; whether there was one.
    pub fn remove(&self, id: &str) -> Result<bool, LedgerError> {
        let path = self.folder.join(LedgerFolder::file_name(id)?);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed("remove", &path, error)),
        }
    }
}
