//! What the reading process may use: its cgroup's cpuset, or its own status.

use std::path::{Component, Path};

use oarlock_core::idset::{IdSet, Kind};

use crate::{Allowed, DiscoveryError, kernel_file};

/// The cpuset of the process whose `proc/self` is in the tree. Version 2 is asked first: a host that mounts both has the
/// cpuset controller in one of them, and only there are the files.
pub(super) fn cgroup_allowed(root: &Path) -> Result<Allowed, DiscoveryError> {
    let (v2_path, v1_path) = cgroup_paths(root)?;
    let mounts = kernel_file::text(&root.join("proc/mounts"))?.unwrap_or_default();
    let mut allowed = Allowed::default();
    for mount in mounts.lines().filter_map(Mount::parse) {
        let Some(path) = (if mount.version == 2 { &v2_path } else { &v1_path }) else { continue };
        let top = root.join(mount.point.trim_start_matches('/'));
        let folder = top.join(path.trim_start_matches('/'));
        let (cpus, mems): (&[&str], &[&str]) = match (mount.version, mount.no_prefix) {
            (2, _) => (&["cpuset.cpus.effective"], &["cpuset.mems.effective"]),
            (_, true) => (&["effective_cpus", "cpus"], &["effective_mems", "mems"]),
            (_, false) => (&["cpuset.effective_cpus", "cpuset.cpus"], &["cpuset.effective_mems", "cpuset.mems"]),
        };
        allowed.cpus = allowed.cpus.or(nearest(&top, &folder, cpus)?);
        allowed.mems = allowed.mems.or(nearest(&top, &folder, mems)?);
    }
    Ok(allowed)
}

/// The first of these files that says something, from the cgroup's folder up to the mount: a cgroup without the
/// controller has the set of the nearest one above that has it.
fn nearest<K: Kind>(top: &Path, folder: &Path, names: &[&str]) -> Result<Option<IdSet<K>>, DiscoveryError> {
    for folder in folder.ancestors().take_while(|folder| folder.starts_with(top)) {
        for name in names {
            if let Some(set) = kernel_file::list(&folder.join(name))?.filter(|set: &IdSet<K>| !set.is_empty()) {
                return Ok(Some(set));
            }
        }
    }
    Ok(None)
}

struct Mount<'a> {
    version: u8,
    point: &'a str,
    no_prefix: bool,
}

impl<'a> Mount<'a> {
    /// A line of `proc/mounts` that mounts version 2, or the cpuset controller of version 1.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split_whitespace().skip(1);
        let (point, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let has = |name: &str| options.split(',').any(|option| option == name);
        match kind {
            "cgroup2" => Some(Self { version: 2, point, no_prefix: false }),
            "cgroup" if has("cpuset") => Some(Self { version: 1, point, no_prefix: has("noprefix") }),
            "cpuset" => Some(Self { version: 1, point, no_prefix: true }),
            _ => None,
        }
    }
}

/// The process's cgroups that hold its cpuset, for version 2 and 1. `proc/self/cpuset` tells where `proc/self/cgroup`
/// is silent, without telling the version.
fn cgroup_paths(root: &Path) -> Result<(Option<String>, Option<String>), DiscoveryError> {
    let either = kernel_file::text(&root.join("proc/self/cpuset"))?.filter(|path| !path.is_empty());
    let text = kernel_file::text(&root.join("proc/self/cgroup"))?.unwrap_or_default();
    let entries = || {
        text.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            Some((fields.next()?, fields.next()?, fields.next()?))
        })
    };
    let v2 = entries().find(|(id, controllers, _)| *id == "0" && controllers.is_empty()).map(|e| e.2.to_owned());
    let v1 =
        entries().find(|(_, controllers, _)| controllers.split(',').any(|c| c == "cpuset")).map(|e| e.2.to_owned());
    let known = v2.is_some() || v1.is_some();
    let v2 = if known { v2 } else { either.clone() };
    Ok((v2.filter(|path| is_below_the_mount(path)), v1.or(either).filter(|path| is_below_the_mount(path))))
}

/// In a cgroup namespace, a process of an outer one has a path like `/../other`, which no mount here shows.
fn is_below_the_mount(path: &str) -> bool {
    Path::new(path).components().all(|part| part != Component::ParentDir)
}

/// What the kernel says the process may use: `Cpus_allowed_list` and `Mems_allowed_list` of `proc/self/status`.
pub(crate) fn status_allowed(root: &Path) -> Result<Allowed, DiscoveryError> {
    let path = root.join("proc/self/status");
    let text = kernel_file::text(&path)?.unwrap_or_default();
    Ok(Allowed {
        cpus: status_list(&path, &text, "Cpus_allowed_list:")?,
        mems: status_list(&path, &text, "Mems_allowed_list:")?,
    })
}

fn status_list<K: Kind>(path: &Path, text: &str, key: &str) -> Result<Option<IdSet<K>>, DiscoveryError> {
    let Some(line) = text.lines().find_map(|line| line.strip_prefix(key)) else { return Ok(None) };
    line.parse().map(Some).map_err(|error| DiscoveryError::malformed(path, line, "a list like 0-3,8", Box::from(error)))
}
