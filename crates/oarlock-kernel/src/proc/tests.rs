use std::fs;
use std::process::{Command, Stdio};

use super::*;

fn status(pid: u32, parent: u32) -> String {
    format!(
        "Name:\trank\nState:\tS (sleeping)\nTgid:\t{pid}\nPid:\t{pid}\nPPid:\t{parent}\nCpus_allowed_list:\t{pid}\n"
    )
}

/// 10 → 20, 30; 30 → 40; 50 is nobody's. `children` files as a kernel with `CONFIG_PROC_CHILDREN` has them, or none.
fn family(listed: bool) -> (tempfile::TempDir, Proc) {
    let root = tempfile::tempdir().unwrap();
    for (pid, parent, children) in [(10, 1, "30 "), (20, 10, ""), (30, 10, "40 "), (40, 30, ""), (50, 1, "")] {
        let main = root.path().join(format!("{pid}/task/{pid}"));
        fs::create_dir_all(&main).unwrap();
        fs::write(root.path().join(format!("{pid}/status")), status(pid, parent)).unwrap();
        fs::write(main.join("status"), status(pid, parent)).unwrap();
        if listed {
            fs::write(main.join("children"), children).unwrap();
        }
    }
    if listed {
        // Started by another thread of 10.
        let other = root.path().join("10/task/11");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("status"), status(11, 1)).unwrap();
        fs::write(other.join("children"), "20 ").unwrap();
    }
    let proc = Proc::open_any_folder(root.path()).unwrap();
    (root, proc)
}

#[test]
fn descendants_are_found_from_the_children_files_of_all_threads() {
    let (_root, proc) = family(true);
    assert_eq!(proc.descendants(10).unwrap(), [30, 20, 40]);
    assert_eq!(proc.descendants(40).unwrap(), [0_u32; 0]);
}

#[test]
fn descendants_are_found_from_the_parents_where_there_are_no_children_files() {
    let (_root, proc) = family(false);
    assert_eq!(proc.descendants(10).unwrap(), [20, 30, 40]);
    assert_eq!(proc.descendants(99).unwrap(), [0_u32; 0]);
}

#[test]
fn a_children_file_that_makes_no_sense_is_an_error() {
    let (root, proc) = family(true);
    fs::write(root.path().join("30/task/30/children"), "40 x ").unwrap();
    let error = proc.descendants(10).unwrap_err().to_string();
    assert!(error.contains("30/task/30/children") && error.contains("\"x\""), "{error}");
}

#[test]
fn a_process_that_ends_while_it_is_looked_at_has_vanished_in_every_file() {
    let (root, proc) = family(false);
    let process = proc.process(30).unwrap().unwrap();
    assert!(process.status().unwrap().here().is_some());
    fs::remove_dir_all(root.path().join("30")).unwrap();
    assert_eq!(process.status().unwrap(), Live::Vanished);
    assert_eq!(process.threads().unwrap(), Live::Vanished);
    assert_eq!(process.thread(30).unwrap(), Live::Vanished);
    assert_eq!(process.thread_policy(30).unwrap(), Live::Vanished);
    assert_eq!(process.numa_maps().unwrap(), Live::Vanished);
    assert_eq!(process.cgroup().unwrap(), Live::Vanished);
    assert_eq!(process.environ().unwrap(), Live::Vanished);
    assert!(proc.process(30).unwrap().is_none());
}

#[test]
fn a_real_process_that_was_killed_and_reaped_has_vanished() {
    let proc = Proc::open("/proc".as_ref()).unwrap();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let process = proc.process(child.id()).unwrap().unwrap();
    assert!(process.numa_maps().unwrap().here().flatten().is_some());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(process.status().unwrap(), Live::Vanished);
    assert_eq!(process.numa_maps().unwrap(), Live::Vanished);
    assert_eq!(process.environ().unwrap(), Live::Vanished);
    assert_eq!(process.cgroup().unwrap(), Live::Vanished);
    assert_eq!(process.threads().unwrap(), Live::Vanished);
}

#[test]
fn a_zombie_has_a_status_and_nothing_else() {
    let proc = Proc::open("/proc".as_ref()).unwrap();
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let process = proc.process(child.id()).unwrap().unwrap();
    drop(child.stdin.take());
    while !process.status().unwrap().here().unwrap().is_zombie() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(process.numa_maps().unwrap(), Live::Here(None));
    assert_eq!(process.environ().unwrap().here().unwrap().get("PATH"), None);
    assert_eq!(process.thread_policy(child.id()).unwrap(), Live::Here(None));
    child.wait().unwrap();
}

#[test]
fn a_process_may_call_itself_what_is_no_text() {
    let (root, proc) = family(false);
    let file = root.path().join("20/status");
    fs::write(&file, [b"Name:\t\xff:\\n\xfe\n", &fs::read(&file).unwrap()[..]].concat()).unwrap();
    let status = proc.process(20).unwrap().unwrap().status().unwrap().here().unwrap();
    assert_eq!((status.name.as_str(), status.process), ("\u{fffd}:\\n\u{fffd}", 20));
}

#[test]
fn arguments_are_bytes_and_empty_ones_count() {
    let (root, proc) = family(false);
    let process = proc.process(20).unwrap().unwrap();
    let arguments = || process.arguments().unwrap().here().unwrap();
    assert_eq!(arguments(), [b""; 0]);
    for (bytes, expected) in [
        (b"python\0-c\0\xff\n\0\0".as_slice(), &[b"python".as_slice(), b"-c", b"\xff\n", b""][..]),
        (b"", &[]),
        (b"renamed", &[b"renamed"]),
    ] {
        fs::write(root.path().join("20/cmdline"), bytes).unwrap();
        assert_eq!(arguments(), expected);
    }
    fs::write(root.path().join("20/cmdline"), vec![b'x'; 1 << 20]).unwrap();
    assert!(arguments()[0].len() <= 64 << 10);
}

#[test]
fn the_time_of_the_start_is_counted_from_the_end_of_a_hostile_name() {
    let (root, proc) = family(false);
    let process = proc.process(20).unwrap().unwrap();
    let stat = |name: &str| {
        [b"20 (".as_slice(), name.as_bytes(), b"\xff) S 10 20 20 0 -1 4194304 95 0 0 0 1 2 0 0 20 0 1 0 8765 9 9"]
            .concat()
    };
    for name in ["rank", "a b", ") S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22", "(\n"] {
        fs::write(root.path().join("20/stat"), stat(name)).unwrap();
        assert_eq!(process.started().unwrap(), Live::Here(8765), "{name:?}");
    }
    fs::write(root.path().join("20/stat"), "20 (rank) S 10").unwrap();
    assert!(process.started().unwrap_err().to_string().contains("20/stat"));
}

#[test]
fn the_environment_is_bytes_and_its_first_entry_counts() {
    let (root, proc) = family(false);
    let file = root.path().join("20/environ");
    fs::write(&file, b"LOCAL_RANK=1\0=\0\xff\xfe\0A\0LOCAL_RANK=2\0LOCAL_RANK_X=3\0BAD=\xff;\0EMPTY=\0LAST=x").unwrap();
    let process = proc.process(20).unwrap().unwrap();
    let environ = process.environ().unwrap().here().unwrap();
    assert_eq!(environ.get("LOCAL_RANK"), Some(b"1".as_slice()));
    assert_eq!(environ.get("BAD"), Some(b"\xff;".as_slice()));
    assert_eq!(environ.get("EMPTY"), Some(b"".as_slice()));
    assert_eq!(environ.get("LAST"), Some(b"x".as_slice()));
    assert_eq!(environ.get("A"), None);
    assert!(!environ.is_cut());
    assert_eq!(
        environ.get_all(&["LAST", "LOCAL_RANK", "A", "EMPTY"]),
        [("LOCAL_RANK", b"1".as_slice()), ("EMPTY", b""), ("LAST", b"x")]
    );
    assert_eq!(environ.get_all(&[]), []);
    fs::write(&file, [b"FIRST=1\0".as_slice(), &vec![b'x'; 7 << 20]].concat()).unwrap();
    let environ = process.environ().unwrap().here().unwrap();
    assert!(environ.is_cut());
    assert_eq!(environ.get("FIRST"), Some(b"1".as_slice()));
}

#[test]
fn this_process_reads_itself() {
    let proc = Proc::open("/proc".as_ref()).unwrap();
    let process = proc.process(std::process::id()).unwrap().unwrap();
    let status = process.status().unwrap().here().unwrap();
    assert_eq!((status.tid, status.process), (std::process::id(), std::process::id()));
    let threads = process.threads().unwrap().here().unwrap();
    assert!(threads.contains(&std::process::id()) && threads.len() > 1, "{threads:?}");
    let allowed = crate::affinity::of_thread(0).unwrap().here();
    assert_eq!(status.cpus_allowed, allowed);
    assert!(process.cgroup().unwrap().here().unwrap().is_some());
    assert_eq!(
        process.environ().unwrap().here().unwrap().get("PATH"),
        std::env::var("PATH").ok().as_deref().map(str::as_bytes)
    );
    let policy = process.thread_policy(std::process::id()).unwrap().here().unwrap().unwrap();
    assert_eq!(policy.to_string(), "default");
    assert!(proc.pids().unwrap().contains(&std::process::id()));
}

#[test]
fn the_policy_of_each_thread_is_its_own() {
    let proc = Proc::open("/proc".as_ref()).unwrap();
    let process = proc.process(std::process::id()).unwrap().unwrap();
    std::thread::spawn(move || {
        crate::policy::MemoryPolicy::bind(&oarlock_core::NodeSet::of(0)).unwrap().apply().unwrap();
        let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let policy = process.thread_policy(tid).unwrap().here().unwrap().unwrap();
        assert_eq!(policy.to_string(), "bind:0");
        let policy = process.thread_policy(std::process::id()).unwrap().here().unwrap().unwrap();
        assert_eq!(policy.to_string(), "default");
    })
    .join()
    .unwrap();
}

#[test]
fn a_folder_that_is_no_proc_is_refused_by_the_production_constructor() {
    let root = tempfile::tempdir().unwrap();
    let error = Proc::open(root.path()).unwrap_err().to_string();
    assert!(error.ends_with("is not a proc file system"), "{error}");
    let error = Proc::open(&root.path().join("absent")).unwrap_err().to_string();
    assert!(error.starts_with("failed to read \""), "{error}");
}
