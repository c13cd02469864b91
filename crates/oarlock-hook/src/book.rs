//! The ledger, held: who has what on this host, and what is written there of this container.

use std::time::Duration;

use oarlock_kernel::cgroup::Hierarchy;
use oarlock_kernel::ledger::{Contents, Entry, LedgerError, Locked, Reader, Source};

use crate::failure::{Failure, LEDGER_PATIENCE};
use crate::host::Host;

/// A runtime starts a container so long after its configuration was edited, at most: what has no cgroup then has failed.
const PENDING: Duration = Duration::from_secs(120);

/// The ledger, locked until this is dropped.
#[derive(Debug)]
pub(crate) struct Book {
    locked: Locked,
    reader: Reader,
}

impl Book {
    /// Waits for the lock, for a bounded time.
    pub(crate) fn open(host: &Host, boot: &str) -> Result<Self, LedgerError> {
        let ledger = host.ledger();
        let locked = ledger.lock(LEDGER_PATIENCE)?;
        Ok(Self { locked, reader: ledger.reader(boot) })
    }

    /// What is in it, once what is over was removed: entries of other boots, and those of the hook whose container is gone
    /// without a word or never came. `hierarchy` tells whether a cgroup is still there.
    pub(crate) fn contents(&mut self, hierarchy: Option<&Hierarchy>) -> Result<&Contents, Failure> {
        let contents = self.reader.read()?;
        let is_over = |entry: &&Entry| {
            entry.source == Source::Hook
                && match &entry.cgroup {
                    Some(cgroup) => hierarchy.is_some_and(|tree| matches!(tree.cgroup(cgroup), Ok(None))),
                    None => contents.age(&entry.id).is_some_and(|age| age > PENDING),
                }
        };
        let over = contents.entries().filter(is_over).map(|entry| entry.id.as_str());
        let over: Vec<String> = over.chain(contents.stale()).map(str::to_owned).collect();
        for id in &over {
            self.locked.remove(id)?;
        }
        Ok(self.reader.read()?)
    }

    pub(crate) fn put(&self, entry: &Entry) -> Result<(), LedgerError> {
        self.locked.put(entry)
    }

    /// Removes what the hook wrote of a container; what was written, where it was something.
    pub(crate) fn remove(&mut self, id: &str) -> Result<Option<Entry>, LedgerError> {
        let entry = self.reader.read()?.get(id).filter(|entry| entry.source == Source::Hook).cloned();
        if entry.is_some() {
            self.locked.remove(id)?;
        }
        Ok(entry)
    }
}
