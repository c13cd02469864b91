//! `oarlock verify` on this very host.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod call;
mod live;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Stdio};

use call::Call;
use live::{Running, TOUCH_MEMORY, oarlock, run, two_cpus};
use oarlock_core::CpuSet;
use oarlock_kernel::affinity;

/// Two ranks that have touched memory, each with a second thread, under `oarlock run`.
fn two_ranks() -> (Running, Vec<u32>) {
    let (first, last) = two_cpus();
    let touch = TOUCH_MEMORY.to_str().unwrap();
    let lists = format!("cpus:{first}-{last};{last}");
    let arguments =
        ["run", "--nproc-per-node", "2", "--cpu-map", &lists, "--mem-map", "0,0", "--gpus", "none", "--", touch];
    let options = ["--mib", "16", "--threads", "2", "--hold", "60"];
    let mut running = Running::start(&mut oarlock(arguments.into_iter().chain(options)));
    let mut ranks = [running.line(), running.line()];
    ranks.sort();
    let pids = ranks.iter().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    (running, pids)
}

fn verify(pid: u32) -> (Call, serde_json::Value) {
    let pid = pid.to_string();
    let text = run(["verify", "--pid", &pid]);
    let json = run(["verify", "--pid", &pid, "--format", "json"]);
    assert_eq!(json.status, text.status);
    let report = serde_json::from_str(&json.stdout).unwrap();
    (text, report)
}

/// A process with this environment that stays, and its id.
fn stay(environment: &[(&str, &OsStr)]) -> Running {
    let mut command = Command::new(&*TOUCH_MEMORY);
    command.env_clear().envs(environment.iter().copied()).args(["--mib", "8", "--threads", "2"]).stdin(Stdio::piped());
    let mut running = Running::start(&mut command);
    assert!(running.line().starts_with("READY"));
    running
}

fn second_thread(pid: u32) -> u32 {
    let tids = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tids.map(|tid| tid.unwrap().file_name().to_str().unwrap().parse().unwrap()).max().unwrap()
}

#[test]
fn the_ranks_of_run_are_found_below_it_and_are_as_planned() {
    let (running, pids) = two_ranks();
    let (text, report) = verify(running.pid());
    assert_eq!((text.status, &*text.stderr), (0, ""), "{}", text.stdout);
    assert_eq!(report["as_planned"], true);
    let processes = report["processes"].as_array().unwrap();
    assert_eq!(processes.len(), 3);
    assert_eq!((&processes[0]["status"], &processes[0]["rank"]), (&"unplanned".into(), &serde_json::Value::Null));
    let (_, last) = two_cpus();
    for (rank, &pid) in pids.iter().enumerate() {
        let process = processes.iter().find(|process| process["pid"] == pid).unwrap();
        assert_eq!((&process["rank"], &process["status"]), (&rank.into(), &"as_planned".into()));
        assert_eq!((&process["mems"], &process["policy"]), (&"0".into(), &"bind:0".into()));
        assert_eq!(process["threads"].as_array().unwrap().len(), 2);
        assert_eq!(process["locality_percent"], 100.0);
        assert!(process["pages"][0]["anon_kib"].as_u64().unwrap() >= 16 << 10);
        assert!(
            text.stdout.lines().any(|line| line.contains(&format!(" {pid} ")) && line.ends_with("as planned")),
            "{}",
            text.stdout
        );
    }
    let second = processes.iter().find(|process| process["pid"] == pids[1]).unwrap();
    assert_eq!((&second["cpus"], &second["planned"]["cpus"]), (&last.to_string().into(), &last.to_string().into()));
}

#[test]
fn a_thread_that_is_moved_by_hand_is_named_until_it_is_back() {
    let (first, last) = two_cpus();
    if first == last {
        println!("not run: this host has a single CPU for the test");
        return;
    }
    let (running, pids) = two_ranks();
    let tid = second_thread(pids[1]);
    affinity::set_thread(tid, &CpuSet::of(first)).unwrap();
    let (text, report) = verify(running.pid());
    assert_eq!((text.status, &report["as_planned"]), (1, &false.into()));
    let problem = format!("thread {tid} (toucher) may run on cpus {first}; planned are {last}");
    assert!(
        text.stdout.contains(&format!("not as planned: rank 1, process {}: {problem}\n", pids[1])),
        "{}",
        text.stdout
    );
    assert_eq!(text.stdout.matches("not as planned:").count(), 1);
    let (alone, _) = verify(pids[0]);
    assert_eq!(alone.status, 0, "{}", alone.stdout);
    affinity::set_thread(tid, &CpuSet::of(last)).unwrap();
    assert_eq!(verify(running.pid()).0.status, 0);
}

#[test]
fn a_thread_that_the_job_binds_inside_the_wall_is_a_note() {
    let (first, last) = two_cpus();
    if first == last {
        println!("not run: this host has a single CPU for the test");
        return;
    }
    let (running, pids) = two_ranks();
    let tid = second_thread(pids[0]);
    affinity::set_thread(tid, &CpuSet::of(last)).unwrap();
    let (text, _) = verify(running.pid());
    assert_eq!(text.status, 0, "{}", text.stdout);
    assert!(
        text.stdout.contains(&format!("thread {tid} (toucher): bound by the job itself to cpus {last} of ")),
        "{}",
        text.stdout
    );
}

#[test]
fn a_rank_under_exec_is_verified_too() {
    let (_, last) = two_cpus();
    let touch = TOUCH_MEMORY.to_str().unwrap();
    let list = format!("cpus:{last}");
    let mut command = oarlock(["exec", "--cpu-map", &list, "--mem-map", "0", "--", touch, "--hold", "60"]);
    let mut running = Running::start(command.env("LOCAL_RANK", "0").env("LOCAL_WORLD_SIZE", "1"));
    assert_eq!(running.line(), format!("READY {}", running.pid()), "exec takes the place of the command");
    let (text, report) = verify(running.pid());
    assert_eq!(text.status, 0, "{}", text.stdout);
    assert_eq!(
        (&report["processes"][0]["rank"], &report["processes"][0]["cpus"]),
        (&0.into(), &last.to_string().into())
    );
}

#[test]
fn anonymous_pages_behind_the_wrong_wall_are_not_as_planned_and_under_preferred_they_only_cost_locality() {
    let bound = [("LOCAL_RANK", OsStr::new("1")), ("OARLOCK_RANK_MEMS", OsStr::new("0;1000"))];
    let running = stay(&bound);
    let (text, report) = verify(running.pid());
    assert_eq!(text.status, 1);
    assert!(
        text.stdout.contains("may get memory from nodes ") && text.stdout.contains("planned are 1000"),
        "{}",
        text.stdout
    );
    assert!(
        text.stdout.contains("anonymous pages (") && text.stdout.contains("than the planned 1000"),
        "{}",
        text.stdout
    );
    assert_eq!(report["processes"][0]["locality_percent"], 0.0);
    let preferred = [&bound[..], &[("OARLOCK_MEM_POLICY", OsStr::new("preferred"))]].concat();
    let running = stay(&preferred);
    let (text, report) = verify(running.pid());
    assert_eq!(text.status, 0, "{}", text.stdout);
    assert_eq!(report["processes"][0]["locality_percent"], 0.0);
}

#[test]
fn an_environment_that_makes_no_sense_is_reported_in_words() {
    let long = ";".repeat(100_000);
    for (key, value, rank, expected) in [
        ("OARLOCK_RANK_CPUS", "0;x".as_bytes(), "0", "OARLOCK_RANK_CPUS \"0;x\": entry 2 (rank 1)"),
        ("OARLOCK_RANK_CPUS", b"\xff\x1b[2J", "0", "OARLOCK_RANK_CPUS"),
        ("OARLOCK_RANK_CPUS", long.as_bytes(), "0", "are more than 8192 ranks"),
        ("OARLOCK_RANK_MEMS", b"0;0", "2", "LOCAL_RANK 2 is out of range: 2 ranks were placed"),
        ("OARLOCK_RANK_MEMS", b"0;0", "two", "LOCAL_RANK \"two\" is not a local rank"),
    ] {
        let running = stay(&[(key, OsStr::from_bytes(value)), ("LOCAL_RANK", OsStr::new(rank))]);
        let (text, report) = verify(running.pid());
        assert_eq!((text.status, &*text.stderr), (1, ""));
        assert!(text.stdout.contains(expected), "{} lacks {expected}", text.stdout);
        assert!(!text.stdout.contains('\x1b'), "{:?}", text.stdout);
        assert_eq!(report["processes"][0]["status"], "not_as_planned");
    }
}

#[test]
fn a_process_with_nothing_planned_is_listed_and_fine() {
    let running = stay(&[("OARLOCK_RANK_CPUS", OsStr::new("0;x"))]);
    let (text, report) = verify(running.pid());
    assert_eq!((text.status, &report["processes"][0]["status"]), (0, &"unplanned".into()), "{}", text.stdout);
    assert!(text.stdout.contains("nothing planned"));
}

#[test]
fn several_processes_are_verified_at_once_and_each_only_once() {
    let (one, other) = (stay(&[]), stay(&[]));
    let (own, one, other) = (std::process::id(), one.pid().to_string(), other.pid().to_string());
    let said = run(["verify", "--format", "json", "--pid", &one, &other, "--pid", &format!("{one},{own}")]);
    let report: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let pids: Vec<String> =
        report["processes"].as_array().unwrap().iter().map(|process| process["pid"].to_string()).collect();
    assert_eq!(pids[..2], [one.clone(), other]);
    assert_eq!(pids.iter().filter(|pid| **pid == one).count(), 1);
}

#[test]
fn a_process_that_does_not_exist_is_one_line_and_a_wrong_call_is_too() {
    let said = run(["verify", "--pid", "4194305"]);
    assert_eq!((said.status, &*said.stdout, &*said.stderr), (1, "", "oarlock: process 4194305 does not exist\n"));
    for arguments in
        [vec!["verify"], vec!["verify", "--pid"], vec!["verify", "--pid", "self"], vec!["verify", "--pid", "-1"]]
    {
        let said = run(arguments.iter().copied());
        assert_eq!((said.status, said.stderr.lines().count()), (2, 1), "{arguments:?}: {}", said.stderr);
    }
}
