//! Where the root of this process's cgroup namespace is in the whole tree (`cgroup_namespaces(7)`).
//!
//! The kernel shows everybody's cgroup as seen from there: in a container with a namespace of its own, `/..` leads out of it,
//! and nothing tells what the folders above are called. Whoever has the whole tree mounted finds them by looking for itself.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Hierarchy, Membership};
use crate::folder::ReadError;

/// More cgroups than a host has.
const MOST: usize = 1 << 16;

/// The root of a cgroup namespace: its path in the whole tree, in parts. The default is the host's own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Namespace(Arc<[String]>);

impl Namespace {
    /// The namespace in which this process, whose cgroup is shown there as `shown`, sees itself. `None` where it is in no
    /// cgroup of this tree.
    pub(crate) fn of(pid: u32, shown: &str, tree: &Hierarchy) -> Result<Option<Self>, ReadError> {
        if holds(tree, Path::new(shown), pid)? {
            return Ok(Some(Self::default()));
        }
        let Some(own) = search(tree, pid)? else { return Ok(None) };
        let Some(above) = own.to_str().and_then(|own| own.strip_suffix(shown.trim_end_matches('/'))) else {
            return Ok(None);
        };
        Ok(Some(Self(above.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect())))
    }

    /// A membership with the path in the whole tree. One from outside that, and those of v1, stay as they are.
    pub(crate) fn whole(&self, mut membership: Membership) -> Membership {
        if let (false, Some(shown)) = (self.0.is_empty(), &membership.unified) {
            membership.unified = self.path(shown).or(membership.unified);
        }
        membership
    }

    fn path(&self, shown: &str) -> Option<String> {
        let (mut above, mut rest) = (&self.0[..], shown);
        while let Some(up) = rest.strip_prefix("/..").filter(|up| up.is_empty() || up.starts_with('/')) {
            (_, above) = above.split_last()?;
            rest = up;
        }
        let path = format!("/{}{}", above.join("/"), rest.trim_end_matches('/'));
        // Nothing above: the first slash is there twice.
        Some(if path.starts_with("//") { path[1..].to_owned() } else { path })
    }
}

/// Whether a process is in this cgroup itself.
fn holds(tree: &Hierarchy, path: &Path, pid: u32) -> Result<bool, ReadError> {
    let Some(cgroup) = path.to_str().map(|path| tree.cgroup(path)).transpose()?.flatten() else { return Ok(false) };
    // The kernel does not list those of threaded cgroups; they are listed further up.
    Ok(cgroup.processes().ok().flatten().is_some_and(|processes| processes.contains(&pid)))
}

/// The cgroup that a process is in, those nearer to the root first.
fn search(tree: &Hierarchy, pid: u32) -> Result<Option<PathBuf>, ReadError> {
    let mut waiting = VecDeque::from([PathBuf::from("/")]);
    for _ in 0..MOST {
        let Some(path) = waiting.pop_front() else { break };
        if holds(tree, &path, pid)? {
            return Ok(Some(path));
        }
        let Some(cgroup) = path.to_str().map(|path| tree.cgroup(path)).transpose()?.flatten() else { continue };
        waiting.extend(cgroup.folder.folders()?.into_iter().map(|name| path.join(name)));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A tree in which processes are listed in these cgroups, and in no others.
    fn tree(places: &[(&str, u32)]) -> (tempfile::TempDir, Hierarchy) {
        let root = tempfile::tempdir().unwrap();
        for (path, pid) in places {
            let folder = root.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("cgroup.procs"), format!("1\n0\n{pid}\n")).unwrap();
        }
        let tree = Hierarchy::open_any_folder(root.path()).unwrap().unwrap();
        (root, tree)
    }

    fn whole(namespace: &Namespace, shown: &str) -> String {
        let membership = Membership { unified: Some(shown.to_owned()), legacy: vec![] };
        namespace.whole(membership).unified.unwrap()
    }

    #[test]
    fn in_the_hosts_namespace_paths_are_whole_already() {
        let (_root, tree) = tree(&[("/kubepods/pod1/agent", 77), ("/", 5)]);
        for (pid, shown) in [(77, "/kubepods/pod1/agent"), (5, "/")] {
            let namespace = Namespace::of(pid, shown, &tree).unwrap().unwrap();
            for path in ["/", "/kubepods/pod1/agent", "/kubepods/pod2/train", "/../x"] {
                assert_eq!(whole(&namespace, path), path);
            }
        }
    }

    #[test]
    fn in_a_containers_namespace_paths_are_told_from_the_trees_root() {
        // The first of another pod's name is like ours, and is listed first.
        let (_root, tree) = tree(&[("/kubepods/pod1/agen", 7), ("/kubepods/pod1/agent", 77), ("/init", 1)]);
        let namespace = Namespace::of(77, "/", &tree).unwrap().unwrap();
        for (shown, path) in [
            ("/", "/kubepods/pod1/agent"),
            ("/oarlock-0", "/kubepods/pod1/agent/oarlock-0"),
            ("/..", "/kubepods/pod1"),
            ("/../sidecar", "/kubepods/pod1/sidecar"),
            ("/../../pod2/train/oarlock-3", "/kubepods/pod2/train/oarlock-3"),
            ("/../../../init", "/init"),
            ("/../../..", "/"),
            // A name that begins with dots leads nowhere else.
            ("/..x", "/kubepods/pod1/agent/..x"),
            // Outside the tree that is mounted here.
            ("/../../../../other", "/../../../../other"),
        ] {
            assert_eq!(whole(&namespace, shown), path, "{shown}");
        }
    }

    #[test]
    fn a_process_that_was_moved_below_its_namespaces_root_finds_the_root() {
        let (_root, tree) = tree(&[("/kubepods/pod1/agent/own", 77)]);
        let namespace = Namespace::of(77, "/own", &tree).unwrap().unwrap();
        assert_eq!(whole(&namespace, "/../../pod2/train"), "/kubepods/pod2/train");
    }

    #[test]
    fn who_is_nowhere_in_the_tree_has_no_place_to_see_from() {
        let (_root, tree) = tree(&[("/kubepods/pod1/agent", 77)]);
        assert!(Namespace::of(78, "/", &tree).unwrap().is_none());
        assert!(Namespace::of(77, "/elsewhere", &tree).unwrap().is_none());
    }
}
