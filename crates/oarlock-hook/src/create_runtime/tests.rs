use std::fs;

use clap::Parser as _;
use serde_json::json;

use super::*;

const ID: &str = "c0ffee";
const CGROUP: &str = "sys/fs/cgroup/machine.slice/libpod-c0ffee.scope/container";

/// A host made of files, whose process 41 is the container's, one level below what its runtime was told.
struct Files {
    folder: tempfile::TempDir,
}

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    host: Host,
}

impl Files {
    fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        files.write("proc/sys/kernel/random/boot_id", "b007");
        files.write("proc/self/uid_map", "0 0 4294967295");
        files.write("proc/41/status", "Name: x");
        files.write("proc/41/cgroup", "0::/machine.slice/libpod-c0ffee.scope/container\n");
        files.write("sys/fs/cgroup/cgroup.controllers", "cpuset");
        for (file, text) in [("cpus", "\n"), ("mems", "\n"), ("cpus.effective", "0-6\n"), ("mems.effective", "0-1\n")] {
            files.write(&format!("{CGROUP}/cpuset.{file}"), text);
        }
        let machine = json!({"boot": "b007", "nodes": [
            {"id": 0, "cpulist": "0-3", "memory_mb": 1024}, {"id": 1, "cpulist": "4-7", "memory_mb": 1024}]});
        files.write("run/machine.json", &machine.to_string());
        files
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn host(&self) -> Host {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        Flags::parse_from(["x", "--run-dir", &path("run"), "--host-root", &path("")]).host
    }

    fn place(&self, config: &serde_json::Value, pid: i32) -> Result<(), Failure> {
        let (host, config) = (self.host(), Config::parse(config.to_string().as_bytes(), "a test")?);
        let hierarchy = Hierarchy::open_any_folder(&host.cgroup_root())?.unwrap();
        let proc = Proc::open_any_folder(&host.proc())?;
        place_in(&host, &hierarchy, &proc, &Container { id: ID.to_owned(), config }, pid)
    }

    fn cpuset(&self) -> [String; 2] {
        ["cpus", "mems"].map(|file| {
            let text = fs::read_to_string(self.folder.path().join(CGROUP).join(format!("cpuset.{file}"))).unwrap();
            text.trim().to_owned()
        })
    }

    fn entry(&self) -> Option<Entry> {
        let mut reader = self.host().ledger().reader("b007");
        reader.read().unwrap().get(ID).cloned()
    }
}

fn config(more: &[(&str, &str)]) -> serde_json::Value {
    let mut annotations = json!({"oarlock.dev/cpu-map": "1", "oarlock.dev/mem-map": "auto"});
    for (key, value) in more {
        annotations[format!("oarlock.dev/{key}")] = (*value).into();
    }
    json!({"annotations": annotations, "linux": {"cgroupsPath": "machine.slice:libpod:c0ffee"}})
}

#[test]
fn the_cgroup_gets_its_cpuset_within_what_it_may_use_and_the_ledger_says_so() {
    let files = Files::new();
    files.place(&config(&[]), 41).unwrap();
    assert_eq!(files.cpuset(), ["4-6", "1"]);
    let entry = files.entry().unwrap();
    assert_eq!((entry.source, entry.cgroup.as_deref()), (Source::Hook, CGROUP.strip_prefix("sys/fs/cgroup")));
    assert_eq!(entry.ranks.ranks[0].cpus, "4-6".parse().ok());
}

#[test]
fn what_was_decided_before_the_runtime_began_is_what_it_gets() {
    let files = Files::new();
    files.place(&config(&[]), 41).unwrap();
    let edited = Entry {
        cgroup: None,
        container: ContainerSets { cpus: "2".parse().unwrap(), ..ContainerSets::default() },
        ..files.entry().unwrap()
    };
    files.host().ledger().lock(crate::failure::LEDGER_PATIENCE).unwrap().put(&edited).unwrap();
    files.place(&config(&[("ranks", "0")]), 41).unwrap();
    assert_eq!(files.cpuset(), ["2", "1"], "not planned a second time");
    assert!(files.entry().unwrap().cgroup.is_some());
}

#[test]
fn a_container_that_is_made_again_before_its_end_was_heard_of_is_planned_anew() {
    let files = Files::new();
    files.place(&config(&[]), 41).unwrap();
    files.place(&config(&[("cpu-map", "0"), ("mem-map", "0")]), 41).unwrap();
    assert_eq!(files.cpuset(), ["0-3", "0"]);
}

#[test]
fn a_cgroup_of_which_the_kernel_does_not_say_what_it_may_use_is_not_bounded_by_that() {
    let files = Files::new();
    files.write(&format!("{CGROUP}/cpuset.cpus.effective"), "\n");
    files.write(&format!("{CGROUP}/cpuset.mems.effective"), "\n");
    files.place(&config(&[]), 41).unwrap();
    assert_eq!(files.cpuset(), ["4-7", "1"]);
}

#[test]
fn what_the_agent_has_placed_is_left_to_it() {
    let files = Files::new();
    files.place(&config(&[]), 41).unwrap();
    let agents = Entry { source: Source::Nri, cgroup: None, ..files.entry().unwrap() };
    files.host().ledger().lock(crate::failure::LEDGER_PATIENCE).unwrap().put(&agents).unwrap();
    files.write(&format!("{CGROUP}/cpuset.cpus"), "0-7");
    files.place(&config(&[]), 41).unwrap();
    assert_eq!((files.cpuset()[0].as_str(), files.entry()), ("0-7", Some(agents)));
}

#[test]
fn a_process_that_is_not_the_containers_moves_nothing() {
    let files = Files::new();
    files.write("proc/1/status", "Name: init");
    files.write("proc/1/cgroup", "0::/init.scope\n");
    files.write("proc/7/status", "Name: other");
    files.write("proc/7/cgroup", "0::/machine.slice/libpod-c0ffee1.scope\n");
    files.write("proc/9/status", "Name: other");
    files.write("proc/9/cgroup", "0::/machine.slice/libpod-ac0ffee.scope\n");
    files.write("proc/8/status", "Name: other");
    files.write("proc/8/cgroup", "3:cpuset:/x\n");
    for (pid, words) in [
        (0, "a positive number"),
        (-41, "a positive number"),
        (i32::MAX, "no such process"),
        (1, "it is in the cgroup \"/init.scope\", where one named \"libpod-c0ffee.scope\" is expected"),
        (7, "libpod-c0ffee1.scope"),
        (9, "libpod-ac0ffee.scope"),
        (8, "no cgroup of v2"),
    ] {
        let error = files.place(&config(&[]), pid).unwrap_err().line();
        assert!(error.contains(words), "{pid}: {error}");
    }
    assert!(!names("", "") && !names("x-.scope", ""), "no id names no cgroup");
    let mut lying = config(&[]);
    lying["linux"]["cgroupsPath"] = "/../../init.scope".into();
    assert!(files.place(&lying, 41).is_ok(), "its id names its cgroup");
    files.write("proc/41/cgroup", "0::/../../elsewhere\n");
    assert!(files.place(&config(&[]), 41).is_err());
    assert_eq!(fs::read_dir(files.folder.path().join("run/ledger")).unwrap().count(), 1, "its own entry, and no other");
}

#[test]
fn a_cgroup_without_the_controller_leaves_no_entry() {
    let files = Files::new();
    fs::remove_file(files.folder.path().join(CGROUP).join("cpuset.cpus")).unwrap();
    let error = files.place(&config(&[]), 41).unwrap_err().line();
    assert!(error.contains("the controller cpuset is not enabled there"), "{error}");
    assert_eq!(files.entry(), None);
}

#[test]
fn an_entry_whose_cgroup_is_gone_makes_room() {
    let files = Files::new();
    files.place(&config(&[]), 41).unwrap();
    let gone = Entry {
        id: "gone".to_owned(),
        cgroup: Some("/machine.slice/libpod-gone.scope".to_owned()),
        exclusive: "0-7".parse().unwrap(),
        ..files.entry().unwrap()
    };
    files.host().ledger().lock(crate::failure::LEDGER_PATIENCE).unwrap().put(&gone).unwrap();
    let agents = Entry { id: "agents".to_owned(), source: Source::Nri, exclusive: CpuSet::new(), ..gone };
    files.host().ledger().lock(crate::failure::LEDGER_PATIENCE).unwrap().put(&agents).unwrap();
    let own = files.host().ledger().lock(crate::failure::LEDGER_PATIENCE).unwrap().remove(ID).unwrap();
    assert!(own);
    files.place(&config(&[]), 41).unwrap();
    assert_eq!(files.cpuset()[0], "4-6", "nobody holds these any more");
    assert!(!files.folder.path().join("run/ledger/gone.json").exists());
    assert!(files.folder.path().join("run/ledger/agents.json").exists(), "the agent sees to its own");
}
