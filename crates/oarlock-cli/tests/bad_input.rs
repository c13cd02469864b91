//! Bad input: one line on standard error that names the place, and an exit status that tells a refusal from a wrong call.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod call;

use std::fs;
use std::path::Path;

use call::{Call, oarlock};
use oarlock_testkit::{SysDevice, SysTree};

/// Two nodes with four CPUs each (3 and 7 offline), a node without CPUs, two GPUs.
fn machine() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    SysTree::new(2, 1, 1, 4, 1)
        .offline("3,7")
        .memory_only_node(4, 1024)
        .device(SysDevice::gpu("0000:01:00.0").numa_node(0))
        .device(SysDevice::gpu("0000:02:00.0").numa_node(1))
        .write(dir.path())
        .unwrap();
    dir
}

fn plan(machine: &Path, args: &[&str]) -> Call {
    oarlock(&[&["plan", "--machine", machine.to_str().unwrap()], args].concat())
}

#[test]
fn a_refused_value_exits_1_and_names_key_value_place_and_rule() {
    let dir = machine();
    for (flag, value, words) in [
        ("--cpu-map", "bogus", "oarlock.dev/cpu-map \"bogus\": is not a map (rule: auto, numa,"),
        ("--cpu-map", "", "oarlock.dev/cpu-map \"\": is not a map"),
        ("--cpu-map", "0,0,1", "has 3 entries for 2 ranks (rule: a list has one entry per local rank)"),
        ("--cpu-map", "0,,1", "entry 2 (rank 1) is empty"),
        ("--cpu-map", "0,9", "entry 2 (rank 1): there is no node 9"),
        ("--cpu-map", "4,0", "entry 1 (rank 0): node 4 has no cpus"),
        ("--cpu-map", "cpus:0-2;3", "entry 2 (rank 1): cpus 3 are not online on this machine"),
        ("--cpu-map", "cpus:2-0;4", "range \"2-0\" at character 1 is reversed"),
        ("--cpu-map", "cpus:0-2,1;4", "\"1\" at character 5 overlaps an earlier entry"),
        ("--cpu-map", "cpus:0;8192", "the kernel's highest is 8191"),
        ("--cpu-map", "cpus:0;99999999999999999999", "the kernel's highest is 8191"),
        ("--cpu-map", "0,1024", "past the kernel's highest, 1023"),
        ("--mem-map", "", "oarlock.dev/mem-map \"\": is not a map"),
        ("--mem-map", "0,7", "entry 2 (rank 1): there is no node 7"),
        ("--ranks", "eight", "oarlock.dev/ranks \"eight\": is not one (rule: a number of ranks from 1 to 8192)"),
        ("--rank-gpus", "0;2", "entry 2 (rank 1): there is no gpu 2 among 2"),
        ("--gpus", "0,5", "gpus \"gpu 0, gpu 5\": machine"),
        ("--smt", "2", "oarlock.dev/smt \"2\": is not one of them (rule: all or one)"),
    ] {
        let call = plan(dir.path(), &["--cpu-map", "auto", flag, value][if flag == "--cpu-map" { 2.. } else { 0.. }]);
        let line = call.says("oarlock", 1);
        assert!(line.starts_with("oarlock: refused: ") && line.contains(words), "{flag} {value}: {line}");
        assert_eq!(call.stdout, "");
    }
}

#[test]
fn a_refusal_in_json_is_an_object_and_nothing_else() {
    let dir = machine();
    for args in [["--cpu-map", "0,0,1"], ["--cpu-map", "bogus"]] {
        let call = plan(dir.path(), &[&args[..], &["--format", "json"]].concat());
        assert_eq!((call.status, call.stderr.as_str()), (1, ""));
        let object: serde_json::Value = serde_json::from_str(&call.stdout).unwrap();
        let refusal = object["refusal"].as_object().unwrap();
        assert_eq!(refusal.keys().collect::<Vec<_>>(), ["key", "message", "rule", "value"]);
        assert_eq!((&refusal["key"], &refusal["value"]), (&"oarlock.dev/cpu-map".into(), &args[1].into()));
    }
}

#[test]
fn a_wrong_call_exits_2() {
    let dir = machine();
    for (args, words) in [
        (&["--cpumap", "auto"][..], "'--cpumap'"),
        (&["--cpu-map"], "'--cpu-map <MAP>'"),
        (&["--format", "yaml"], "'yaml' for '--format <FORMAT>'"),
        (&["--allowed-cpus", "3-1"], "--allowed-cpus \"3-1\": range \"3-1\" at character 1 is reversed"),
        (&["--allowed-cpus", "0-1,1"], "overlaps"),
        (&["--allowed-mems", "1024"], "the kernel's highest is 1023"),
        (&["--reserved-cpus", "a"], "--reserved-cpus \"a\": \"a\" at character 1 is not a cpu number"),
        (&["--gpus", "0,,1"], "--gpus \"0,,1\": \"\" is empty"),
        (&["--gpus", "0,0-1"], "\"0-1\" names gpu 0 a second time"),
        (&["--gpus", "0000:01:00"], "\"0000:01:00\" is not a PCI address"),
        (&["-f", "x.yaml", "--cpu-map", "auto"], "'--file <FILE>' cannot be used with '--cpu-map <MAP>'"),
        (&["surplus"], "'surplus'"),
    ] {
        let call = plan(dir.path(), args);
        let line = call.says("oarlock", 2);
        assert!(line.contains(words), "{args:?}: {line}");
    }
    assert!(oarlock(&["fly"]).says("oarlock", 2).contains("'fly'"));
    assert_eq!(oarlock(&[]).status, 2);
}

#[test]
fn no_cpu_left_is_a_refusal() {
    let dir = machine();
    for args in [["--allowed-cpus", "3,7"], ["--allowed-cpus", "100-200"], ["--reserved-cpus", "0-7"]] {
        let line = plan(dir.path(), &[&["--cpu-map", "auto"], &args[..]].concat()).says("oarlock", 1).to_owned();
        assert!(line.contains("no cpu is left"), "{line}");
    }
}

#[test]
fn a_source_that_is_none_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        fs::write(dir.path().join(name), content).unwrap();
        dir.path().join(name).to_str().unwrap().to_owned()
    };
    let xml = r#"<?xml version="1.0"?><topology version="2.0"><object type="Machine" os_index="0" cpuset="0x1"#;
    fs::create_dir(dir.path().join("empty")).unwrap();
    for (source, words) in [
        (dir.path().join("absent.json").to_str().unwrap().to_owned(), "absent.json"),
        (dir.path().join("empty").to_str().unwrap().to_owned(), "sys"),
        (file("cut.xml", xml), "1:"),
        (file("empty.xml", ""), "empty.xml"),
        (file("cut.json", "{\"name\": \"x\", \"nodes\": ["), "line 1"),
        (file("wrong.json", "[]"), "wrong.json"),
        (file("nodes.json", r#"{"name":"x","nodes":[],"gpus":[]}"#), "nodes"),
        (
            file("twice.json", r#"{"name":"x","nodes":[{"id":0,"cpulist":"0-3"},{"id":0,"cpulist":"4-7"}],"gpus":[]}"#),
            "node 0",
        ),
        (
            file(
                "shared.json",
                r#"{"name":"x","nodes":[{"id":0,"cpulist":"0-3"},{"id":1,"cpulist":"3-7"}],"gpus":[]}"#,
            ),
            "3",
        ),
        (
            file(
                "elsewhere.json",
                r#"{"name":"x","nodes":[{"id":0,"cpulist":"0-3"},{"id":1,"cpulist":"4-7"}],"gpus":[{"index":0,"numa_node":0,"cpu_affinity":"4-7"}]}"#,
            ),
            "gpu 0",
        ),
        ("synthetic:node:".to_owned(), "synthetic"),
        (file("text.txt", "hello"), "text.txt"),
    ] {
        for command in ["topology", "plan", "capture"] {
            let call = oarlock(&[command, "--machine", &source]);
            let line = call.says("oarlock", 1);
            assert!(line.contains(words), "{command} {source}: {line}");
            assert_eq!(call.stdout, "");
        }
    }
}

#[test]
fn a_file_of_objects_that_is_none_is_said_to_be_none() {
    let dir = machine();
    let path = dir.path().join("job.yaml");
    let pod = |annotations: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: train\n  annotations:\n{annotations}\nspec:\n  containers:\n  - name: main\n"
        )
    };
    for (content, words) in [
        ("kind: Pod\n  spec: [".to_owned(), "job.yaml"),
        (String::new(), "holds no document"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: x}\n".to_owned(), "Service"),
        ("a: &x [1]\nkind: Pod\nspec: *x\n".to_owned(), "alias"),
        (pod("    oarlock.dev/cpu-map: auto\n    oarlock.dev/cpumap: auto"), "oarlock.dev/cpumap \"auto\""),
        (pod("    oarlock.dev/cpu-map: auto\n    oarlock.dev/ranks: 8"), "oarlock.dev/ranks"),
        (pod("    oarlock.dev/cpu-map: \"0,0\""), "has 2 entries for 1 ranks"),
    ] {
        fs::write(&path, &content).unwrap();
        let call = plan(dir.path(), &["-f", path.to_str().unwrap()]);
        let line = call.says("oarlock", 1);
        assert!(line.contains(words), "{content}: {line}");
    }
    assert!(plan(dir.path(), &["-f", "/absent.yaml"]).says("oarlock", 1).contains("/absent.yaml"));
}
