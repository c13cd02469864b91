//! `oarlock status`, `oarlock verify --all` and `oarlock unpin` on this very host. Tests with processes make cgroups in the
//! cgroup v2 folder that `$OARLOCK_CGROUP_TESTS` names; ranks are bound by affinity there, as on a host that has no rank
//! cgroups. The emulated machines try the rest.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod call;
mod live;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use call::Call;
use live::{Running, TOUCH_MEMORY, oarlock, two_cpus};
use oarlock_core::CpuSet;
use oarlock_core::rankenv::{RankEntry, RankEnv};
use oarlock_core::request::MemPolicy;
use oarlock_kernel::ledger::{Before, ContainerSets, Entry, LedgerFolder, Pod, Source, boot_id};
use oarlock_kernel::{Live, Proc, affinity};
use serde_json::Value;
use tempfile::TempDir;

/// A run folder of its own.
struct Host {
    run: TempDir,
}

impl Host {
    fn new() -> Self {
        Self { run: tempfile::tempdir().unwrap() }
    }

    fn put(&self, entry: &Entry) {
        let ledger = LedgerFolder::in_run_dir(self.run.path());
        ledger.lock(Duration::from_secs(30)).unwrap().put(entry).unwrap();
    }

    fn entry(&self, id: &str) -> Option<Entry> {
        let mut reader = LedgerFolder::in_run_dir(self.run.path()).reader(boot_id("/proc".as_ref()).unwrap());
        reader.read().unwrap().get(id).cloned()
    }

    fn call(&self, arguments: &[&str]) -> Call {
        let mut command = oarlock(arguments.iter().copied());
        command.arg("--run-dir").arg(self.run.path());
        if let Some(place) = place() {
            command.arg("--cgroup-root").arg(place);
        }
        command.output().unwrap().into()
    }

    fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let call = self.call(&[arguments, &["--format", "json"]].concat());
        (call.status, serde_json::from_str(&call.stdout).unwrap())
    }
}

/// A container with a rank on each of these CPUs.
fn entry(id: &str, cgroup: Option<&str>, ranks: &[&str]) -> Entry {
    let rank = |cpus: &&str| RankEntry { cpus: Some(cpus.parse().unwrap()), gpus: vec![5], ..RankEntry::default() };
    Entry {
        id: id.to_owned(),
        name: "trainer".to_owned(),
        pod: Pod { namespace: "ml".to_owned(), name: "job\n0".to_owned(), uid: "0d5f".to_owned() },
        boot: boot_id("/proc".as_ref()).unwrap(),
        source: Source::Nri,
        cgroup: cgroup.map(str::to_owned),
        ranks: RankEnv {
            cpu_map: "auto".to_owned(),
            mem_map: "none".to_owned(),
            mem_policy: MemPolicy::Bind,
            ranks: ranks.iter().map(rank).collect(),
        },
        container: ContainerSets {
            cpus: "0-1".parse().unwrap(),
            mems: "0".parse().unwrap(),
            ..ContainerSets::default()
        },
        before: Before::default(),
        exclusive: CpuSet::new(),
        alone: false,
        reasons: vec!["gpu 5 is on node 0".to_owned()],
        warnings: vec!["node 0\u{1b}[31m is full".to_owned()],
        unpinned: false,
        other: serde_json::Map::new(),
    }
}

/// Where cgroups may be made: a mounted cgroup v2, or a folder in it.
fn place() -> Option<PathBuf> {
    std::env::var_os("OARLOCK_CGROUP_TESTS").map(PathBuf::from)
}

/// A cgroup, removed with its processes.
struct Cgroup {
    folder: PathBuf,
    path: String,
}

impl Cgroup {
    fn new(name: &str) -> Option<Self> {
        let Some(place) = place() else {
            println!("not run: $OARLOCK_CGROUP_TESTS names no cgroup v2 folder for these tests");
            return None;
        };
        let folder = place.join(format!("oarlock-{name}-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let root = place.ancestors().filter(|folder| folder.join("cgroup.procs").exists()).last().unwrap().to_owned();
        let path = format!("/{}", folder.strip_prefix(root).unwrap().display());
        Some(Self { folder, path })
    }

    /// A process in it that says to be this rank, on this CPU.
    fn rank(&self, rank: &str, cpu: u32) -> Running {
        let mut command = Command::new(&*TOUCH_MEMORY);
        command.env_clear().env("LOCAL_RANK", rank).args(["--mib", "2", "--threads", "2"]).stdin(Stdio::piped());
        let mut running = Running::start(&mut command);
        fs::write(self.folder.join("cgroup.procs"), running.pid().to_string()).unwrap();
        assert!(running.line().starts_with("READY"));
        let process = Proc::open("/proc".as_ref()).unwrap().process(running.pid()).unwrap().unwrap();
        affinity::set_process(&process, &CpuSet::of(cpu)).unwrap();
        running
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        drop(fs::write(self.folder.join("cgroup.kill"), "1"));
        live::eventually("the end of a cgroup", || fs::remove_dir(&self.folder).is_ok() || !self.folder.exists());
    }
}

#[test]
fn ranks_bound_by_affinity_are_counted_and_verified_and_freed() {
    let Some(cgroup) = Cgroup::new("affinity") else { return };
    let (first, last) = two_cpus();
    let host = Host::new();
    let cpus = [first.to_string(), last.to_string(), first.to_string()];
    host.put(&entry("4e2f", Some(&cgroup.path), &[&cpus[0], &cpus[1], &cpus[2]]));
    let (one, other) = (cgroup.rank("0", first), cgroup.rank("1", last));

    let (status, report) = host.json(&["status"]);
    assert_eq!(status, 0);
    let container = &report["containers"][0];
    assert_eq!(
        (&container["ranks_with_process"], &container["ranks_bound"], &container["processes"]),
        (&2.into(), &2.into(), &2.into())
    );
    assert_eq!(
        container["ranks"][1],
        serde_json::json!({"rank": 1, "gpus": [5], "cpus": cpus[1], "mems": null,
        "processes": [other.pid()], "cpus_bound": true, "mems_bound": null, "held_by": "affinity"})
    );
    assert_eq!(container["ranks"][2]["cpus_bound"], Value::Null);

    let (status, report) = host.json(&["verify", "--pod", "ml/job\n0"]);
    assert_eq!((status, &report["as_planned"]), (0, &true.into()), "{report}");
    assert_eq!(report["containers"][0]["ranks_without_process"], serde_json::json!([2]));
    let processes = report["processes"].as_array().unwrap();
    assert_eq!(processes.len(), 2);
    assert!(processes.iter().all(|process| process["container"] == "4e2f" && process["status"] == "as_planned"));

    if first != last {
        affinity::set_thread(other.pid(), &CpuSet::of(first)).unwrap();
        let said = host.call(&["verify", "--container", "4e"]);
        let problem = format!("thread {} (touch-memory) may run on cpus {first}; planned are {last}", other.pid());
        assert!(said.status == 1 && said.stdout.contains(&problem), "{said:?}");
        let said = host.call(&["status"]);
        assert!(said.stdout.contains("ml/job\u{fffd}0/trainer: not bound as planned: rank 1\n"), "{said:?}");
        affinity::set_thread(other.pid(), &CpuSet::of(last)).unwrap();
    }

    let said = host.call(&["unpin", "--container", "4e2f"]);
    assert_eq!((said.status, &*said.stdout, &*said.stderr), (0, "ml/job 0/trainer: 4 threads freed\n", ""));
    for rank in [&one, &other] {
        assert_eq!(affinity::of_thread(rank.pid()).unwrap(), affinity::of_thread(0).unwrap());
    }
    assert!(host.entry("4e2f").unwrap().unpinned);
    let said = host.call(&["unpin", "--all"]);
    assert_eq!((said.status, &*said.stdout), (0, "ml/job 0/trainer: nothing was held\n"));
    let (status, report) = host.json(&["verify", "--all"]);
    assert_eq!(
        (status, &report["containers"][0]["unpinned"], report["processes"].as_array().unwrap().len()),
        (0, &true.into(), 0)
    );
}

#[test]
fn a_process_is_judged_by_what_the_ledger_says_and_not_by_its_environment() {
    let Some(cgroup) = Cgroup::new("judge") else { return };
    let (first, _) = two_cpus();
    let host = Host::new();
    host.put(&entry("4e2f", None, &["8000"]));
    // The cgroup is not known; its name is the container's.
    let inside =
        Cgroup { folder: cgroup.folder.join("cri-4e2f.scope"), path: format!("{}/cri-4e2f.scope", cgroup.path) };
    fs::create_dir(&inside.folder).unwrap();
    let _rank = inside.rank("0", first);
    let said = host.call(&["verify", "--all"]);
    assert!(
        said.status == 1 && said.stdout.contains(&format!("may run on cpus {first}; planned are 8000")),
        "{said:?}"
    );
    let _nobody = inside.rank("7", first);
    let said = host.call(&["verify", "--all"]);
    assert!(said.stdout.contains("LOCAL_RANK 7 is out of range: 1 ranks were placed"), "{said:?}");
}

#[test]
fn a_container_that_has_ended_is_shown_and_forgotten_by_unpin() {
    let host = Host::new();
    host.put(&entry("a1", Some("/nowhere/a1"), &["0", "1"]));
    let (status, report) = host.json(&["status"]);
    assert_eq!((status, &report["containers"][0]["ranks_with_process"]), (0, &0.into()));
    let said = host.call(&["verify", "--all"]);
    assert_eq!(
        (said.status, &*said.stdout),
        (0, "ml/job\u{fffd}0/trainer (a1): 2 ranks, of which 0, 1 have no process\n")
    );
    let said = host.call(&["unpin", "--all"]);
    assert_eq!((said.status, &*said.stdout), (0, "ml/job 0/trainer: has ended\n"));
    assert_eq!(host.entry("a1"), None);
    assert_eq!(host.call(&["unpin", "--all"]).stdout, "");
    assert_eq!(host.call(&["verify", "--all"]).stdout, "no container is managed on this host\n");
}

#[test]
fn names_and_words_of_others_stay_on_one_line() {
    let host = Host::new();
    host.put(&entry("a1", None, &["0"]));
    let said = host.call(&["status"]);
    assert!(said.stdout.contains("warning: ml/job\u{fffd}0/trainer: node 0\u{fffd}[31m is full\n"), "{said:?}");
    assert!(!said.stdout.contains('\u{1b}'));
}

#[test]
fn a_file_that_is_no_entry_is_said_and_proves_nothing() {
    let host = Host::new();
    host.put(&entry("a1", None, &["0"]));
    let wrong = host.run.path().join("ledger/b2.json");
    fs::write(&wrong, "{\"id\": 3}").unwrap();
    let (status, report) = host.json(&["status"]);
    let problem = report["problems"][0].as_str().unwrap();
    assert_eq!((status, report["containers"].as_array().unwrap().len()), (0, 1));
    assert!(problem.starts_with(&format!("\"{}\" is no ledger entry: ", wrong.display())), "{problem}");
    let (status, report) = host.json(&["verify", "--all"]);
    assert_eq!((status, &report["as_planned"], &report["problems"][0]), (1, &false.into(), &problem.into()));
    assert_eq!(host.call(&["verify", "--container", "a1"]).status, 0);
    assert_eq!(host.call(&["verify", "--container", "b2"]).says("oarlock", 1), format!("oarlock: {problem}"));
    let said = host.call(&["unpin", "--all"]);
    assert_eq!((said.status, said.stderr.trim_end()), (1, &*format!("oarlock: {problem}")));
}

#[test]
fn a_container_is_named_by_enough_of_its_id() {
    let host = Host::new();
    for id in ["a1", "a12", "b2"] {
        host.put(&entry(id, None, &["0"]));
    }
    assert_eq!(host.json(&["verify", "--container", "a1"]).1["containers"][0]["id"], "a1");
    assert_eq!(host.json(&["verify", "--container", "b"]).1["containers"][0]["id"], "b2");
    assert_eq!(
        host.call(&["verify", "--container", "a"]).says("oarlock", 1),
        "oarlock: 2 containers have an id that begins with \"a\""
    );
    let folder = host.run.path().display();
    for (flag, what, said) in [
        ("--container", "c", "container \"c\""),
        ("--container", "", "container \"\""),
        ("--pod", "ml/other", "pod \"ml\"/\"other\""),
    ] {
        let expected = format!("oarlock: {said} is not in the ledger in \"{folder}\"");
        assert_eq!(host.call(&["verify", flag, what]).says("oarlock", 1), expected);
    }
}

#[test]
fn a_call_that_names_nothing_or_two_things_is_wrong() {
    let host = Host::new();
    for arguments in [
        &["verify"][..],
        &["verify", "--all", "--pid", "1"],
        &["verify", "--pod", "job"],
        &["verify", "--pod", "/job"],
        &["unpin"],
        &["unpin", "--all", "--container", "a1"],
        &["status", "--all"],
    ] {
        host.call(arguments).says("oarlock", 2);
    }
}

#[test]
fn a_rank_that_ends_meanwhile_is_nobodys_failure() {
    let Some(cgroup) = Cgroup::new("ending") else { return };
    let (first, _) = two_cpus();
    let host = Host::new();
    host.put(&entry("4e2f", Some(&cgroup.path), &[&first.to_string()]));
    // Processes that end all the time.
    let mut command = Command::new("sh");
    command.args(["-c", "read line; while :; do (:); done"]).env_clear().env("LOCAL_RANK", "0").stdin(Stdio::piped());
    let mut running = Running::start(&mut command);
    fs::write(cgroup.folder.join("cgroup.procs"), running.pid().to_string()).unwrap();
    let process = Proc::open("/proc".as_ref()).unwrap().process(running.pid()).unwrap().unwrap();
    assert_eq!(affinity::set_process(&process, &CpuSet::of(first)).unwrap(), Live::Here(1));
    drop(running.child.stdin.take());
    for _ in 0..20 {
        for arguments in [&["verify", "--all"][..], &["status"]] {
            let said = host.call(arguments);
            assert_eq!((said.status, &*said.stderr), (0, ""), "{said:?}");
        }
    }
    assert_eq!(host.call(&["unpin", "--all"]).status, 0);
}
