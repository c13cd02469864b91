//! Whether an agent runs on this host: it holds a lock (`agent.lock` in the run folder) as long as it lives, which the kernel
//! gives back however it ends.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

const NAME: &str = "agent.lock";

/// The agent is there until this is dropped.
#[derive(Debug)]
pub struct Presence {
    _lock: OwnedFd,
}

impl Presence {
    /// Says that an agent is there. `None` where another one is, which may be about to end, or where somebody asks at this very
    /// moment: to be tried again.
    pub fn announce(run_dir: &Path) -> io::Result<Option<Self>> {
        fs::create_dir_all(run_dir)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = rustix::fs::open(run_dir.join(NAME), flags, Mode::from_raw_mode(0o600))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _lock: lock })),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Whether an agent is there.
pub fn is_there(run_dir: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let Ok(lock) = rustix::fs::open(run_dir.join(NAME), flags, Mode::empty()) else { return false };
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_there_until_it_is_gone_and_there_is_one_only() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = folder.path().join("run");
        assert!(!is_there(&run_dir), "no folder");
        let agent = Presence::announce(&run_dir).unwrap().unwrap();
        assert!(is_there(&run_dir) && is_there(&run_dir), "who asks changes nothing");
        assert!(Presence::announce(&run_dir).unwrap().is_none());
        drop(agent);
        assert!(!is_there(&run_dir));
        assert!(Presence::announce(&run_dir).unwrap().is_some());
    }
}
