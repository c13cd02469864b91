//! The cgroup v2 tree under a given root, and `/proc/PID/cgroup`, which says where in it a process is.

mod named;
mod namespace;
mod write;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use oarlock_core::{CpuSet, NodeSet};

use crate::folder::{Filesystem, Folder, ReadError};
use crate::rank_cgroup;

pub use named::path_named;
pub(crate) use namespace::Namespace;
pub use write::{CpusetError, WriteError};

/// The cgroups that a container may have below its own, as far as they are looked at, and how deep.
const MOST_BELOW: usize = 256;
const DEEPEST: usize = 32;

/// Where a process is in each cgroup hierarchy (`cgroups(7)`). Paths are as the reader's cgroup namespace shows them, unless
/// [`Proc::with_whole_paths`](crate::proc::Proc::with_whole_paths) was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Membership {
    /// In the v2 hierarchy; `None` where it is not mounted.
    pub unified: Option<String>,
    /// In the v1 hierarchies: controllers, and path.
    pub legacy: Vec<(Vec<String>, String)>,
}

impl Membership {
    pub(crate) fn read(folder: &Folder) -> Result<Option<Self>, ReadError> {
        let Some(text) = folder.text("cgroup")? else { return Ok(None) };
        Self::parse(&text, &folder.path().join("cgroup")).map(Some)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ReadError> {
        let mut membership = Self::default();
        for line in text.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(hierarchy), Some(controllers), Some(cgroup)) = (parts.next(), parts.next(), parts.next()) else {
                return Err(ReadError::malformed(path, line, "a line is hierarchy:controllers:path"));
            };
            if hierarchy.parse::<u32>().is_err() || !cgroup.starts_with('/') {
                let rule = "a line begins with a number and ends in a path from the root";
                return Err(ReadError::malformed(path, line, rule));
            }
            if hierarchy == "0" && controllers.is_empty() {
                membership.unified = Some(cgroup.to_owned());
            } else {
                membership.legacy.push((controllers.split(',').map(str::to_owned).collect(), cgroup.to_owned()));
            }
        }
        Ok(membership)
    }
}

/// A cgroup v2 hierarchy.
#[derive(Debug)]
pub struct Hierarchy {
    root: Folder,
}

impl Hierarchy {
    /// Opens a mounted cgroup2; `None` where there is no such folder.
    pub fn open(root: &Path) -> Result<Option<Self>, ReadError> {
        let Some(hierarchy) = Self::open_any_folder(root)? else { return Ok(None) };
        hierarchy.root.require(Filesystem::Cgroup2)?;
        Ok(Some(hierarchy))
    }

    /// Opens a folder that looks like a cgroup2, without asking whether it is one: for tests and captured trees.
    pub fn open_any_folder(root: &Path) -> Result<Option<Self>, ReadError> {
        Ok(Folder::open(root)?.map(|root| Self { root }))
    }

    /// The cgroup at a path that [`Membership::unified`] names. `None` where it is gone, where it is outside what this
    /// mount shows (the kernel then writes `/..`), and where a part of the path is a symbolic link.
    pub fn cgroup(&self, path: &str) -> Result<Option<Cgroup>, ReadError> {
        let path = Path::new(path.trim_start_matches('/'));
        if path.components().any(|part| part == Component::ParentDir) {
            return Ok(None);
        }
        Ok(self.root.below(path)?.map(|folder| Cgroup { folder }))
    }
}

/// One cgroup. Each file is `None` where the cgroup does not have it: the controller is not enabled, or it is the root, or
/// the cgroup went away.
#[derive(Debug)]
pub struct Cgroup {
    pub(crate) folder: Folder,
}

/// `cgroup.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupType {
    /// An ordinary one.
    Domain,
    /// The ordinary one that heads a threaded subtree.
    DomainThreaded,
    /// One that cannot hold processes until it is made threaded.
    DomainInvalid,
    /// A member of a threaded subtree.
    Threaded,
}

/// A limit that may be `max`: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// No limit.
    Max,
    /// This many bytes.
    Bytes(u64),
}

impl Cgroup {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `cpuset.cpus`: what was asked for; empty where nothing was.
    pub fn cpus(&self) -> Result<Option<CpuSet>, ReadError> {
        self.value("cpuset.cpus")
    }

    /// `cpuset.cpus.effective`: what its processes may use.
    pub fn cpus_effective(&self) -> Result<Option<CpuSet>, ReadError> {
        self.value("cpuset.cpus.effective")
    }

    /// `cpuset.mems`: what was asked for; empty where nothing was.
    pub fn mems(&self) -> Result<Option<NodeSet>, ReadError> {
        self.value("cpuset.mems")
    }

    /// `cpuset.mems.effective`: what its processes may use.
    pub fn mems_effective(&self) -> Result<Option<NodeSet>, ReadError> {
        self.value("cpuset.mems.effective")
    }

    /// `cgroup.type`.
    pub fn kind(&self) -> Result<Option<CgroupType>, ReadError> {
        self.value("cgroup.type")
    }

    /// `memory.max`.
    pub fn memory_max(&self) -> Result<Option<Limit>, ReadError> {
        self.value("memory.max")
    }

    /// The line `anon` of `memory.numa_stat`: on how many bytes of each NUMA node its processes' own memory is, that of the
    /// cgroups below it included (`Documentation/admin-guide/cgroup-v2.rst` of the kernel). Nodes without memory are not
    /// listed. The kernel answers from its counters: no page table is walked, as `/proc/PID/numa_maps` does under a lock that
    /// the process itself needs.
    pub fn anon_by_node(&self) -> Result<Option<BTreeMap<u32, u64>>, ReadError> {
        const NAME: &str = "memory.numa_stat";
        let Some(text) = self.folder.text(NAME)? else { return Ok(None) };
        let Some(line) = text.lines().find(|line| line.split_ascii_whitespace().next() == Some("anon")) else {
            return Ok(None);
        };
        let node = |word: &str| {
            let (node, bytes) = word.strip_prefix('N')?.split_once('=')?;
            Some((node.parse().ok()?, bytes.parse().ok()?))
        };
        let nodes: Option<BTreeMap<u32, u64>> = line.split_ascii_whitespace().skip(1).map(node).collect();
        let malformed =
            || ReadError::malformed(&self.folder.path().join(NAME), line, "a node's part is N<node>=<bytes>");
        nodes.map(Some).ok_or_else(malformed)
    }

    /// `cgroup.controllers`: the controllers that its `subtree_control` may name.
    pub fn controllers(&self) -> Result<Option<Vec<String>>, ReadError> {
        self.words("cgroup.controllers")
    }

    /// `cgroup.subtree_control`: the controllers that its children have.
    pub fn subtree_control(&self) -> Result<Option<Vec<String>>, ReadError> {
        self.words("cgroup.subtree_control")
    }

    /// `cgroup.procs`: its processes. Those outside the reader's pid namespace, which the kernel lists as 0, are left out.
    /// The kernel refuses (`EOPNOTSUPP`) to list the processes of a threaded cgroup.
    pub fn processes(&self) -> Result<Option<Vec<u32>>, ReadError> {
        self.ids("cgroup.procs")
    }

    /// Its processes and those of all cgroups below it, in no order. A container may have made some, and may make them while
    /// this reads: of more than 256, and below the 32nd level, the rest is left out.
    pub fn processes_below(&self) -> Result<Option<Vec<u32>>, ReadError> {
        let Some(mut processes) = self.processes()? else { return Ok(None) };
        // By their names: a hostile container has more of them than a process may have files open.
        let mut left = self.children(Path::new(""))?;
        let mut seen = 0;
        while let Some(path) = left.pop().filter(|_| seen < MOST_BELOW) {
            seen += 1;
            let Some(folder) = self.folder.below(&path)? else { continue };
            let below = Self { folder };
            // A threaded cgroup's processes are listed by the head of its subtree.
            if below.kind()? == Some(CgroupType::Threaded) {
                continue;
            }
            processes.extend(below.processes()?.unwrap_or_default());
            if path.components().count() < DEEPEST && left.len() < MOST_BELOW {
                left.extend(below.children(&path)?);
            }
        }
        Ok(Some(processes))
    }

    /// Those below it, as paths that begin with its own, without rank cgroups: their processes are listed here.
    fn children(&self, path: &Path) -> Result<Vec<PathBuf>, ReadError> {
        let is_rank = |name: &OsString| name.to_str().is_some_and(|name| name.starts_with(rank_cgroup::PREFIX));
        let names = self.folder.folders()?.into_iter().filter(|name| !is_rank(name));
        Ok(names.take(MOST_BELOW).map(|name| path.join(name)).collect())
    }

    /// `cgroup.threads`: its threads, likewise.
    pub fn threads(&self) -> Result<Option<Vec<u32>>, ReadError> {
        self.ids("cgroup.threads")
    }

    fn value<T: FromStr<Err: fmt::Display>>(&self, name: &str) -> Result<Option<T>, ReadError> {
        let Some(text) = self.folder.text(name)? else { return Ok(None) };
        let text = text.trim_end_matches('\n');
        text.parse()
            .map(Some)
            .map_err(|error: T::Err| ReadError::malformed(&self.folder.path().join(name), text, error.to_string()))
    }

    fn words(&self, name: &str) -> Result<Option<Vec<String>>, ReadError> {
        let text = self.folder.text(name)?;
        Ok(text.map(|text| text.split_ascii_whitespace().map(str::to_owned).collect()))
    }

    fn ids(&self, name: &str) -> Result<Option<Vec<u32>>, ReadError> {
        let Some(text) = self.folder.text(name)? else { return Ok(None) };
        let mut ids = Vec::new();
        for line in text.lines() {
            let rule = "one process or thread id a line";
            let id = line.parse().map_err(|_| ReadError::malformed(&self.folder.path().join(name), line, rule))?;
            if id != 0 {
                ids.push(id);
            }
        }
        Ok(Some(ids))
    }
}

impl FromStr for CgroupType {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "domain" => Ok(Self::Domain),
            "domain threaded" => Ok(Self::DomainThreaded),
            "domain invalid" => Ok(Self::DomainInvalid),
            "threaded" => Ok(Self::Threaded),
            _ => Err("the types are domain, domain threaded, domain invalid, threaded"),
        }
    }
}

impl FromStr for Limit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "max" => Ok(Self::Max),
            _ => text.parse().map(Self::Bytes).map_err(|_| "a limit is max or a number of bytes"),
        }
    }
}

#[cfg(test)]
mod tests;
