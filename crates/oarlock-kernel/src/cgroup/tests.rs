use std::fs;

use super::*;

/// Of a kernel 6.1 with two nodes, cut to some lines. `anon` is neither first nor the only line that begins so.
const NUMA_STAT: &str = "\
file N0=270336 N1=8192
anon N0=4096 N3=17592186044416
kernel_stack N0=16384 N3=0
inactive_anon N0=1 N3=2
anon_thp N0=0 N3=2097152
";

/// A container with a threaded rank cgroup below it. No two files hold the same value.
fn tree() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let container = root.path().join("kubepods.slice/pod:7.slice/ctr.scope");
    let rank = container.join("oarlock-0");
    fs::create_dir_all(&rank).unwrap();
    for (folder, name, text) in [
        (&container, "cgroup.type", "domain threaded\n"),
        (&container, "cgroup.controllers", "cpuset cpu memory pids\n"),
        (&container, "cgroup.subtree_control", "cpuset\n"),
        (&container, "cgroup.procs", "0\n4100\n4200\n"),
        (&container, "cpuset.cpus", "\n"),
        (&container, "cpuset.cpus.effective", "4-7,12-15\n"),
        (&container, "cpuset.mems", "1\n"),
        (&container, "cpuset.mems.effective", "1,3\n"),
        (&container, "memory.max", "max\n"),
        (&container, "memory.numa_stat", NUMA_STAT),
        (&rank, "memory.numa_stat", "anon N0=12 N1=-3\n"),
        (&rank, "cgroup.type", "threaded\n"),
        (&rank, "cgroup.threads", "4100\n4107\n"),
        (&rank, "memory.max", "8589934592\n"),
        (&rank, "cgroup.procs", "41x0\n"),
        (&rank, "cpuset.cpus", "7-4\n"),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
    root
}

fn cgroup(root: &tempfile::TempDir, path: &str) -> Option<Cgroup> {
    Hierarchy::open_any_folder(root.path()).unwrap().unwrap().cgroup(path).unwrap()
}

#[test]
fn a_cgroup_says_what_was_asked_for_and_what_is_effective() {
    let root = tree();
    let container = cgroup(&root, "/kubepods.slice/pod:7.slice/ctr.scope").unwrap();
    assert_eq!(container.kind().unwrap(), Some(CgroupType::DomainThreaded));
    assert_eq!(container.cpus().unwrap(), Some(CpuSet::new()));
    assert_eq!(container.cpus_effective().unwrap(), Some("4-7,12-15".parse().unwrap()));
    assert_eq!(container.mems().unwrap(), Some("1".parse().unwrap()));
    assert_eq!(container.mems_effective().unwrap(), Some("1,3".parse().unwrap()));
    assert_eq!(container.subtree_control().unwrap(), Some(vec!["cpuset".to_owned()]));
    assert_eq!(container.controllers().unwrap().unwrap().len(), 4);
    assert_eq!(container.processes().unwrap(), Some(vec![4100, 4200]));
    assert_eq!(container.memory_max().unwrap(), Some(Limit::Max));
}

#[test]
fn the_processes_below_are_those_of_all_cgroups_but_threaded_ones() {
    let root = tree();
    let container = root.path().join("kubepods.slice/pod:7.slice/ctr.scope");
    for (name, kind, processes) in
        [("own", "domain", "17\n"), ("own/deeper", "domain", "19\n"), ("oarlock-rank-0", "threaded", "not to be read")]
    {
        fs::create_dir_all(container.join(name)).unwrap();
        fs::write(container.join(name).join("cgroup.type"), kind).unwrap();
        fs::write(container.join(name).join("cgroup.procs"), processes).unwrap();
    }
    let container = cgroup(&root, "/kubepods.slice/pod:7.slice/ctr.scope").unwrap();
    let mut processes = container.processes_below().unwrap().unwrap();
    processes.sort_unstable();
    assert_eq!(processes, [17, 19, 4100, 4200]);
}

#[test]
fn a_file_that_is_not_there_is_none_and_one_that_makes_no_sense_is_an_error() {
    let root = tree();
    let rank = cgroup(&root, "/kubepods.slice/pod:7.slice/ctr.scope/oarlock-0").unwrap();
    assert_eq!(rank.kind().unwrap(), Some(CgroupType::Threaded));
    assert_eq!(rank.threads().unwrap(), Some(vec![4100, 4107]));
    assert_eq!(rank.memory_max().unwrap(), Some(Limit::Bytes(8 << 30)));
    assert_eq!(rank.mems().unwrap(), None);
    assert_eq!(rank.controllers().unwrap(), None);
    let error = rank.processes().unwrap_err().to_string();
    assert!(error.contains("oarlock-0/cgroup.procs") && error.contains("41x0"), "{error}");
    let error = rank.cpus().unwrap_err().to_string();
    assert!(error.contains("oarlock-0/cpuset.cpus") && error.contains("reversed"), "{error}");
}

#[test]
fn the_processes_below_a_cgroup_are_those_of_all_its_cgroups_whatever_they_are_called_up_to_a_bound() {
    let root = tree();
    let container = root.path().join("kubepods.slice/pod:7.slice/ctr.scope");
    let add = |path: &str, pid: u32| {
        fs::create_dir_all(container.join(path)).unwrap();
        fs::write(container.join(path).join("cgroup.procs"), format!("{pid}\n")).unwrap();
    };
    add("its own (deleted)", 1);
    add("its own (deleted)/ 0::", 2);
    let deep = "x/".repeat(40);
    add(&deep[..2 * 31], 3);
    add(&deep, 4);
    let below = || {
        let container = cgroup(&root, "/kubepods.slice/pod:7.slice/ctr.scope").unwrap();
        let mut pids = container.processes_below().unwrap().unwrap();
        pids.sort_unstable();
        pids
    };
    assert_eq!(below(), [1, 2, 3, 4100, 4200], "the deepest is left out, and what is threaded is listed above it");
    for number in 0..5000 {
        add(&number.to_string(), 10_000 + number);
    }
    let pids = below();
    // Without a file of its own handle for each of them.
    assert!((200..=258).contains(&pids.len()), "{}", pids.len());
}

#[test]
fn own_memory_is_told_by_node_from_the_line_of_that_name_alone() {
    let root = tree();
    let container = cgroup(&root, "/kubepods.slice/pod:7.slice/ctr.scope").unwrap();
    assert_eq!(container.anon_by_node().unwrap(), Some(BTreeMap::from([(0, 4096), (3, 1 << 44)])));
    let parent = cgroup(&root, "/kubepods.slice").unwrap();
    assert_eq!(parent.anon_by_node().unwrap(), None);
    let rank = cgroup(&root, "/kubepods.slice/pod:7.slice/ctr.scope/oarlock-0").unwrap();
    let error = rank.anon_by_node().unwrap_err().to_string();
    assert!(error.contains("memory.numa_stat") && error.contains("N1=-3") && error.contains("<bytes>"), "{error}");
    for line in ["anon N0", "anon 0=1", "anon N0=1 Nx=2", "anon N0=1 N1="] {
        fs::write(container.path().join("memory.numa_stat"), line).unwrap();
        assert!(container.anon_by_node().is_err(), "{line}");
    }
    fs::write(container.path().join("memory.numa_stat"), "file N0=1\n").unwrap();
    assert_eq!(container.anon_by_node().unwrap(), None);
}

#[test]
fn a_cgroup_that_is_gone_or_outside_the_mount_is_none() {
    let root = tree();
    assert!(cgroup(&root, "/kubepods.slice/other").is_none());
    assert!(cgroup(&root, "/../kubepods.slice").is_none());
    assert!(cgroup(&root, "/").is_some());
    let rank = cgroup(&root, "/kubepods.slice/pod:7.slice/ctr.scope/oarlock-0").unwrap();
    fs::remove_dir_all(root.path().join("kubepods.slice")).unwrap();
    assert_eq!(rank.kind().unwrap(), None);
}

#[test]
fn a_folder_that_is_no_cgroup2_is_refused_by_the_production_constructor() {
    let root = tree();
    let error = Hierarchy::open(root.path()).unwrap_err().to_string();
    assert!(error.ends_with("is not a cgroup2 file system"), "{error}");
    assert!(Hierarchy::open(&root.path().join("absent")).unwrap().is_none());
}

#[test]
fn membership_tells_the_hierarchies_apart_and_keeps_colons_in_paths() {
    let text = "9:name=systemd:/\n4:cpu,cpuacct:/a\n0::/kubepods.slice/pod:7.slice/ctr.scope\n";
    let membership = Membership::parse(text, "/proc/1/cgroup".as_ref()).unwrap();
    assert_eq!(membership.unified.as_deref(), Some("/kubepods.slice/pod:7.slice/ctr.scope"));
    assert_eq!(membership.legacy[0], (vec!["name=systemd".to_owned()], "/".to_owned()));
    assert_eq!(membership.legacy[1], (vec!["cpu".to_owned(), "cpuacct".to_owned()], "/a".to_owned()));
    for wrong in ["0:", "x::/", "0::relative"] {
        let error = Membership::parse(wrong, "/proc/1/cgroup".as_ref()).unwrap_err().to_string();
        assert!(error.contains("/proc/1/cgroup") && error.contains(wrong), "{error}");
    }
}
