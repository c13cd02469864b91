//! Where containers are in the cgroup tree, and what is in effect there.

use std::collections::BTreeMap;
use std::path::Path;

use oarlock_core::{CpuSet, NodeSet};
use oarlock_kernel::cgroup::Hierarchy;
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
        Ok(Self { hierarchy, proc: Proc::open(&host_root.join("proc"))? })
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

    /// Whether there are processes in this cgroup or below it.
    pub(crate) fn has_processes(&self, path: &str) -> bool {
        let cgroup = self.hierarchy.as_ref().and_then(|hierarchy| hierarchy.cgroup(path).ok().flatten());
        let processes = cgroup.and_then(|cgroup| cgroup.processes_below().ok().flatten());
        processes.is_some_and(|processes| !processes.is_empty())
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

/// The path below the tree's root of a cgroup that a runtime names: a path, or with systemd's driver a slice, or
/// `slice:prefix:name` for a scope (`runc`'s form, which every runtime took over).
pub(crate) fn path(name: &str) -> String {
    if let Some((slice, scope)) = name.split_once(':')
        && let Some((prefix, name)) = scope.split_once(':')
    {
        let scope = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
        return format!("{}/{scope}", slice_path(slice.strip_suffix(".slice").unwrap_or(slice)));
    }
    if let Some(slice) = name.strip_suffix(".slice").filter(|slice| !slice.contains('/')) {
        return slice_path(slice);
    }
    format!("/{}", name.trim_matches('/'))
}

/// Slice `a-b` is below slice `a` (`systemd.slice(5)`).
fn slice_path(name: &str) -> String {
    if name.is_empty() || name == "-" {
        return String::new();
    }
    let ends = name.match_indices('-').map(|(end, _)| end).chain([name.len()]);
    ends.flat_map(|end| ["/", &name[..end], ".slice"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_either_cgroup_driver_are_paths_in_the_tree() {
        for (name, expected) in [
            ("/kubepods/burstable/pod1/abc", "/kubepods/burstable/pod1/abc"),
            ("kubepods/pod1", "/kubepods/pod1"),
            (
                "kubepods-burstable-pod1_2.slice:cri-containerd:abc",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-abc.scope",
            ),
            ("system.slice::abc", "/system.slice/abc.scope"),
            ("-.slice:crio:abc", "/crio-abc.scope"),
            ("kubepods-pod1.slice", "/kubepods.slice/kubepods-pod1.slice"),
            ("", "/"),
        ] {
            assert_eq!(path(name), expected, "{name:?}");
        }
    }
}
