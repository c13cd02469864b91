//! This host, as it is.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use oarlock_discovery::{Options, Source, differences, discover, live_views, machine_file};

#[test]
fn hwloc_and_the_kernels_files_agree_on_this_host() {
    let (hwloc, files) = live_views().unwrap();
    let none: [&str; 0] = [];
    assert_eq!(differences(&hwloc, &files), none);
}

#[test]
fn differences_are_named() {
    let read = |text: &str| discover(&Source::parse(Some(text)), &Options::default()).unwrap().machine;
    let lines = differences(&read("synthetic:node:2 core:2 pu:1"), &read("synthetic:node:2 core:1 pu:2"));
    assert_eq!(lines, ["cores: Some([{0}, {1}, {2}, {3}]) and Some([{0-1}, {2-3}])"]);
}

#[test]
fn this_host_is_read_with_what_this_process_may_use_and_written_as_a_machine_file() {
    let found = discover(&Source::Live, &Options::default()).unwrap();
    let (machine, allowed) = (&found.machine, &found.allowed);
    let cpus = allowed.cpus.as_ref().unwrap();
    assert!(!cpus.is_empty() && cpus.is_subset(&machine.cpus()), "{cpus}");
    assert!(!allowed.mems.as_ref().unwrap().is_empty());
    assert!(machine.nodes.iter().any(|node| node.memory_mb.unwrap() > 0));
    let text = machine_file::write(machine, &found.extra);
    let again = machine_file::parse(text.as_bytes(), "captured.json".as_ref()).unwrap();
    assert_eq!(&again.machine, machine);
}

#[test]
fn another_root_is_read_without_hwloc() {
    let folder = tempfile::tempdir().unwrap();
    oarlock_testkit::SysTree::new(4, 1, 1, 2, 1).write(folder.path()).unwrap();
    let options = Options { nvml: false, host_root: folder.path().to_owned(), ..Options::default() };
    let found = discover(&Source::Live, &options).unwrap();
    assert_eq!(found.machine.nodes.len(), 4);
    assert_eq!(found.allowed.cpus, None);
}
