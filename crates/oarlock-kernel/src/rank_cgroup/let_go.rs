//! Taking rank cgroups away again.

use rustix::io::Errno;

use super::{RankCgroupError, RankCgroups, name_of};
use crate::folder::{ReadError, gone};

/// A rank that starts processes faster than they are moved out of its cgroup is given up after so many moves.
pub(super) const MOST_MOVES: u32 = 100_000;

impl RankCgroups<'_> {
    /// Moves every process of every rank back into the container's cgroup, and removes the rank cgroups. Returns the ranks
    /// that had one. Their pages move to the container's nodes only where they may not stay; their threads get the
    /// container's CPUs, except for those that bound themselves.
    pub fn let_go(&self) -> Result<Vec<u32>, RankCgroupError> {
        let ranks = self.ranks()?;
        for &rank in &ranks {
            self.empty(rank)?;
        }
        self.leave(!ranks.is_empty())?;
        Ok(ranks)
    }

    fn empty(&self, rank: u32) -> Result<(), RankCgroupError> {
        let Some(cgroup) = self.rank(rank)? else { return Ok(()) };
        for _ in 0..MOST_MOVES {
            match cgroup.threads()?.unwrap_or_default().first() {
                // The number of any thread moves its whole process.
                Some(tid) => {
                    self.container.write("cgroup.procs", &tid.to_string())?;
                }
                None if self.remove_empty(rank)? => return Ok(()),
                None => {}
            }
        }
        Err(RankCgroupError::Unending { path: cgroup.path().to_owned() })
    }

    /// Whether the rank's cgroup is gone now; not where a process came into it.
    pub(super) fn remove_empty(&self, rank: u32) -> Result<bool, RankCgroupError> {
        match self.container.folder.remove_folder(&name_of(rank)) {
            Ok(()) => Ok(true),
            Err(errno) if gone(errno) => Ok(true),
            Err(Errno::BUSY) => Ok(false),
            Err(errno) => {
                let path = self.container.path().join(name_of(rank));
                Err(ReadError::Io { path, source: errno.into() }.into())
            }
        }
    }

    /// Without ranks the container is an ordinary one again: nothing else needs the controller there. Where it had none
    /// (`had_ranks`), and sub-cgroups of its own, it was not enabled here.
    pub(super) fn leave(&self, had_ranks: bool) -> Result<(), RankCgroupError> {
        let enabled = self.container.subtree_control()?.unwrap_or_default();
        let names = self.container.folder.folders()?;
        let is_left = names.is_empty() || (had_ranks && self.ranks()?.is_empty());
        if is_left && enabled.iter().any(|name| name == "cpuset") {
            self.container.write("cgroup.subtree_control", "-cpuset")?;
        }
        Ok(())
    }
}
