//! Writing a cgroup's files.

use std::io;
use std::path::PathBuf;

use oarlock_core::{CpuSet, NodeSet};
use rustix::io::Errno;

use super::Cgroup;
use crate::folder::gone;
use crate::proc::Live;

/// The kernel refused what was written to a cgroup's file.
#[derive(Debug, thiserror::Error)]
#[error("failed to write {value:?} to \"{}\"{}", path.display(), rule.map(|rule| format!(" ({rule})")).unwrap_or_default())]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// What was written.
    pub value: String,
    /// The kernel's rule behind its answer, where the answer leaves no doubt (`Documentation/admin-guide/cgroup-v2.rst`).
    pub rule: Option<&'static str>,
    /// What the kernel said.
    pub source: io::Error,
}

impl WriteError {
    /// The kernel's answer as a number; `None` where it gave none.
    pub(crate) fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.source)
    }
}

impl Cgroup {
    /// Sets `cpuset.cpus`; empty: as the parent has it. CPUs that the parent does not have are accepted, and not given.
    pub fn set_cpus(&self, cpus: &CpuSet) -> Result<Live<()>, WriteError> {
        self.write("cpuset.cpus", &format!("{cpus}\n"))
    }

    /// Sets `cpuset.mems`; empty: as the parent has it. Pages of its processes that are on other nodes are moved before this
    /// returns, which takes as long as it takes.
    pub fn set_mems(&self, mems: &NodeSet) -> Result<Live<()>, WriteError> {
        self.write("cpuset.mems", &format!("{mems}\n"))
    }

    /// Writes one of its files; `Vanished` where the cgroup, or the process that the value names, is gone.
    pub(crate) fn write(&self, name: &'static str, value: &str) -> Result<Live<()>, WriteError> {
        match self.folder.write(name, value) {
            Ok(()) => Ok(Live::Here(())),
            Err(errno) if gone(errno) => Ok(Live::Vanished),
            Err(errno) => Err(WriteError {
                path: self.path().join(name),
                value: value.trim_end().to_owned(),
                rule: rule(name, errno),
                source: errno.into(),
            }),
        }
    }
}

fn rule(name: &str, errno: Errno) -> Option<&'static str> {
    Some(match (name, errno) {
        ("cpuset.cpus", Errno::INVAL) => "a cpu there does not exist, or another cgroup has it exclusively",
        ("cpuset.mems", Errno::INVAL) => "a node there does not exist or has no memory",
        ("cpuset.cpus" | "cpuset.mems", Errno::BUSY) => {
            "the processes there have deadlines that fewer cpus cannot meet"
        }
        ("cpuset.cpus" | "cpuset.mems" | "cgroup.procs", Errno::NOSPC) => "no cpu and no node would be left",
        ("cgroup.procs", Errno::INVAL) => "a thread of the kernel stays where it is",
        ("cgroup.procs", Errno::BUSY) => "processes go only where no controllers are enabled for sub-cgroups",
        ("cgroup.procs" | "cgroup.type", Errno::OPNOTSUPP) => "the cgroup is in no threaded subtree and cannot be",
        ("cgroup.subtree_control", Errno::BUSY) => "the cgroup holds processes, or a sub-cgroup uses the controller",
        (_, Errno::ACCESS | Errno::PERM | Errno::ROFS) => "the cgroup tree can be written by root on the host only",
        _ => return None,
    })
}
