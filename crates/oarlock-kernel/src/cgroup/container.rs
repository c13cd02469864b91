//! The cgroups of one container, and the cpuset that it was given there.

use oarlock_core::idset::{IdSet, Kind};

use super::{CpusetError, Hierarchy};
use crate::folder::ReadError;
use crate::ledger::{ContainerSets, Entry};

/// Whether a cgroup of this name is the container's: runtimes name it by the container's id, alone or as `RUNTIME-ID.scope`.
pub fn is_named_by(name: &str, id: &str) -> bool {
    let scope = name.strip_suffix(".scope").unwrap_or(name);
    !id.is_empty() && (scope == id || scope.strip_suffix(id).is_some_and(|rest| rest.ends_with('-')))
}

/// The cgroups that may have been given a container's cpuset, the highest first: that of its processes, and the one above,
/// where that is the container's too. Some runtimes put the processes one deeper than what they were told.
pub fn cgroups_of<'a>(id: &str, cgroup: &'a str) -> Vec<&'a str> {
    let above = cgroup.rsplit_once('/').map(|(above, _)| above);
    let above = above.filter(|above| above.rsplit('/').next().is_some_and(|name| is_named_by(name, id)));
    above.into_iter().chain([cgroup]).collect()
}

impl Hierarchy {
    /// Whether nobody else gave a container a cpuset: each of its cgroups ([`cgroups_of`]) has what its entry says that it
    /// was given, or what it had before, or none of its own.
    pub fn is_as_given(&self, cgroups: &[&str], entry: &Entry) -> Result<bool, ReadError> {
        let (given, before) = (&entry.container, &entry.before);
        for path in cgroups {
            let Some(cgroup) = self.cgroup(path)? else { continue };
            let (cpus, mems) = (cgroup.cpus()?.unwrap_or_default(), cgroup.mems()?.unwrap_or_default());
            if !is_one_of(&cpus, &given.cpus, before.cpus.as_ref())
                || !is_one_of(&mems, &given.all_mems(), before.mems.as_ref())
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives a container's cgroups the new cpuset in place of the given one; one that has another keeps it. Whether any was
    /// written. Whatever the order, nobody is without CPUs in between: a cgroup whose cpuset has nothing of what the one
    /// above may use has all of that (`Documentation/admin-guide/cgroup-v2.rst`).
    pub fn exchange(&self, cgroups: &[&str], given: &ContainerSets, new: &ContainerSets) -> Result<bool, CpusetError> {
        let mut written = false;
        for path in cgroups {
            let Some(cgroup) = self.cgroup(path)? else { continue };
            if !given.cpus.is_empty() && cgroup.cpus()?.as_ref() == Some(&given.cpus) {
                self.set_cpus(&cgroup, &new.cpus)?;
                written = true;
            }
            let mems = given.all_mems();
            if !mems.is_empty() && cgroup.mems()?.as_ref() == Some(&mems) {
                self.set_mems(&cgroup, &new.all_mems())?;
                written = true;
            }
        }
        Ok(written)
    }
}

/// What nobody gave anything is not looked at.
fn is_one_of<K: Kind>(has: &IdSet<K>, given: &IdSet<K>, before: Option<&IdSet<K>>) -> bool {
    has.is_empty() || given.is_empty() || has == given || Some(has) == before
}

#[cfg(test)]
mod tests;
