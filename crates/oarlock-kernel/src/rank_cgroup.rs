//! Rank cgroups: the wall around one rank, a threaded cgroup below its container's.
//!
//! A container's cgroup that holds ranks looks so (`Documentation/admin-guide/cgroup-v2.rst`, "Threads"):
//!
//! ```text
//! cri-containerd-….scope        cgroup.type domain threaded, cgroup.subtree_control cpuset: helpers and the launcher
//! ├── oarlock-rank-0            cgroup.type threaded, cpuset.cpus, cpuset.mems: all threads of rank 0
//! └── oarlock-rank-1            …
//! ```
//!
//! Limits of memory and of process numbers stay the container's, and the runtime removes the tree with the container.
//! What is written here outlives whoever writes it: a rank stays held when the agent dies.
//!
//! Some containers cannot hold ranks, above all those that manage sub-cgroups of their own: [`RankCgroupError::CannotHold`]
//! says so, and nothing of them is changed. A container that holds ranks, and can write its cgroups, can make sub-cgroups
//! all the same, but the kernel lets no process into them (`EOPNOTSUPP`) until the ranks are let go.
//!
//! What the kernel does with them, each tried in `live.rs`:
//!
//! - cpusets may be wider on paper than in effect: CPUs and nodes that the container does not have are accepted and not given.
//!   Where it has none of them, the kernel gives the container's; [`RankCgroups::hold`] reads back what is in effect.
//! - when the container is narrowed later, what is in effect narrows at once, and widens again with the container.
//! - pages move with a process that moves, and when `cpuset.mems` changes, before the call returns.
//! - Linux 6.1 does not let a cgroup with processes go back to having no cpuset of its own: it is then given all there is.
//! - a process that has ended, and was not waited for, is not moved, and the kernel says nothing.

mod error;
mod let_go;

use std::collections::BTreeSet;
use std::io;

use oarlock_core::request::MAX_RANKS;
use oarlock_core::{CpuSet, NodeSet};
use rustix::io::Errno;

use crate::cgroup::{Cgroup, CgroupType, Hierarchy, WriteError};
use crate::folder::{ReadError, gone};
use crate::proc::{Live, Proc, Process};

pub use error::RankCgroupError;

/// What the names of rank cgroups begin with; the rank's number follows.
pub const PREFIX: &str = "oarlock-rank-";

/// What a rank is held to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wall {
    /// Its CPUs; `None`: all of the container's.
    pub cpus: Option<CpuSet>,
    /// Its memory nodes; `None`: all of the container's.
    pub mems: Option<NodeSet>,
}

/// What is in effect in a rank cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// `cpuset.cpus.effective`.
    pub cpus: CpuSet,
    /// `cpuset.mems.effective`.
    pub mems: NodeSet,
}

/// The rank cgroups of one container.
#[derive(Debug)]
pub struct RankCgroups<'a> {
    hierarchy: &'a Hierarchy,
    container: Cgroup,
    /// As `/proc/PID/cgroup` names the container's cgroup.
    path: String,
}

/// The rank that a process at `path` is held as, both paths as in `/proc/PID/cgroup`; `None` where it is in no rank
/// cgroup of this container.
pub fn rank_at(container: &str, path: &str) -> Option<u32> {
    split(path).filter(|(parent, _)| *parent == container).map(|(_, rank)| rank)
}

/// The container's cgroup and the rank that a rank cgroup's path names; `None` for the path of another cgroup.
pub fn split(path: &str) -> Option<(&str, u32)> {
    let (container, name) = path.rsplit_once('/')?;
    Some((container, rank_named(name)?))
}

/// Only the very name that is given to a rank: no sign, no zeros before it.
fn rank_named(name: &str) -> Option<u32> {
    let number = name.strip_prefix(PREFIX)?;
    let rank = number.parse().ok().filter(|&rank| rank < MAX_RANKS)?;
    (name_of(rank) == name).then_some(rank)
}

fn name_of(rank: u32) -> String {
    format!("{PREFIX}{rank}")
}

impl Hierarchy {
    /// The rank cgroups of the container whose processes are in the cgroup `path` (a [`unified`] path): of its first
    /// process, as some runtimes put a container's processes into a sub-cgroup of what they were told. `None` where there
    /// is no such cgroup.
    ///
    /// [`unified`]: crate::cgroup::Membership::unified
    pub fn ranks_of(&self, path: &str) -> Result<Option<RankCgroups<'_>>, ReadError> {
        let path = format!("/{}", path.trim_matches('/'));
        Ok(self.cgroup(&path)?.map(|container| RankCgroups { hierarchy: self, container, path }))
    }
}

impl RankCgroups<'_> {
    /// The container's cgroup.
    pub fn container(&self) -> &Cgroup {
        &self.container
    }

    /// The ranks that have a cgroup, ascending.
    pub fn ranks(&self) -> Result<Vec<u32>, ReadError> {
        let names = self.container.folder.folders()?;
        let mut ranks: Vec<u32> = names.iter().filter_map(|name| rank_named(name.to_str()?)).collect();
        ranks.sort_unstable();
        Ok(ranks)
    }

    /// The cgroup of a rank; `None` where it has none.
    pub fn rank(&self, rank: u32) -> Result<Option<Cgroup>, ReadError> {
        Ok(self.container.folder.below(name_of(rank).as_ref())?.map(|folder| Cgroup { folder }))
    }

    /// The processes that have a thread in the rank's cgroup, ascending. The kernel lists the threads there, and not the
    /// processes: `proc` tells whose they are.
    pub fn processes(&self, rank: u32, proc: &Proc) -> Result<Vec<u32>, ReadError> {
        let Some(cgroup) = self.rank(rank)? else { return Ok(Vec::new()) };
        let mut processes = BTreeSet::new();
        for tid in cgroup.threads()?.unwrap_or_default() {
            if !processes.contains(&tid)
                && let Some(thread) = proc.process(tid)?
                && let Live::Here(status) = thread.status()?
            {
                processes.insert(status.process);
            }
        }
        Ok(processes.into_iter().collect())
    }

    /// Makes the rank's cgroup where there is none, and gives it this wall: before its first process is taken in, and again
    /// whenever the wall changes. Returns what is in effect, which may be a part of the wall.
    pub fn hold(&self, rank: u32, wall: &Wall) -> Result<Live<Held>, RankCgroupError> {
        if rank >= MAX_RANKS {
            return Err(RankCgroupError::OutOfRange { rank });
        }
        let (cgroup, is_new) = match self.rank(rank)? {
            Some(cgroup) => (cgroup, false),
            None => match self.make(rank)? {
                Live::Here(cgroup) => (cgroup, true),
                Live::Vanished => return Ok(Live::Vanished),
            },
        };
        let held = self.raise(&cgroup, wall);
        // Without its wall an empty rank cgroup is of no use, and the container is to be as it was.
        if is_new && !matches!(held, Ok(Live::Here(_))) {
            drop(self.remove_empty(rank));
            drop(self.leave(true));
        }
        held
    }

    /// Takes a process with all its threads into the rank's cgroup, which [`hold`](Self::hold) has made. Its pages move to
    /// the rank's nodes before this returns.
    ///
    /// The kernel is told a number. A process that ended may have left its number to another one: so the process is
    /// looked at before and after, and a stranger that was moved goes back to where its parent is.
    pub fn take(&self, rank: u32, process: &Process, proc: &Proc) -> Result<Live<()>, RankCgroupError> {
        self.take_after(|| (), rank, process, proc)
    }

    /// `look_away` is what happens between looking and moving.
    fn take_after(
        &self,
        look_away: impl FnOnce(),
        rank: u32,
        process: &Process,
        proc: &Proc,
    ) -> Result<Live<()>, RankCgroupError> {
        let target = format!("{}/{}", self.path, name_of(rank));
        let Live::Here(before) = place_of(process)? else { return Ok(Live::Vanished) };
        if before == target {
            return Ok(Live::Here(()));
        }
        if before != self.path && rank_at(&self.path, &before).is_none() {
            return Err(self.of_another(process, before));
        }
        let Some(cgroup) = self.rank(rank)? else { return Ok(Live::Vanished) };
        look_away();
        let moved = cgroup.write("cgroup.procs", &process.pid().to_string())?;
        if moved == Live::Vanished {
            return Ok(Live::Vanished);
        }
        match place_of(process)? {
            // As long as it is there its number is its own.
            Live::Here(after) if after == target => Ok(Live::Here(())),
            // The kernel leaves a process that has ended where it was, and says nothing.
            Live::Here(_) if has_ended(process)? => Ok(Live::Vanished),
            Live::Here(after) => Err(self.of_another(process, after)),
            Live::Vanished => {
                self.bring_back(process.pid(), &target, proc)?;
                Ok(Live::Vanished)
            }
        }
    }

    fn make(&self, rank: u32) -> Result<Live<Cgroup>, RankCgroupError> {
        let Live::Here(()) = self.check()? else { return Ok(Live::Vanished) };
        match self.container.folder.make_folder(&name_of(rank)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) if gone(errno) => return Ok(Live::Vanished),
            Err(errno) => {
                let why = match errno {
                    Errno::AGAIN => "its cgroup.max.descendants or cgroup.max.depth, or one above it, is reached",
                    Errno::ACCESS | Errno::PERM | Errno::ROFS => {
                        "the cgroup tree can be written by root on the host only"
                    }
                    _ => "no sub-cgroup can be made",
                };
                return Err(self.cannot(why, Some(errno.into())));
            }
        }
        Ok(self.rank(rank)?.map_or(Live::Vanished, Live::Here))
    }

    /// What makes a container unfit, as far as it can be seen before anything is changed. The kernel knows the rest.
    fn check(&self) -> Result<Live<()>, RankCgroupError> {
        if self.path == "/" {
            return Err(self.cannot("the root of the tree is no container", None));
        }
        match self.container.kind()? {
            None => return Ok(Live::Vanished),
            Some(CgroupType::Domain | CgroupType::DomainThreaded) => {}
            Some(CgroupType::Threaded | CgroupType::DomainInvalid) => {
                return Err(self.cannot("it is itself part of a threaded subtree", None));
            }
        }
        let controllers = self.container.controllers()?.unwrap_or_default();
        if !controllers.iter().any(|name| name == "cpuset") {
            return Err(self.cannot("the controller cpuset is not enabled in it", None));
        }
        let names = self.container.folder.folders()?;
        if let Some(other) = names.iter().find(|name| name.to_str().and_then(rank_named).is_none()) {
            let why = format!("it has sub-cgroups of its own ({:?})", other.to_string_lossy());
            return Err(self.cannot(why, None));
        }
        Ok(Live::Here(()))
    }

    fn raise(&self, cgroup: &Cgroup, wall: &Wall) -> Result<Live<Held>, RankCgroupError> {
        // Another may have died between making the cgroup and making it threaded.
        if cgroup.kind()? != Some(CgroupType::Threaded) {
            match cgroup.write("cgroup.type", "threaded") {
                Ok(Live::Here(())) => {}
                Ok(Live::Vanished) => return Ok(Live::Vanished),
                Err(error) => return Err(self.unfit(error)),
            }
        }
        let enabled = self.container.subtree_control()?.unwrap_or_default();
        if !enabled.iter().any(|name| name == "cpuset") {
            match self.container.write("cgroup.subtree_control", "+cpuset") {
                Ok(Live::Here(())) => {}
                Ok(Live::Vanished) => return Ok(Live::Vanished),
                Err(error) => return Err(self.unfit(error)),
            }
        }
        let (cpus, mems) = (wall.cpus.clone().unwrap_or_default(), wall.mems.clone().unwrap_or_default());
        if cgroup.cpus()?.as_ref() != Some(&cpus) && self.hierarchy.set_cpus(cgroup, &cpus)? == Live::Vanished {
            return Ok(Live::Vanished);
        }
        if cgroup.mems()?.as_ref() != Some(&mems) && self.hierarchy.set_mems(cgroup, &mems)? == Live::Vanished {
            return Ok(Live::Vanished);
        }
        let (Some(got_cpus), Some(got_mems)) = (cgroup.cpus_effective()?, cgroup.mems_effective()?) else {
            return Ok(Live::Vanished);
        };
        let not_given = |file: &str, wanted: String, got: String| {
            Err(RankCgroupError::NotGiven { path: cgroup.path().join(file), wanted, got })
        };
        if !cpus.is_empty() && !got_cpus.is_subset(&cpus) {
            return not_given("cpuset.cpus", cpus.to_string(), got_cpus.to_string());
        }
        if !mems.is_empty() && !got_mems.is_subset(&mems) {
            return not_given("cpuset.mems", mems.to_string(), got_mems.to_string());
        }
        Ok(Live::Here(Held { cpus: got_cpus, mems: got_mems }))
    }

    /// The kernel's answer to making a subtree threaded, as a property of the container where it is one.
    fn unfit(&self, error: WriteError) -> RankCgroupError {
        let why = match error.errno() {
            Some(Errno::OPNOTSUPP) => {
                "it enables controllers for sub-cgroups of its own that a threaded one cannot have"
            }
            Some(Errno::BUSY) => "the controller cpuset cannot be enabled below it",
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {
                "the cgroup tree can be written by root on the host only"
            }
            _ => return error.into(),
        };
        self.cannot(why, Some(error.source))
    }

    fn cannot(&self, why: impl Into<String>, source: Option<io::Error>) -> RankCgroupError {
        RankCgroupError::CannotHold { path: self.container.path().to_owned(), why: why.into(), source }
    }

    fn of_another(&self, process: &Process, cgroup: String) -> RankCgroupError {
        RankCgroupError::OfAnother { pid: process.pid(), cgroup, container: self.container.path().to_owned() }
    }

    /// A process that got the number of one that ended, and was moved here in its place: it has just been started, and so
    /// belongs where its parent is.
    fn bring_back(&self, pid: u32, target: &str, proc: &Proc) -> Result<(), RankCgroupError> {
        let Some(stranger) = proc.process(pid)? else { return Ok(()) };
        let Live::Here(place) = place_of(&stranger)? else { return Ok(()) };
        let Live::Here(status) = stranger.status()? else { return Ok(()) };
        let Some(parent) = proc.process(status.parent)? else { return Ok(()) };
        let Live::Here(home) = place_of(&parent)? else { return Ok(()) };
        if place == target
            && home != target
            && let Some(home) = self.hierarchy.cgroup(&home)?
        {
            home.write("cgroup.procs", &pid.to_string())?;
        }
        Ok(())
    }
}

/// Where the process is in the v2 hierarchy.
fn place_of(process: &Process) -> Result<Live<String>, ReadError> {
    Ok(match process.cgroup()? {
        Live::Here(membership) => Live::Here(membership.and_then(|at| at.unified).unwrap_or_default()),
        Live::Vanished => Live::Vanished,
    })
}

fn has_ended(process: &Process) -> Result<bool, ReadError> {
    Ok(process.status()?.here().is_none_or(|status| status.is_zombie()))
}

#[cfg(test)]
mod live;
#[cfg(test)]
mod tests;
