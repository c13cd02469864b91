//! hwloc and the reader of kernel files see the same machine in the same tree. hwloc takes its root from the environment,
//! so each tree is compared in a process of its own: this test binary again, with one test.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use oarlock_discovery::sysfs::Tree;
use oarlock_discovery::{differences, live_views};
use oarlock_testkit::SysTree;

const TREE: &str = "OARLOCK_TEST_TREE";

#[test]
fn one_tree_in_a_process_of_its_own() {
    let Some(tree) = std::env::var_os(TREE) else { return };
    // With HWLOC_FSROOT set, what hwloc takes for this host is the tree.
    let hwloc = live_views().unwrap().0;
    let files = Tree::open(Path::new(&tree)).unwrap().read().unwrap().machine;
    assert!(hwloc.cores.is_some() && hwloc.l3.is_some() && hwloc.packages.is_some(), "hwloc did not read the tree");
    let none: [&str; 0] = [];
    assert_eq!(differences(&hwloc, &files), none);
}

#[track_caller]
fn agree(name: &str, tree: &Path) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "one_tree_in_a_process_of_its_own"])
        .env(TREE, tree)
        .env("HWLOC_FSROOT", tree)
        .output()
        .unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn they_agree_on_machines_of_many_shapes() {
    let hbm = vec![vec![10, 21, 13, 23], vec![21, 10, 23, 13], vec![13, 23, 10, 23], vec![23, 13, 23, 10]];
    let shapes = [
        ("sub-numa clusters", SysTree::new(2, 2, 2, 4, 2)),
        ("adjacent threads", SysTree::torchrun(2, 2, 2, 2, 3)),
        ("four threads a core", SysTree::new(1, 2, 1, 3, 4)),
        ("permuted ids with gaps", SysTree::new(4, 1, 2, 2, 2).node_ids(&[7, 2, 33, 1])),
        (
            "memory-only nodes",
            SysTree::new(2, 1, 1, 4, 2).memory_only_node(2, 99).memory_only_node(3, 99).distances(hbm),
        ),
        ("a memory-only node 0", SysTree::new(2, 1, 1, 4, 2).node_ids(&[5, 3]).memory_only_node(0, 99)),
        ("offline cpus", SysTree::new(2, 1, 2, 4, 2).offline("1,9,12")),
        ("offline cpus that files list", SysTree::new(2, 1, 2, 4, 2).offline("1,9,12").files_list_offline()),
        ("a cgroup that allows a part", SysTree::new(2, 1, 1, 4, 1).cgroup2("/job", "2-3", "0")),
    ];
    for (name, tree) in shapes {
        let folder = tempfile::tempdir().unwrap();
        tree.write(folder.path()).unwrap();
        agree(name, folder.path());
    }
}

#[test]
fn they_agree_on_real_machines() {
    let Some(data) = std::env::var_os("OARLOCK_HWLOC_DATA") else {
        println!("skipped: OARLOCK_HWLOC_DATA is not set");
        return;
    };
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(data);
    // Not among them: the machine whose nodes all list every CPU, which hwloc folds into one node.
    for name in [
        "32amd64-4s2n4c-cgroup2",
        "32intel64-2p8co2t+8ve",
        "40intel64-2g2n4c+pcilocality",
        "48amd64-4pa2n6c-sparse",
        "nvidia-dgx-gb10",
    ] {
        let file = std::fs::File::open(data.join(format!("{name}.tar.bz2"))).unwrap();
        let folder = tempfile::tempdir().unwrap();
        tar::Archive::new(bzip2::read::BzDecoder::new(file)).unpack(folder.path()).unwrap();
        agree(name, &std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path());
    }
}
