use std::fs;

use oarlock_core::{CpuSet, NodeSet};

use super::*;

fn sets(cpus: &str, mems: &str, gpu_mems: &str) -> ContainerSets {
    ContainerSets { cpus: cpus.parse().unwrap(), mems: mems.parse().unwrap(), gpu_mems: gpu_mems.parse().unwrap() }
}

/// A container that was given CPUs 4-7 and memory 1, with that of a GPU on node 9. It had CPUs 0-7 before.
fn entry() -> Entry {
    let entry = serde_json::json!({
        "id": "4e2f", "name": "trainer", "pod": {"namespace": "ml", "name": "job", "uid": "1"}, "boot": "x", "source": "hook",
        "ranks": {"cpu_map": "auto", "mem_map": "auto", "mem_policy": "bind", "ranks": []},
        "container": {"cpus": "4-7", "mems": "1", "gpu_mems": "9"}, "before": {"cpus": "0-7", "mems": null},
    });
    serde_json::from_value(entry).unwrap()
}

/// Cgroups `a` and `a/b`, with this `cpuset.cpus` and `cpuset.mems` each.
fn tree(a: [&str; 2], b: [&str; 2]) -> (tempfile::TempDir, Hierarchy) {
    let root = tempfile::tempdir().unwrap();
    for (path, files) in [("a", a), ("a/b", b)] {
        fs::create_dir(root.path().join(path)).unwrap();
        for (name, text) in ["cpuset.cpus", "cpuset.mems"].into_iter().zip(files) {
            fs::write(root.path().join(path).join(name), text).unwrap();
        }
    }
    let hierarchy = Hierarchy::open_any_folder(root.path()).unwrap().unwrap();
    (root, hierarchy)
}

fn has(hierarchy: &Hierarchy) -> [(CpuSet, NodeSet); 2] {
    ["/a", "/a/b"].map(|path| {
        let cgroup = hierarchy.cgroup(path).unwrap().unwrap();
        (cgroup.cpus().unwrap().unwrap(), cgroup.mems().unwrap().unwrap())
    })
}

fn pair(cpus: &str, mems: &str) -> (CpuSet, NodeSet) {
    (cpus.parse().unwrap(), mems.parse().unwrap())
}

#[test]
fn the_cgroup_above_is_the_containers_where_it_has_its_name() {
    let inner = "/pods/crio-4e2f.scope/container";
    assert_eq!(cgroups_of("4e2f", inner), ["/pods/crio-4e2f.scope", inner]);
    for alone in ["/pods/crio-4e2f.scope", "/pods/crio-94e2f.scope/container", "/4e2f.d/4e2f", "4e2f"] {
        assert_eq!(cgroups_of("4e2f", alone), [alone]);
    }
    assert_eq!(cgroups_of("", "/x-/y"), ["/x-/y"]);
    for (name, its) in
        [("4e2f", true), ("libpod-4e2f", true), ("4e2f.scope", true), ("crio-4e2", false), ("4e2f.scope.d", false)]
    {
        assert_eq!(is_named_by(name, "4e2f"), its, "{name}");
    }
}

#[test]
fn a_containers_cpuset_is_exchanged_wherever_it_has_it_and_nowhere_else() {
    let (given, new) = (entry().container, sets("0-7", "0-1", "9"));
    for (a, b, expected, some) in [
        (["4-7", "1,9"], ["", "1,9"], [pair("0-7", "0-1,9"), pair("", "0-1,9")], true),
        (["4-7", "1"], ["4-6", "1,8"], [pair("0-7", "1"), pair("4-6", "1,8")], true),
        (["0-3", ""], ["0-7", "0"], [pair("0-3", ""), pair("0-7", "0")], false),
    ] {
        let (_root, hierarchy) = tree(a, b);
        assert_eq!(hierarchy.exchange(&["/a", "/a/b", "/gone"], &given, &new).unwrap(), some);
        assert_eq!(has(&hierarchy), expected);
    }
    let (_root, hierarchy) = tree(["", ""], ["4-7", ""]);
    assert!(!hierarchy.exchange(&["/a", "/a/b"], &sets("", "", ""), &new).unwrap(), "what is left alone");
    assert_eq!(has(&hierarchy), [pair("", ""), pair("4-7", "")]);
}

#[test]
fn a_cpuset_that_is_neither_the_given_one_nor_the_one_before_is_somebody_elses() {
    for (a, b, expected) in [
        (["4-7", "1,9"], ["", ""], true),
        (["0-7", ""], ["4-7", "1,9"], true),
        (["4-7", "1,9"], ["4-6", "1,9"], false),
        (["4-6", ""], ["4-7", "1,9"], false),
        (["4-7", "1"], ["4-7", "1,9"], false),
    ] {
        let (_root, hierarchy) = tree(a, b);
        assert_eq!(hierarchy.is_as_given(&["/a", "/a/b", "/gone"], &entry()).unwrap(), expected, "{a:?} {b:?}");
    }
    let left_alone = Entry { container: sets("", "", ""), ..entry() };
    let (_root, hierarchy) = tree(["2", "3"], ["5", "4"]);
    assert!(hierarchy.is_as_given(&["/a", "/a/b"], &left_alone).unwrap());
}
