//! What can be tried on a folder that only looks like a cgroup tree. Holding and moving takes a kernel: see `live.rs`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

use super::*;

const CONTAINER: &str = "/kubepods.slice/pod7.slice/cri-9.scope";

/// A container that could hold ranks.
fn tree() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let container = root.path().join(&CONTAINER[1..]);
    fs::create_dir_all(&container).unwrap();
    for (file, text) in
        [("cgroup.type", "domain\n"), ("cgroup.controllers", "cpuset memory\n"), ("cgroup.subtree_control", "\n")]
    {
        fs::write(container.join(file), text).unwrap();
    }
    root
}

fn hierarchy(root: &TempDir) -> Hierarchy {
    Hierarchy::open_any_folder(root.path()).unwrap().unwrap()
}

/// What holding rank 0 says after something in the container was changed.
fn refusal(change: impl FnOnce(&Path)) -> String {
    let root = tree();
    let container = root.path().join(&CONTAINER[1..]);
    change(&container);
    let hierarchy = hierarchy(&root);
    let ranks = hierarchy.ranks_of(CONTAINER).unwrap().unwrap();
    let error = ranks.hold(0, &Wall::default()).unwrap_err();
    assert!(matches!(error, RankCgroupError::CannotHold { .. }), "{error}");
    assert!(!container.join("oarlock-rank-0").exists());
    error.to_string().replace(&container.display().to_string(), "IT")
}

#[test]
fn the_rank_is_in_the_name_of_its_cgroup_and_in_no_other_name() {
    let at = |name: &str| rank_at(CONTAINER, &format!("{CONTAINER}/{name}"));
    assert_eq!((at("oarlock-rank-0"), at("oarlock-rank-8191")), (Some(0), Some(8191)));
    for name in
        ["oarlock-rank-8192", "oarlock-rank-", "oarlock-rank-01", "oarlock-rank-+1", "oarlock-rank--1", "rank-1"]
    {
        assert_eq!(at(name), None, "{name}");
    }
    assert_eq!(at("oarlock-rank-1/deeper"), None);
    assert_eq!(rank_at(CONTAINER, CONTAINER), None);
    assert_eq!(rank_at(CONTAINER, &format!("{CONTAINER}2/oarlock-rank-1")), None);
    assert_eq!(rank_at(CONTAINER, "/other/oarlock-rank-1"), None);
}

#[test]
fn the_ranks_of_a_container_are_listed_in_their_order() {
    let root = tree();
    for name in ["oarlock-rank-10", "oarlock-rank-9", "oarlock-rank-x", "init.scope"] {
        fs::create_dir(root.path().join(&CONTAINER[1..]).join(name)).unwrap();
    }
    let hierarchy = hierarchy(&root);
    let ranks = hierarchy.ranks_of(CONTAINER).unwrap().unwrap();
    assert_eq!(ranks.ranks().unwrap(), [9, 10]);
    assert!(ranks.rank(9).unwrap().is_some() && ranks.rank(8).unwrap().is_none());
}

#[test]
fn a_container_that_cannot_hold_ranks_is_left_as_it_is_and_the_reason_told() {
    assert_eq!(
        refusal(|it| fs::create_dir(it.join("init.scope")).unwrap()),
        "\"IT\" cannot hold ranks: it has sub-cgroups of its own (\"init.scope\")"
    );
    assert_eq!(
        refusal(|it| fs::write(it.join("cgroup.controllers"), "cpu memory cpusets\n").unwrap()),
        "\"IT\" cannot hold ranks: the controller cpuset is not enabled in it"
    );
    for kind in ["threaded\n", "domain invalid\n"] {
        assert_eq!(
            refusal(|it| fs::write(it.join("cgroup.type"), kind).unwrap()),
            "\"IT\" cannot hold ranks: it is itself part of a threaded subtree"
        );
    }
    let root = tree();
    let hierarchy = hierarchy(&root);
    let error = hierarchy.ranks_of("/").unwrap().unwrap().hold(0, &Wall::default()).unwrap_err().to_string();
    assert!(error.ends_with("cannot hold ranks: the root of the tree is no container"), "{error}");
}

#[test]
fn a_container_that_is_gone_is_no_failure() {
    let root = tree();
    let hierarchy = hierarchy(&root);
    let ranks = hierarchy.ranks_of(CONTAINER).unwrap().unwrap();
    fs::remove_dir_all(root.path().join("kubepods.slice")).unwrap();
    assert_eq!(ranks.hold(3, &Wall::default()).unwrap(), Live::Vanished);
    assert_eq!(ranks.let_go().unwrap(), [0_u32; 0]);
    assert!(hierarchy.ranks_of(CONTAINER).unwrap().is_none());
}

#[test]
fn a_path_leads_nowhere_but_down() {
    let root = tree();
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), root.path().join("kubepods.slice/link")).unwrap();
    let hierarchy = hierarchy(&root);
    for path in ["/kubepods.slice/link", "/kubepods.slice/../kubepods.slice", "/..", "/kubepods.slice/pod7.slice/\n"] {
        assert!(hierarchy.ranks_of(path).unwrap().is_none(), "{path:?}");
    }
    assert!(hierarchy.ranks_of(&format!("{CONTAINER}/")).unwrap().is_some());
}

#[test]
fn a_rank_out_of_range_is_refused() {
    let root = tree();
    let hierarchy = hierarchy(&root);
    let error = hierarchy.ranks_of(CONTAINER).unwrap().unwrap().hold(8192, &Wall::default()).unwrap_err();
    assert_eq!(error.to_string(), "rank 8192 is out of range: a local rank is a number from 0 to 8191");
}

#[test]
fn a_process_of_another_container_is_not_taken() {
    let root = tree();
    fs::create_dir(root.path().join(&CONTAINER[1..]).join("oarlock-rank-1")).unwrap();
    let proc = tempfile::tempdir().unwrap();
    let hierarchy = hierarchy(&root);
    let ranks = hierarchy.ranks_of(CONTAINER).unwrap().unwrap();
    for (pid, place) in [(40, "/kubepods.slice/pod7.slice/cri-99.scope"), (41, "/"), (42, "/kubepods.slice/pod7.slice")]
    {
        fs::create_dir(proc.path().join(pid.to_string())).unwrap();
        fs::write(proc.path().join(format!("{pid}/cgroup")), format!("0::{place}\n")).unwrap();
        let proc = Proc::open_any_folder(proc.path()).unwrap();
        let process = proc.process(pid).unwrap().unwrap();
        let error = ranks.take(1, &process, &proc).unwrap_err().to_string();
        assert!(error.starts_with(&format!("process {pid} is in \"{place}\" and not in \"")), "{error}");
    }
}
