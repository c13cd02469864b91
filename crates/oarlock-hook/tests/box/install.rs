//! `oarlock-hook install` and `uninstall`.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use oarlock_testkit::Call;
use serde_json::{Value, json};

use crate::host::{Host, NAME, names_in, program};

fn call(host: &Host, command: &str, arguments: &[&str]) -> Call {
    let (hooks, bin) = (host.path("etc/hooks.d"), host.path("bin"));
    let mut program = program();
    program.arg(command).args(arguments).arg("--hooks-dir").arg(hooks).arg("--bin-dir").arg(bin);
    program.arg("--crio-dir").arg(host.path("etc/crio"));
    program.output().unwrap().into()
}

fn hook(host: &Host, name: &str) -> Value {
    serde_json::from_slice(&fs::read(host.path("etc/hooks.d").join(name)).unwrap()).unwrap()
}

#[test]
fn podman_gets_the_filter_and_crio_none_and_uninstall_leaves_no_trace() {
    let host = Host::new();
    fs::create_dir(host.path("etc")).unwrap();
    let files = ["99-oarlock-create.json", "99-oarlock-poststop.json", "99-oarlock-precreate.json"];
    for (runtime, expected) in [("podman", &files[..]), ("crio", &files[..2])] {
        for _ in 0..2 {
            assert_eq!(
                call(&host, "install", &["--runtime", runtime, "--machine", "m.json", "--reserved-cpus", "0-1"]).status,
                0
            );
            assert_eq!(host.names_in("etc/hooks.d"), expected, "{runtime}");
        }
        let create = hook(&host, files[0]);
        assert_eq!(create["version"], "1.0.0");
        assert_eq!(create["hook"]["path"], env!("CARGO_BIN_EXE_oarlock-hook"));
        let machine = std::path::absolute("m.json").unwrap();
        let args = json!(["oarlock-hook", "createRuntime", "--machine", machine, "--reserved-cpus", "0-1"]);
        assert_eq!(create["hook"]["args"], args, "a hook is called from another folder");
        assert_eq!(create["hook"]["timeout"], 30);
        assert_eq!(create["stages"], json!(["createRuntime"]));
        assert_eq!(create["when"], json!({"annotations": {"^oarlock\\.dev/(cpu|mem)-map$": ".*"}}));
        assert_eq!(call(&host, "uninstall", &["--runtime", runtime]).status, 0);
        assert_eq!(host.names_in("etc"), [""; 0], "{runtime}");
    }
}

#[test]
fn beside_crio_podman_has_no_filter_whoever_was_installed_first() {
    let host = Host::new();
    let files = || host.names_in("etc/hooks.d").len();
    assert_eq!(call(&host, "install", &["--runtime", "podman"]).status, 0);
    assert_eq!(files(), 3);
    assert_eq!(call(&host, "install", &["--runtime", "crio"]).status, 0);
    assert_eq!(files(), 2, "CRI-O refuses the third");
    fs::create_dir(host.path("etc/crio")).unwrap();
    let told = call(&host, "install", &["--runtime", "podman"]);
    assert!(told.stdout.contains("left out the filter"), "{told:?}");
    assert_eq!(files(), 2);
}

#[test]
fn the_folder_that_crio_watches_stays_without_our_hooks() {
    let host = Host::new();
    fs::create_dir_all(host.path("etc/crio")).unwrap();
    assert_eq!(call(&host, "install", &["--runtime", "crio"]).status, 0);
    let watched = fs::metadata(host.path("etc/hooks.d")).unwrap().ino();
    assert_eq!(call(&host, "uninstall", &[]).status, 0);
    assert_eq!(host.names_in("etc/hooks.d"), [""; 0]);
    assert_eq!(call(&host, "install", &["--runtime", "crio"]).status, 0);
    assert_eq!(fs::metadata(host.path("etc/hooks.d")).unwrap().ino(), watched);
}

#[test]
fn hooks_of_others_stay() {
    let host = Host::new();
    host.write("etc/hooks.d/other.json", "{}");
    assert_eq!(call(&host, "install", &["--runtime", "podman"]).status, 0);
    assert_eq!(call(&host, "uninstall", &[]).status, 0);
    assert_eq!(host.names_in("etc/hooks.d"), ["other.json"]);
    assert_eq!(call(&host, "uninstall", &[]).status, 0, "a second time does no harm");
}

#[test]
fn containerd_gets_a_runtime_and_its_administrator_is_told_what_to_write() {
    let host = Host::new();
    host.write("bin/oarlock-runtime-mine", "somebody's");
    let told = call(&host, "install", &["--runtime", "containerd", "--real", "crun"]);
    let path = host.path("bin/oarlock-runtime-crun");
    assert_eq!(fs::read_link(&path).unwrap().to_str(), Some(env!("CARGO_BIN_EXE_oarlock-hook")));
    for words in [
        &format!("BinaryName = \"{}\"", path.display())[..],
        "pod_annotations = [\"oarlock.dev/*\"]",
        "[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.oarlock]",
        "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.oarlock.options]",
        "handler: oarlock",
    ] {
        assert!(told.stdout.contains(words), "{words}: {}", told.stdout);
    }
    let (_, dockers) = told.stdout.split_once("daemon.json:").unwrap();
    let dockers = serde_json::from_str::<Value>(dockers).unwrap();
    assert_eq!(dockers, json!({"runtimes": {"oarlock": {"path": path}}}));
    assert_eq!(call(&host, "install", &["--runtime", "containerd"]).status, 0);
    assert_eq!(call(&host, "install", &["--runtime", "containerd", "--real", "mine"]).status, 1, "not over somebody's");
    assert_eq!(call(&host, "uninstall", &[]).status, 0);
    assert_eq!(names_in(&host.path("bin")), ["oarlock-runtime-mine"]);
}

/// A call in a container, in which the host's root is a folder: the host's own paths are nowhere else.
fn call_in_container(host: &Host, command: &str, arguments: &[&str]) -> Call {
    let root = host.path("mnt");
    let mut program = program();
    program.arg(command).args(arguments).arg("--root").arg(root).args(["--copy-to", "/opt/oarlock/bin"]);
    program.args(["--hooks-dir", "/data/hooks.d", "--bin-dir", "/opt/oarlock/bin"]);
    program.output().unwrap().into()
}

#[test]
fn from_a_container_a_copy_is_installed_and_what_is_written_names_the_hosts_paths() {
    let host = Host::new();
    host.write("mnt/opt/oarlock/bin/oarlock-hook", "an older one");
    fs::create_dir_all(host.path("mnt/etc/crio")).unwrap();
    for _ in 0..2 {
        let call = call_in_container(&host, "install", &["--runtime", "podman", "--run-dir", "/run/numa"]);
        assert_eq!(call.status, 0, "{call:?}");
        assert!(call.stdout.contains("left out the filter"), "CRI-O is looked for on the host: {call:?}");
    }
    let copy = host.path("mnt/opt/oarlock/bin/oarlock-hook");
    assert!(fs::read(&copy).unwrap() == fs::read(env!("CARGO_BIN_EXE_oarlock-hook")).unwrap(), "not a copy");
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(host.names_in("mnt/opt/oarlock/bin"), ["oarlock-hook"]);
    assert_eq!(host.names_in("mnt/data/hooks.d"), ["99-oarlock-create.json", "99-oarlock-poststop.json"]);
    let text = fs::read(host.path("mnt/data/hooks.d/99-oarlock-create.json")).unwrap();
    let hook = serde_json::from_slice::<Value>(&text).unwrap();
    assert_eq!(hook["hook"]["path"], "/opt/oarlock/bin/oarlock-hook");
    assert_eq!(hook["hook"]["args"], json!(["oarlock-hook", "createRuntime", "--run-dir", "/run/numa"]));
    assert_eq!(call_in_container(&host, "uninstall", &[]).status, 0);
    assert_eq!(host.names_in("mnt/opt/oarlock/bin"), [""; 0]);
    assert_eq!(host.names_in("mnt/data/hooks.d"), [""; 0], "the folder is CRI-O's");
}

#[test]
fn from_a_container_containerds_runtime_is_a_link_to_the_copy_that_a_second_call_leaves_alone() {
    let host = Host::new();
    let install = || call_in_container(&host, "install", &["--runtime", "containerd"]);
    let told = install();
    assert!(told.stdout.contains("BinaryName = \"/opt/oarlock/bin/oarlock-runtime\""), "{told:?}");
    let link = host.path("mnt/opt/oarlock/bin/oarlock-runtime");
    assert_eq!(fs::read_link(&link).unwrap().to_str(), Some("/opt/oarlock/bin/oarlock-hook"));
    let made = fs::symlink_metadata(&link).unwrap();
    assert_eq!(install().status, 0);
    let found = fs::symlink_metadata(&link).unwrap();
    assert_eq!((made.ino(), made.ctime(), made.ctime_nsec()), (found.ino(), found.ctime(), found.ctime_nsec()));
    assert_eq!(call_in_container(&host, "uninstall", &["--runtime", "containerd"]).status, 0);
    assert_eq!(host.names_in("mnt/opt/oarlock/bin"), [""; 0]);
}

#[test]
fn from_another_root_without_a_copy_there_nothing_would_be_called() {
    let host = Host::new();
    let call = call(&host, "install", &["--runtime", "crio", "--root", "/host"]);
    assert!(call.says(NAME, 2).contains("--copy-to"), "{call:?}");
    assert_eq!(host.names_in("etc"), [""; 0]);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_in_one_line() {
    let host = Host::new();
    host.write("etc", "no folder");
    let call = call(&host, "install", &["--runtime", "crio"]);
    assert!(call.says(NAME, 1).contains("failed to write"), "{call:?}");
    fs::remove_file(host.path("etc")).unwrap();
    host.write("etc/hooks.d/99-oarlock-create.json/file", "no file that can be removed");
    let call = self::call(&host, "uninstall", &[]);
    assert!(call.says(NAME, 1).contains("failed to write"), "{call:?}");
}
