//! Where containers are in the cgroup tree, and what is in effect there.

use std::collections::BTreeMap;
use std::path::Path;

use oarlock_core::{CpuSet, NodeSet};
use oarlock_kernel::cgroup::Hierarchy;
pub(crate) use oarlock_kernel::cgroup::path_named as path;
use oarlock_kernel::ledger::Before;
use oarlock_kernel::{Proc, ReadError};

/// The cgroup tree and the processes of this host. Without cgroup v2 nothing is known of the tree.
#[derive(Debug)]
pub(crate) struct Cgroups {
    hierarchy: Option<Hierarchy>,
    proc: Proc,
}

impl Cgroups {
    /// Those below this root.
    pub(crate) fn open(host_root: &Path) -> Result<Self, ReadError> {
        let hierarchy = Hierarchy::open(&host_root.join("sys/fs/cgroup")).ok().flatten();
        let mut proc = Proc::open(&host_root.join("proc"))?;
        if let Some(tree) = &hierarchy {
            proc = proc.with_whole_paths(tree)?;
        }
        Ok(Self { hierarchy, proc })
    }

    /// A tree that looks like one, and this host's processes.
    #[cfg(test)]
    pub(crate) fn in_folder(tree: &Path) -> Self {
        let hierarchy = Hierarchy::open_any_folder(tree).ok().flatten();
        Self { hierarchy, proc: Proc::open(Path::new("/proc")).unwrap() }
    }

    /// What processes in this cgroup may use, as far as the kernel says.
    pub(crate) fn in_effect(&self, path: &str) -> (Option<CpuSet>, Option<NodeSet>) {
        let cgroup = self.hierarchy.as_ref().and_then(|hierarchy| hierarchy.cgroup(path).ok().flatten());
        let Some(cgroup) = cgroup else { return (None, None) };
        let cpus = cgroup.cpus_effective().ok().flatten().filter(|cpus| !cpus.is_empty());
        let mems = cgroup.mems_effective().ok().flatten().filter(|mems| !mems.is_empty());
        (cpus, mems)
    }

    /// The cpuset that was written to this cgroup, as far as the kernel says.
    pub(crate) fn own_sets(&self, path: &str) -> Option<Before> {
        let cgroup = self.hierarchy.as_ref()?.cgroup(path).ok()??;
        Some(Before {
            cpus: cgroup.cpus().ok()?.filter(|cpus| !cpus.is_empty()),
            mems: cgroup.mems().ok()?.filter(|mems| !mems.is_empty()),
        })
    }

    /// Whether there are processes in this cgroup or below it.
    pub(crate) fn has_processes(&self, path: &str) -> bool {
        let cgroup = self.hierarchy.as_ref().and_then(|hierarchy| hierarchy.cgroup(path).ok().flatten());
        let processes = cgroup.and_then(|cgroup| cgroup.processes_below().ok().flatten());
        processes.is_some_and(|processes| !processes.is_empty())
    }

    /// Whether there is no such cgroup (any more), as far as the kernel says.
    pub(crate) fn is_gone(&self, path: &str) -> bool {
        self.hierarchy.as_ref().is_some_and(|hierarchy| matches!(hierarchy.cgroup(path), Ok(None)))
    }

    /// The own memory of the processes in this cgroup and below it, in bytes by node, as far as the kernel says.
    pub(crate) fn memory(&self, path: &str) -> Option<BTreeMap<u32, u64>> {
        self.hierarchy.as_ref()?.cgroup(path).ok()??.anon_by_node().ok()?
    }

    /// The cgroup of a process.
    pub(crate) fn of_process(&self, pid: u32) -> Option<String> {
        self.proc.process(pid).ok().flatten()?.cgroup().ok()?.here()??.unified
    }
}
