//! `precreate`, `createRuntime` and `poststop`.

use std::fs::{self, File};
use std::os::unix::fs::symlink;

use oarlock_testkit::{Call, SysTree};
use serde_json::{Value, json};

use crate::host::{Host, ID, NAME, config, program, variable};

/// What comes out of the filter.
fn filtered(host: &Host, config: &Value) -> Value {
    let call = host.stage("precreate", config.to_string());
    assert_eq!((call.status, call.stderr.as_str()), (0, ""));
    serde_json::from_str(&call.stdout).unwrap()
}

/// The bytes came out as they went in.
#[track_caller]
fn is_handed_on(call: &Call, bytes: &str) {
    assert_eq!((call.status, call.stdout == bytes), (0, true), "{call:?}");
}

#[test]
fn the_filter_gives_the_ranks_their_places_and_keeps_what_it_does_not_know() {
    let host = Host::new();
    let before = config(&[("omp-threads", "auto")]);
    let after = filtered(&host, &before);
    assert_eq!(after["linux"]["resources"]["cpu"], json!({"cpus": "1-7", "mems": "0-1"}), "cpu 0 is the system's");
    assert_eq!(variable(&after, "OARLOCK_RANK_CPUS").as_deref(), Some("4-7;1-3"), "by the order of the addresses");
    assert_eq!(variable(&after, "OARLOCK_RANK_GPUS").as_deref(), Some("0;2"));
    assert_eq!(variable(&after, "OMP_NUM_THREADS").as_deref(), Some("3"));
    let mut rest = after.clone();
    rest["process"]["env"] = before["process"]["env"].clone();
    rest["linux"].as_object_mut().unwrap().remove("resources");
    assert_eq!(rest, before);
    let entry = host.entry().unwrap();
    assert_eq!((&entry["source"], &entry["cgroup"]), (&json!("hook"), &Value::Null));
    assert_eq!(entry["ranks"]["ranks"][1]["cpus"], "1-3");
    assert_eq!(entry["pod"], json!({"namespace": "oci", "name": "aaaabbbbcccc", "uid": ID}));

    host.stage("poststop", json!({"ociVersion": "1.2.0", "id": ID, "status": "stopped", "bundle": "/"}).to_string());
    assert_eq!(host.entry(), None);
}

#[test]
fn the_systems_cpus_are_those_of_the_call_where_it_names_some() {
    let host = Host::new();
    let mut call = program();
    call.arg("precreate").args(host.flags()).args(["--reserved-cpus", "4-6"]).write_stdin(config(&[]).to_string());
    let after: Value = serde_json::from_slice(&call.output().unwrap().stdout).unwrap();
    assert_eq!(variable(&after, "OARLOCK_RANK_CPUS").as_deref(), Some("7;0-3"));
}

#[test]
fn the_machine_is_that_of_the_call_where_it_names_one() {
    let host = Host::new();
    host.write_machine("another", "1-2");
    fs::rename(host.path("run/machine.json"), host.path("named.json")).unwrap();
    let mut call = program();
    call.arg("precreate").args(host.flags()).arg("--machine").arg(host.path("named.json"));
    let after = call.write_stdin(config(&[]).to_string()).output().unwrap().stdout;
    let after: Value = serde_json::from_slice(&after).unwrap();
    assert_eq!(variable(&after, "OARLOCK_RANK_CPUS").as_deref(), Some("4-7;0,3"));
}

#[test]
fn a_container_stays_within_the_cpuset_it_was_given_and_is_told_of_memory_that_its_nodes_lack() {
    let host = Host::new();
    let mut config = config(&[]);
    let mut place = |cpus: &str, mems: &str| {
        config["linux"]["resources"] = json!({"cpu": {"cpus": cpus, "mems": mems}, "memory": {"limit": 3_u64 << 30}});
        let after = filtered(&host, &config);
        (variable(&after, "OARLOCK_RANK_CPUS").unwrap(), after["linux"]["resources"]["cpu"]["mems"].clone())
    };
    assert_eq!(place("", ""), ("4-7;1-3".to_owned(), json!("0-1")), "kubelet writes that where it gives none");
    assert_eq!(host.entry().unwrap()["before"], json!({"cpus": null, "mems": null}));
    assert_eq!(place("2-5", "0-1").0, "4-5;2-3");
    let entry = host.entry().unwrap();
    assert_eq!(entry["before"], json!({"cpus": "2-5", "mems": "0-1"}), "for whoever gives it back");
    assert!(entry["warnings"].to_string().contains("3072"), "{entry}");
    assert_eq!(place("2-5", "1").1, "1");
}

#[test]
fn one_of_the_maps_alone_asks_for_a_place() {
    for other in ["cpu-map", "mem-map"] {
        let mut config = config(&[]);
        config["annotations"].as_object_mut().unwrap().remove(&format!("oarlock.dev/{other}"));
        assert_eq!(
            variable(&filtered(&Host::new(), &config), "OARLOCK_RANKS").as_deref(),
            Some("2"),
            "without {other}"
        );
    }
}

#[test]
fn of_a_pod_whose_gpus_one_container_holds_the_others_are_left_alone() {
    let host = Host::new();
    let of = |letter: &str, pod: &str, gpus: &str| {
        let mut config = config(&[]);
        config["annotations"]["io.kubernetes.cri.sandbox-uid"] = pod.into();
        config["process"]["env"] = json!([format!("NVIDIA_VISIBLE_DEVICES={gpus}")]);
        serde_json::from_str::<Value>(&config.to_string().replace(ID, &ID.replace('a', letter))).unwrap()
    };
    let is_placed = |config: Value| variable(&filtered(&host, &config), "OARLOCK_RANKS").is_some();
    assert!(is_placed(of("a", "pod", "GPU-0")));
    assert!(!is_placed(of("0", "pod", "void")));
    assert!(is_placed(of("0", "another", "void")));
    assert!(is_placed(of("a", "pod", "void")), "what it held itself before it was made anew is none of another's");
}

#[test]
fn what_the_agent_has_placed_is_left_to_it() {
    let host = Host::new();
    filtered(&host, &config(&[]));
    let mut entry = host.entry().unwrap();
    entry["source"] = "nri".into();
    host.write(&format!("run/ledger/{ID}.json"), &entry.to_string());
    let config = config(&[]).to_string();
    is_handed_on(&host.stage("precreate", config.as_str()), &config);
    let ended = json!({"ociVersion": "1.2.0", "id": ID, "status": "stopped", "bundle": "/"});
    assert_eq!(host.stage("poststop", ended.to_string()).status, 0);
    assert_eq!(host.entry(), Some(entry));
}

#[test]
fn what_does_not_ask_comes_out_as_it_went_in() {
    let host = Host::new();
    let mut sandbox = config(&[]);
    sandbox["annotations"]["io.kubernetes.cri.container-type"] = "sandbox".into();
    let mut crios = config(&[]);
    crios["annotations"]["io.kubernetes.cri-o.ContainerType"] = "sandbox".into();
    let mut without_id = config(&[]);
    without_id["linux"]["cgroupsPath"] = "/by/hand".into();
    let smt_only = json!({"annotations": {"oarlock.dev/smt": "one", "oarlock.dev/on-failure": "refuse"}});
    let others = ["{ \"annotations\" : null }\n\n", "{}"].map(str::to_owned);
    for text in [&sandbox, &crios, &without_id, &smt_only].map(Value::to_string).into_iter().chain(others) {
        let call = host.stage("precreate", text.as_str());
        is_handed_on(&call, &text);
        assert_eq!(call.stderr, "");
    }
    host.write("bundle/config.json", &sandbox.to_string());
    let call = host.stage("createRuntime", state(host.path("bundle").to_str().unwrap(), 1).to_string());
    assert_eq!((call.status, call.stderr.as_str()), (0, ""));
    assert_eq!(host.names_in("run"), ["machine.json"], "nothing was written");
}

#[test]
fn a_container_whose_configuration_cannot_be_handed_on_does_not_start() {
    let host = Host::new();
    let input = host.write("plain.json", "{}");
    let mut call = std::process::Command::new(env!("CARGO_BIN_EXE_oarlock-hook"));
    call.arg("precreate").args(host.flags()).stdin(File::open(input).unwrap());
    let call: Call = call.stdout(File::options().write(true).open("/dev/full").unwrap()).output().unwrap().into();
    assert!(call.says(NAME, 1).contains("failed to write \"standard output\""), "{call:?}");
}

#[test]
fn a_failure_breaks_no_container_that_does_not_ask_to_be_refused() {
    let host = Host::new();
    let whole = config(&[]).to_string();
    let wrong_map = config(&[("rank-gpus", "9")]).to_string();
    for (text, words) in [
        (&whole[..whole.len() / 2], "is not an OCI container's configuration"),
        ("", "is not an OCI container's configuration"),
        ("7", "is not an OCI container's configuration"),
        ("\u{1}\u{2}", "is not an OCI container's configuration"),
        (&*wrong_map, "oarlock.dev/rank-gpus \"9\""),
    ] {
        let call = host.stage("precreate", text);
        is_handed_on(&call, text);
        assert!(call.says(NAME, 0).contains(words), "{call:?}");
    }
    let refused = host.stage("precreate", config(&[("rank-gpus", "9"), ("on-failure", "refuse")]).to_string());
    assert!(refused.says(NAME, 1).contains("oarlock.dev/rank-gpus \"9\""), "{refused:?}");
    assert_eq!(refused.stdout, "");
    assert_eq!(host.names_in("run/ledger"), [""; 0]);
}

#[test]
fn a_configuration_of_ten_megabytes_is_placed_and_an_endless_one_refused() {
    let host = Host::new();
    let mut long = config(&[]);
    long["x-later"] = "y".repeat(10 << 20).into();
    let after = filtered(&host, &long);
    assert_eq!(after["x-later"], long["x-later"]);
    assert_eq!(after["linux"]["resources"]["cpu"]["cpus"], "1-7");
    long["x-later"] = "y".repeat(16 << 20).into();
    let call = host.stage("precreate", long.to_string());
    assert!(call.says(NAME, 1).contains("is longer than 16777216 bytes"), "it cannot be handed on whole");
}

#[test]
fn hostile_annotations_are_refused_in_one_short_line() {
    let host = Host::new();
    let list = "0,".repeat(128 << 10);
    for (key, value) in
        [("cpu-map", &*list), ("mem-map", "0\n1\u{1b}[2J"), ("ranks", "99999999999"), ("cpu-mapp", "auto")]
    {
        let text = config(&[(key, value)]).to_string();
        let call = host.stage("precreate", text.as_str());
        is_handed_on(&call, &text);
        let said = call.says(NAME, 0);
        assert!(said.contains(&format!("oarlock.dev/{key}")) && said.len() < 2200, "{} bytes: {said}", said.len());
    }
}

#[test]
fn a_ledger_that_somebody_else_holds_is_waited_for_a_bounded_time() {
    let host = Host::new();
    fs::create_dir_all(host.path("run/ledger")).unwrap();
    let lock = File::create(host.path("run/ledger.lock")).unwrap();
    lock.lock().unwrap();
    let text = config(&[]).to_string();
    let call = host.stage("precreate", text.as_str());
    is_handed_on(&call, &text);
    assert!(call.says(NAME, 0).contains("has been held by another process"), "{call:?}");
    drop(lock);
    assert_eq!(variable(&filtered(&host, &config(&[])), "OARLOCK_RANKS").as_deref(), Some("2"));
}

#[test]
fn a_machine_file_of_another_boot_is_not_believed() {
    let host = Host::new();
    host.write_machine("another", "");
    let text = config(&[]).to_string();
    let call = host.stage("precreate", text.as_str());
    is_handed_on(&call, &text);
    assert!(call.says(NAME, 0).contains("the machine is not known"), "there are no files to read it from: {call:?}");
    let path = host.path("run/machine.json");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("\"boot\"", "\"x-boot\"")).unwrap();
    is_handed_on(&host.stage("precreate", text.as_str()), &text);
    // Two nodes, numbered the other way round.
    SysTree::new(2, 1, 1, 4, 1).node_ids(&[1, 0]).write(&host.path("")).unwrap();
    let mut numa = config(&[("ranks", "2")]);
    numa["process"]["env"] = json!([]);
    assert_eq!(variable(&filtered(&host, &numa), "OARLOCK_RANK_CPUS").as_deref(), Some("4-7;0-3"));
}

#[test]
fn exclusive_containers_do_not_overlap_though_none_runs_yet() {
    let host = Host::new();
    let exclusive = config(&[("cpu-map", "exclusive"), ("ranks", "1"), ("rank-gpus", "0")]);
    let of = |letter: &str| serde_json::from_str(&exclusive.to_string().replace(ID, &ID.replace('a', letter))).unwrap();
    let cpus = |config: Value| variable(&filtered(&host, &config), "OARLOCK_RANK_CPUS");
    assert_eq!(cpus(of("a")).as_deref(), Some("4-7"));
    assert_eq!(cpus(of("0")).as_deref(), Some("1-3"), "what is left, on the other node");
    let third = host.stage("precreate", of("1").to_string());
    let said = third.says(NAME, 0);
    assert!(said.contains("oci/aaaabbbbcccc") && said.contains("oci/0000bbbbcccc"), "who holds them is named: {said}");
    assert_eq!(cpus(of("a")).as_deref(), Some("4-7"), "its own are not in its way");
    let mut running = host.entry().unwrap();
    running["cgroup"] = "/machine.slice/a".into();
    host.write(&format!("run/ledger/{ID}.json"), &running.to_string());
    is_handed_on(&host.stage("precreate", of("1").to_string()), &of("1").to_string());
    assert_eq!(host.entry(), Some(running), "its cgroup is not known to be gone");
}

#[test]
fn what_a_hook_that_was_killed_has_left_is_removed_by_the_next_one() {
    let host = Host::new();
    filtered(&host, &config(&[]));
    let other_boot = host.entry().unwrap().to_string().replace("0b007-1d", "dead").replace(ID, "stale");
    host.write("run/ledger/stale.json", &other_boot);
    let entry = host.path(&format!("run/ledger/{ID}.json"));
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(121);
    File::options().write(true).open(&entry).unwrap().set_modified(long_ago).unwrap();
    let another = config(&[]).to_string().replace(ID, &ID.replace('a', "0"));
    assert_eq!(host.stage("precreate", another).status, 0);
    assert_eq!(host.names_in("run/ledger"), [format!("{}.json", ID.replace('a', "0"))]);
}

#[test]
fn device_nodes_tell_which_gpus_a_container_holds_whatever_its_environment_says() {
    let host = Host::new();
    for (gpu, minor) in [(1, 7), (2, 3), (3, 0), (4, 1)] {
        let text = format!("Model: \t\t X\nGPU UUID: \t GPU-x\nDevice Minor: \t {minor}\n");
        host.write(&format!("proc/driver/nvidia/gpus/0000:0{gpu}:00.0/information"), &text);
    }
    let device = |name: &str| json!({"path": format!("/dev/{name}"), "type": "c", "major": 195, "minor": 0});
    let gpus = |env: &[&str], devices: &[&str]| {
        let mut config = config(&[]);
        config["process"]["env"] = env.into();
        config["linux"]["devices"] = devices.iter().map(|name| device(name)).collect();
        variable(&filtered(&host, &config), "OARLOCK_RANK_GPUS").unwrap()
    };
    assert_eq!(gpus(&["NVIDIA_VISIBLE_DEVICES=void"], &["nvidia0", "nvidiactl", "nvidia-uvm"]), "2");
    assert_eq!(gpus(&["NVIDIA_VISIBLE_DEVICES=all"], &["nvidia7", "nvidia0"]), "0;2", "an image's variable");
    assert_eq!(
        gpus(&["NVIDIA_VISIBLE_DEVICES=GPU-3"], &["nvidia7", "nvidia3", "nvidia0", "nvidia1"]),
        "3",
        "privileged"
    );
    assert_eq!(gpus(&["NVIDIA_VISIBLE_DEVICES=GPU-1"], &["nvidia0"]), "2", "forged");
    fs::create_dir_all(host.path("sys/class/drm/renderD128")).unwrap();
    symlink("../../../0000:02:00.0", host.path("sys/class/drm/renderD128/device")).unwrap();
    assert_eq!(gpus(&[], &["dri/renderD128", "kfd"]), "1");
    assert_eq!(gpus(&["NVIDIA_VISIBLE_DEVICES=GPU-1", "NVIDIA_VISIBLE_DEVICES=GPU-3"], &[]), "3", "the last counts");
    fs::rename(host.path("sys/class/drm/renderD128"), host.path("sys/class/drm/card0")).unwrap();
    assert_eq!(gpus(&[], &["dri/card0"]), "1");
}

/// The state of a container that is being created.
fn state(bundle: &str, pid: i64) -> Value {
    json!({"ociVersion": "1.2.0", "id": ID, "status": "creating", "pid": pid, "bundle": bundle})
}

#[test]
fn a_state_or_bundle_that_is_no_such_thing_breaks_no_container() {
    let host = Host::new();
    let bundle = host.path("bundle").display().to_string();
    let whole = state(&bundle, 1).to_string();
    let fails = |text: &str, words: &str| {
        let call = host.stage("createRuntime", text);
        assert!(call.says(NAME, 0).contains(words), "{words}: {call:?}");
    };
    fails("", "is not an OCI container's state");
    assert!(host.stage("poststop", "").says(NAME, 0).contains("is not an OCI container's state"));
    fails(&whole[..whole.len() - 9], "is not an OCI container's state");
    fails(&format!("{}{whole}", " ".repeat(17 << 20)), "is longer than 16777216 bytes");
    fails(&whole, "No such file");
    let mut refusing = state(&bundle, 1);
    refusing["annotations"] = config(&[("on-failure", "refuse")])["annotations"].clone();
    let call = host.stage("createRuntime", refusing.to_string());
    assert!(call.says(NAME, 1).contains("No such file"), "the state says what it asks for: {call:?}");
    fails(&state("bundle", 1).to_string(), "a bundle's path is absolute");
    fails(&state(&format!("{bundle}/../bundle"), 1).to_string(), "a bundle's path has no");
    fails(&state("/bundle\u{1b}[2J\n", 1).to_string(), "No such file");
    let file = host.write("bundle/config.json", &config(&[]).to_string()[..70]);
    fails(&whole, "is not an OCI container's configuration");
    fs::remove_file(&file).unwrap();
    symlink("/etc/passwd", &file).unwrap();
    fails(&whole, "failed to read");
    fs::remove_file(&file).unwrap();
    // A pipe, which nobody writes to.
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    fails(&whole, "it is no regular file");
    assert_eq!(host.names_in("run"), ["machine.json"]);
}

#[test]
fn a_host_without_cgroup_v2_and_a_rootless_runtime_are_refused_with_words() {
    let host = Host::new();
    host.write("bundle/config.json", &config(&[]).to_string());
    let bundle = host.path("bundle").display().to_string();
    let call = host.stage("createRuntime", state(&bundle, 1).to_string());
    assert!(call.says(NAME, 0).contains("is not a cgroup2 file system"), "a folder is none: {call:?}");
    fs::remove_file(host.path("sys/fs/cgroup/cgroup.controllers")).unwrap();
    let call = host.stage("createRuntime", state(&bundle, 1).to_string());
    assert!(call.says(NAME, 0).contains("is no cgroup v2 tree"), "{call:?}");
    let text = config(&[]).to_string();
    let call = host.stage("precreate", text.as_str());
    is_handed_on(&call, &text);
    assert!(call.says(NAME, 0).contains("is no cgroup v2 tree"), "{call:?}");
    host.write("proc/self/uid_map", "0 1000 1\n1 100000 65536\n");
    let call = host.stage("createRuntime", state(&bundle, 1).to_string());
    assert!(call.says(NAME, 0).contains("rootless: this is root in a user namespace only"), "{call:?}");
    host.write("bundle/config.json", &config(&[("on-failure", "refuse")]).to_string());
    let call = host.stage("prestart", state(&bundle, 1).to_string());
    assert!(call.says(NAME, 1).contains("rootless"), "{call:?}");
}

#[test]
fn annotations_in_the_state_that_ask_for_nothing_end_the_stage_before_anything_is_read() {
    let host = Host::new();
    let mut state = state("/nowhere", -5);
    state["annotations"] = json!({"other": "x", "oarlock.dev/smt": "one"});
    let call = host.stage("createRuntime", state.to_string());
    assert_eq!((call.status, call.stderr.as_str()), (0, ""));
}
