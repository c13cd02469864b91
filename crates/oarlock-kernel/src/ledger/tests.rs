use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::process::{Child, ChildStdout, Command, Stdio};

use oarlock_core::rankenv::{RankEntry, RankEnv};
use oarlock_core::request::MemPolicy;
use tempfile::TempDir;

use super::*;

const BOOT: &str = "5e3c0d7a-boot";
const PATIENCE: Duration = Duration::from_secs(30);
/// How often each of two processes writes.
const COUNT: usize = 100;

/// No field has the value that a wrong implementation would leave there.
fn entry(id: &str) -> Entry {
    let rank = |cpus: &str, gpu: u32| RankEntry {
        cpus: Some(cpus.parse().unwrap()),
        mems: Some("1".parse().unwrap()),
        gpu_mems: "9".parse().unwrap(),
        gpus: vec![gpu],
    };
    Entry {
        id: id.to_owned(),
        name: "trainer".to_owned(),
        pod: Pod { namespace: "ml".to_owned(), name: "job-0".to_owned(), uid: "0d5f".to_owned() },
        boot: BOOT.to_owned(),
        source: Source::Hook,
        cgroup: Some("/kubepods.slice/a:b.scope".to_owned()),
        ranks: RankEnv {
            cpu_map: "auto".to_owned(),
            mem_map: "numa".to_owned(),
            mem_policy: MemPolicy::Preferred,
            ranks: vec![rank("8-11", 3), RankEntry::default(), rank("12-15", 1)],
        },
        container: ContainerSets {
            cpus: "8-15".parse().unwrap(),
            mems: "1".parse().unwrap(),
            gpu_mems: "9".parse().unwrap(),
        },
        before: Before { cpus: Some("0-15".parse().unwrap()), mems: None },
        exclusive: "8-11".parse().unwrap(),
        alone: true,
        reasons: vec!["gpu 3 is on node 1".to_owned()],
        warnings: vec!["a\nb".to_owned()],
        unpinned: false,
        other: serde_json::Map::new(),
    }
}

fn ledger() -> (TempDir, LedgerFolder) {
    let run = tempfile::tempdir().unwrap();
    let ledger = LedgerFolder::in_run_dir(run.path());
    (run, ledger)
}

fn put(ledger: &LedgerFolder, entry: &Entry) {
    ledger.lock(PATIENCE).unwrap().put(entry).unwrap();
}

fn ids(contents: &Contents) -> Vec<&str> {
    contents.entries().map(|entry| entry.id.as_str()).collect()
}

fn file(run: &TempDir, id: &str) -> PathBuf {
    run.path().join(format!("ledger/{id}.json"))
}

#[test]
fn what_is_put_is_read_until_it_is_removed() {
    let (run, ledger) = ledger();
    let mut reader = ledger.reader(BOOT);
    assert_eq!(ids(reader.read().unwrap()), [""; 0]);
    put(&ledger, &entry("b2"));
    put(&ledger, &entry("a1"));
    assert_eq!(ids(reader.read().unwrap()), ["a1", "b2"]);
    assert_eq!(reader.read().unwrap().get("b2"), Some(&entry("b2")));
    let mut changed = entry("b2");
    changed.unpinned = true;
    put(&ledger, &changed);
    assert_eq!(reader.read().unwrap().get("b2"), Some(&changed));
    assert!(ledger.lock(PATIENCE).unwrap().remove("b2").unwrap());
    assert!(!ledger.lock(PATIENCE).unwrap().remove("b2").unwrap());
    assert_eq!(ids(reader.read().unwrap()), ["a1"]);
    fs::remove_dir_all(run.path().join("ledger")).unwrap();
    assert_eq!(ids(reader.read().unwrap()), [""; 0]);
    put(&ledger, &entry("a1"));
    assert_eq!(ids(reader.read().unwrap()), ["a1"]);
}

#[test]
fn an_entry_in_its_file_has_the_form_that_others_read() {
    let (run, ledger) = ledger();
    put(&ledger, &entry("a1"));
    let value: serde_json::Value = serde_json::from_slice(&fs::read(file(&run, "a1")).unwrap()).unwrap();
    let expected = serde_json::json!({
        "id": "a1", "name": "trainer", "pod": {"namespace": "ml", "name": "job-0", "uid": "0d5f"},
        "boot": BOOT, "source": "hook", "cgroup": "/kubepods.slice/a:b.scope",
        "ranks": {"cpu_map": "auto", "mem_map": "numa", "mem_policy": "preferred", "ranks": [
            {"cpus": "8-11", "mems": "1", "gpu_mems": "9", "gpus": [3]},
            {"cpus": null, "mems": null, "gpus": []},
            {"cpus": "12-15", "mems": "1", "gpu_mems": "9", "gpus": [1]}]},
        "container": {"cpus": "8-15", "mems": "1", "gpu_mems": "9"},
        "before": {"cpus": "0-15", "mems": null},
        "exclusive": "8-11", "alone": true, "reasons": ["gpu 3 is on node 1"], "warnings": ["a\nb"], "unpinned": false,
    });
    assert_eq!(value, expected);
}

#[test]
fn fields_of_a_newer_program_stay_in_the_entry() {
    let (run, ledger) = ledger();
    put(&ledger, &entry("a1"));
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(file(&run, "a1")).unwrap()).unwrap();
    value["colour"] = serde_json::json!({"of": ["the", "sea"]});
    fs::write(file(&run, "a1"), value.to_string()).unwrap();
    let mut reader = ledger.reader(BOOT);
    let mut kept = reader.read().unwrap().get("a1").unwrap().clone();
    kept.unpinned = true;
    put(&ledger, &kept);
    let again: serde_json::Value = serde_json::from_slice(&fs::read(file(&run, "a1")).unwrap()).unwrap();
    assert_eq!((&again["colour"], &again["unpinned"]), (&value["colour"], &true.into()));
}

#[test]
fn a_file_that_is_no_entry_is_named_and_the_others_are_read() {
    let (run, ledger) = ledger();
    for id in ["a1", "b2", "c3", "d4"] {
        put(&ledger, &entry(id));
    }
    fs::write(file(&run, "b2"), "{\"id\": \"b2\"").unwrap();
    fs::copy(file(&run, "a1"), file(&run, "c3")).unwrap();
    fs::remove_file(file(&run, "d4")).unwrap();
    symlink(file(&run, "a1"), file(&run, "d4")).unwrap();
    fs::File::create(file(&run, "e5")).unwrap().set_len(1 << 30).unwrap();
    fs::write(run.path().join("ledger/notes.txt"), "x").unwrap();
    fs::write(run.path().join("ledger/.json"), "x").unwrap();
    let mut reader = ledger.reader(BOOT);
    let contents = reader.read().unwrap();
    assert_eq!(ids(contents), ["a1"]);
    let faults: Vec<String> = contents.faults().map(|(id, error)| format!("{id}: {error}")).collect();
    let path = |id| file(&run, id).display().to_string();
    assert_eq!(
        faults,
        [
            format!("b2: \"{}\" is no ledger entry", path("b2")),
            format!("c3: \"{}\" is no ledger entry: it holds container \"a1\"", path("c3")),
            format!("d4: failed to read \"{}\"", path("d4")),
            format!("e5: \"{}\" is no ledger entry: it is longer than 16777216 bytes", path("e5")),
        ]
    );
    put(&ledger, &entry("b2"));
    assert_eq!(ids(reader.read().unwrap()), ["a1", "b2"]);
}

#[test]
fn an_entry_of_another_boot_is_stale_and_holds_nothing() {
    let (_run, ledger) = ledger();
    let mut old = entry("a1");
    old.boot = "5e3c0d7a-before".to_owned();
    put(&ledger, &old);
    put(&ledger, &entry("b2"));
    let mut reader = ledger.reader(BOOT);
    let contents = reader.read().unwrap();
    assert_eq!((ids(contents), contents.stale().collect::<Vec<_>>()), (vec!["b2"], vec!["a1"]));
    assert_eq!(contents.holdings("").holdings.len(), 1);
}

#[test]
fn exclusive_cpus_are_held_by_others_unless_they_were_unpinned() {
    let (_run, ledger) = ledger();
    put(&ledger, &entry("a1"));
    put(&ledger, &Entry { exclusive: "12".parse().unwrap(), ..entry("b2") });
    put(&ledger, &Entry { unpinned: true, ..entry("c3") });
    put(&ledger, &Entry { exclusive: oarlock_core::CpuSet::new(), ..entry("d4") });
    let mut reader = ledger.reader(BOOT);
    let holdings = reader.read().unwrap().holdings("a1").holdings;
    assert_eq!(holdings.len(), 1);
    assert_eq!((holdings[0].holder.as_str(), holdings[0].cpus.to_string()), ("ml/job-0/trainer", "12".to_owned()));
}

#[test]
fn what_a_writer_that_died_has_left_is_no_part_of_the_next_entry() {
    let (run, ledger) = ledger();
    let locked = ledger.lock(PATIENCE).unwrap();
    fs::write(run.path().join("ledger/.new"), "x".repeat(1 << 16)).unwrap();
    locked.put(&entry("a1")).unwrap();
    assert_eq!(ledger.reader(BOOT).read().unwrap().get("a1"), Some(&entry("a1")));
}

#[test]
fn an_id_is_never_a_path() {
    let (run, ledger) = ledger();
    let locked = ledger.lock(PATIENCE).unwrap();
    let long = "a".repeat(129);
    for id in ["", ".", "..", ".new", "a/b", "../a", "a\0", "a\n", "a b", "-a", "ä", &long] {
        let error = locked.put(&entry(id)).unwrap_err();
        assert!(matches!(&error, LedgerError::NoId { .. }), "{error}");
        assert!(error.to_string().len() < 300 && matches!(locked.remove(id), Err(LedgerError::NoId { .. })));
    }
    assert_eq!(fs::read_dir(run.path().join("ledger")).unwrap().count(), 0);
    for id in ["A", "0", "a_b-c.d", &"f".repeat(128)] {
        locked.put(&entry(id)).unwrap();
    }
    drop(locked);
    assert_eq!(ledger.reader(BOOT).read().unwrap().entries().count(), 4);
}

#[test]
fn a_lock_that_another_holds_is_waited_for_and_no_longer_than_allowed() {
    let (run, ledger) = ledger();
    let mut holder = Other::start(&run, "hold");
    let error = ledger.lock(Duration::from_millis(30)).unwrap_err();
    let lock = run.path().join("ledger.lock");
    assert_eq!(error.to_string(), format!("\"{}\" has been held by another process for 30ms", lock.display()));
    assert_eq!(fs::metadata(&lock).unwrap().mode() & 0o777, 0o600);
    holder.kill();
    ledger.lock(PATIENCE).unwrap();
}

#[test]
fn a_lock_on_a_removed_file_excludes_nobody_and_is_not_taken_for_one() {
    let (run, ledger) = ledger();
    let held = ledger.lock(PATIENCE).unwrap();
    fs::remove_file(run.path().join("ledger.lock")).unwrap();
    let again = ledger.lock(PATIENCE).unwrap();
    assert!(matches!(ledger.lock(Duration::ZERO), Err(LedgerError::Busy { .. })));
    drop(again);
    drop(held);
    ledger.lock(PATIENCE).unwrap();
}

#[test]
fn two_processes_that_read_and_write_under_the_lock_lose_no_change() {
    let (run, ledger) = ledger();
    put(&ledger, &entry("count"));
    let mut others = [Other::start(&run, "count"), Other::start(&run, "count")];
    for other in &mut others {
        assert!(other.0.wait().unwrap().success());
    }
    let mut reader = ledger.reader(BOOT);
    assert_eq!(reader.read().unwrap().get("count").unwrap().reasons.len(), 1 + 2 * COUNT);
}

#[test]
fn a_writer_that_is_killed_leaves_no_half_entry_and_no_lock() {
    let (run, ledger) = ledger();
    for round in 0..20_u64 {
        let mut writer = Other::start(&run, "write");
        // Somewhere in its work, another place each time.
        std::thread::sleep(Duration::from_micros(300 * round));
        writer.kill();
        let mut reader = ledger.reader(BOOT);
        let contents = reader.read().unwrap();
        let faults: Vec<String> = contents.faults().map(|(_, error)| error.to_string()).collect();
        assert_eq!(faults, [""; 0]);
        assert!(contents.get("big").unwrap().reasons.len() > 1000);
        ledger.lock(PATIENCE).unwrap();
    }
    assert!(fs::read_dir(run.path().join("ledger")).unwrap().count() <= 2);
}

#[test]
fn a_change_in_the_same_tick_of_the_clock_is_seen() {
    let (_run, ledger) = ledger();
    let locked = ledger.lock(PATIENCE).unwrap();
    let mut reader = ledger.reader(BOOT);
    for round in 0..200 {
        let id = format!("c{round}");
        locked.put(&entry(&id)).unwrap();
        assert!(reader.read().unwrap().get(&id).is_some(), "{id}");
        locked.remove(&id).unwrap();
        assert!(reader.read().unwrap().get(&id).is_none(), "{id}");
    }
}

#[test]
fn a_hundred_entries_are_not_read_again_where_nothing_changed() {
    let (run, ledger) = ledger();
    let locked = ledger.lock(PATIENCE).unwrap();
    for number in 0..100 {
        locked.put(&entry(&format!("c{number}"))).unwrap();
    }
    let folder = run.path().join("ledger");
    let mut reader = ledger.reader(BOOT);
    reader.read().unwrap();
    assert_eq!(reader.seen, None, "a folder that has just changed is looked at again");
    // As if it had been quiet for a while.
    let quiet = std::time::SystemTime::now() - Duration::from_secs(60);
    fs::File::open(&folder).unwrap().set_modified(quiet).unwrap();
    assert_eq!(reader.read().unwrap().entries().count(), 100);
    assert!(reader.seen.is_some());
    // Only a stat: what is written into a file in place does not show, as nobody does that.
    fs::write(file(&run, "c7"), "no entry").unwrap();
    assert_eq!(reader.read().unwrap().faults().count(), 0);
    locked.put(&entry("c100")).unwrap();
    assert_eq!((reader.read().unwrap().entries().count(), reader.read().unwrap().faults().count()), (100, 1));
}

#[test]
fn this_boot_has_an_id_and_what_is_none_is_an_error() {
    let id = boot_id("/proc".as_ref()).unwrap();
    assert_eq!(id.len(), 36);
    let folder = tempfile::tempdir().unwrap();
    let error = boot_id(folder.path()).unwrap_err().to_string();
    assert!(error.contains("sys/kernel/random/boot_id"), "{error}");
}

/// Another process, which does one of these things with the ledger, and what it says: kept open, as it goes on speaking.
struct Other(Child, #[expect(dead_code, reason = "kept open")] BufReader<ChildStdout>);

impl Other {
    fn start(run: &TempDir, what: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["ledger::tests::other", "--exact", "--ignored", "--nocapture"]);
        let mut child = command.env("LEDGER", run.path()).env("WHAT", what).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("ready") {
            assert!(out.read_line(&mut line).unwrap() > 0);
        }
        Self(child, out)
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
#[ignore = "run by other tests, as another process"]
fn other() {
    let ledger = LedgerFolder::in_run_dir(std::env::var_os("LEDGER").unwrap().as_ref());
    let mut reader = ledger.reader(BOOT);
    match std::env::var("WHAT").unwrap().as_str() {
        "hold" => {
            let _held = ledger.lock(PATIENCE).unwrap();
            println!("ready");
            std::thread::sleep(PATIENCE);
        }
        "count" => {
            println!("ready");
            for _ in 0..COUNT {
                let locked = ledger.lock(PATIENCE).unwrap();
                let mut entry = reader.read().unwrap().get("count").unwrap().clone();
                entry.reasons.push("again".to_owned());
                locked.put(&entry).unwrap();
            }
        }
        _ => {
            let mut big = entry("big");
            big.reasons = vec!["x".repeat(300); 2000];
            put(&ledger, &big);
            println!("ready");
            loop {
                put(&ledger, &big);
            }
        }
    }
}
