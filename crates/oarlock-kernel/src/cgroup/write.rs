//! Writing a cgroup's files.

use std::io;
use std::path::PathBuf;

use oarlock_core::idset::{IdSet, Kind};
use oarlock_core::{CpuSet, NodeSet};
use rustix::io::Errno;

use super::{Cgroup, Hierarchy};
use crate::folder::{ReadError, gone};
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

/// Why a cpuset was not set.
#[derive(Debug, thiserror::Error)]
pub enum CpusetError {
    /// A file could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl WriteError {
    /// The kernel's answer as a number; `None` where it gave none.
    pub(crate) fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.source)
    }
}

impl Hierarchy {
    /// Sets `cpuset.cpus` of a cgroup; empty: as its parent has it. CPUs that the parent does not have are accepted, and not
    /// given.
    pub fn set_cpus(&self, cgroup: &Cgroup, cpus: &CpuSet) -> Result<Live<()>, CpusetError> {
        cgroup.set("cpuset.cpus", cpus, || self.everything()?.cpus_effective())
    }

    /// Sets `cpuset.mems` of a cgroup; empty: as its parent has it. Pages of its processes that are on other nodes are moved
    /// before this returns, which takes as long as it takes.
    pub fn set_mems(&self, cgroup: &Cgroup, mems: &NodeSet) -> Result<Live<()>, CpusetError> {
        cgroup.set("cpuset.mems", mems, || self.everything()?.mems_effective())
    }

    fn everything(&self) -> Result<Cgroup, ReadError> {
        let root = self.cgroup("/")?;
        root.ok_or_else(|| ReadError::Io { path: self.root.path().to_owned(), source: io::ErrorKind::NotFound.into() })
    }
}

impl Cgroup {
    fn set<K: Kind>(
        &self,
        file: &'static str,
        set: &IdSet<K>,
        everything: impl FnOnce() -> Result<Option<IdSet<K>>, ReadError>,
    ) -> Result<Live<()>, CpusetError> {
        match self.write(file, &format!("{set}\n")) {
            // Linux 6.1 does not take away the last of a cgroup that holds processes, as if that left them none. All that
            // the machine has comes to the same.
            Err(error) if set.is_empty() && error.errno() == Some(Errno::NOSPC) => match everything()? {
                Some(all) => Ok(self.write(file, &format!("{all}\n"))?),
                None => Err(error.into()),
            },
            written => Ok(written?),
        }
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
