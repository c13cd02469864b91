//! `oarlock-hook runtime`, and the same by the name of a runtime.

use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use oarlock_testkit::Call;
use serde_json::Value;

use crate::host::{Host, ID, NAME, config, names_in, program, variable};

/// A runtime that writes down how it was called, and does as `$DO` says.
const REAL: &str = r#"#!/bin/sh
printf '%s\n' "$@" >"$0.called"
eval "$DO"
"#;

/// Its bit in a set of signals.
const SIGPIPE: u64 = 1 << 12;

/// Another process writes the program: what this one has open for writing, another test's child has too until it executes
/// something, and the kernel executes no file that somebody writes (`ETXTBSY`).
fn real(host: &Host, name: &str) -> PathBuf {
    let real = host.path("bin").join(name);
    let install =
        Command::new("install").args(["-D", "-m", "755"]).arg(host.write("real.sh", REAL)).arg(&real).status();
    assert!(install.unwrap().success());
    real
}

fn bundle(host: &Host, config: &Value) -> String {
    let path = host.write("bundle/config.json", &config.to_string());
    fs::set_permissions(path, Permissions::from_mode(0o640)).unwrap();
    host.path("bundle").display().to_string()
}

fn call(host: &Host, arguments: &[&str], then: &str) -> Call {
    let real = real(host, "real");
    let mut program = program();
    program.arg("runtime").args(host.flags()).arg("--real").arg(real).args(arguments).env("DO", then);
    program.output().unwrap().into()
}

fn read(host: &Host) -> Value {
    serde_json::from_slice(&fs::read(host.path("bundle/config.json")).unwrap()).unwrap()
}

#[test]
fn at_create_the_bundle_is_edited_and_the_real_runtime_is_called_as_this_one_was() {
    let host = Host::new();
    let bundle = bundle(&host, &config(&[]));
    let file = host.path("bundle/config.json");
    chown(&file, Some(1234), Some(5678)).unwrap();
    let mut reader = File::open(&file).unwrap();
    let words = ["--root", "/run/x y", "--log-format=json", "create", "--bundle", &bundle, "--pid-file", "", ID];
    let done = call(&host, &words, "echo out; echo err >&2; exit 37");
    assert_eq!((done.status, done.stdout.as_str(), done.stderr.as_str()), (37, "out\n", "err\n"));
    assert_eq!(fs::read_to_string(host.path("bin/real.called")).unwrap().lines().collect::<Vec<_>>(), words);
    let after = read(&host);
    assert_eq!(variable(&after, "OARLOCK_RANK_CPUS").as_deref(), Some("4-7;1-3"));
    assert_eq!(after["x-later"], config(&[])["x-later"]);
    let hook = &after["hooks"]["createRuntime"][0];
    assert_eq!(hook["path"], env!("CARGO_BIN_EXE_oarlock-hook"));
    assert_eq!(hook["args"][1], "createRuntime");
    assert_eq!(hook["args"].as_array().unwrap()[2..], host.flags(), "the hook is for the same host");
    assert_eq!(hook["timeout"], 30);
    assert_eq!(after["hooks"]["poststop"][0]["args"][1], "poststop");
    let stat = fs::metadata(file).unwrap();
    assert_eq!((stat.mode() & 0o777, stat.uid(), stat.gid()), (0o640, 1234, 5678));
    let mut before = String::new();
    reader.read_to_string(&mut before).unwrap();
    assert_eq!(before, config(&[]).to_string(), "whoever reads it meanwhile sees the whole file");
    assert_eq!(host.names_in("bundle"), ["config.json"]);
    assert_eq!(host.entry().unwrap()["cgroup"], Value::Null);
}

#[test]
fn a_bundle_named_from_the_working_folder_is_edited_and_so_is_a_configuration_of_another_name() {
    let host = Host::new();
    bundle(&host, &config(&[]));
    let other = host.write("other.json", &config(&[]).to_string());
    let real = real(&host, "real");
    let create = |arguments: &[&str]| {
        let mut program = program();
        program.current_dir(host.path("")).arg("runtime").args(host.flags()).arg("--real").arg(&real);
        assert_eq!(
            program.args(["create", "--bundle", "bundle"]).args(arguments).output().unwrap().status.code(),
            Some(0)
        );
    };
    create(&["--config", "other.json", ID]);
    assert_eq!(read(&host), config(&[]), "it is not what the container is made from");
    let edited: Value = serde_json::from_slice(&fs::read(other).unwrap()).unwrap();
    assert_eq!(variable(&edited, "OARLOCK_RANKS").as_deref(), Some("2"));
    create(&["--config", "config.json", ID]);
    assert_eq!(read(&host), edited, "that name is the bundle's, wherever it is called from");
}

#[test]
fn all_other_calls_and_containers_that_do_not_ask_leave_the_bundle_alone() {
    let host = Host::new();
    let bundle_path = bundle(&host, &config(&[]));
    for words in [
        &["delete", "--force", ID][..],
        &["--version"],
        &["state", ID],
        &["exec", "--process", &bundle_path, ID],
        &["features", "--bundle", &bundle_path],
    ] {
        assert_eq!(call(&host, words, "exit 3").status, 3, "{words:?}");
        assert_eq!(fs::read_to_string(host.path("bin/real.called")).unwrap().lines().collect::<Vec<_>>(), words);
    }
    assert_eq!(read(&host), config(&[]));
    let plain = serde_json::json!({"annotations": {"other": "x"}});
    bundle(&host, &plain);
    assert_eq!(call(&host, &["create", "--bundle", &bundle_path, ID], "exit 0").status, 0);
    assert_eq!(read(&host), plain);
    assert_eq!(host.names_in("run"), ["machine.json"]);
}

#[test]
fn what_cannot_be_placed_is_created_as_it_is_unless_it_asks_to_be_refused() {
    let host = Host::new();
    let path = bundle(&host, &config(&[("ranks", "0")]));
    let done = call(&host, &["create", "--bundle", &path, ID], "echo made");
    assert_eq!((done.status, done.stdout.as_str(), done.stderr.as_str()), (0, "made\n", ""), "not in its output");
    assert_eq!(read(&host), config(&[("ranks", "0")]));

    for missing in ["bundle", "nowhere"] {
        fs::write(host.path("bundle/config.json"), "{\"annotations\":{\"oarlock.dev/on-fail").unwrap();
        let path = host.path(missing).display().to_string();
        assert_eq!(
            call(&host, &["create", "--bundle", &path, ID], "exit 5").status,
            5,
            "the real one knows what to say"
        );
    }

    bundle(&host, &config(&[("ranks", "0"), ("on-failure", "refuse")]));
    fs::remove_file(host.path("bin/real.called")).unwrap();
    let log = host.path("log.json").display().to_string();
    let words = ["--log", &log, "--log-format", "json", "create", "--bundle", &path, ID];
    let refused = call(&host, &words, "exit 0");
    assert!(refused.says(NAME, 1).contains("oarlock.dev/ranks \"0\""), "{refused:?}");
    let told: Value = serde_json::from_str(&fs::read_to_string(&log).unwrap()).unwrap();
    assert_eq!(told["level"], "error");
    assert!(told["msg"].as_str().unwrap().contains("oarlock.dev/ranks \"0\""), "where containerd looks: {told}");
    assert!(!host.path("bin/real.called").exists());

    let words = ["--log", &log, "--log-format", "text", "create", "--bundle", &path, ID];
    assert_eq!(call(&host, &words, "exit 0").status, 1);
    let told = fs::read_to_string(&log).unwrap();
    let told: Vec<&str> = told.lines().collect();
    assert!(told[0].starts_with('{'), "what was there stays: {told:?}");
    assert!(told[1].starts_with("level=error msg=\"oarlock-hook: ") && told[1].ends_with('"'), "{told:?}");
    assert_eq!(told[1].matches('"').count(), 2, "{told:?}");
}

#[test]
fn a_configuration_that_cannot_be_put_in_place_is_left_and_so_is_the_ledger() {
    let host = Host::new();
    // The kernel's longest path (`PATH_MAX`) is that of the configuration: a file beside it with a longer name can not be.
    let mut bundle = host.path("bundle");
    let length = 4095 - "/config.json".len();
    while bundle.as_os_str().len() < length {
        let rest = length - bundle.as_os_str().len() - 1;
        bundle.push("d".repeat(if rest > 200 { 100 } else { rest }));
    }
    fs::create_dir_all(&bundle).unwrap();
    fs::write(bundle.join("config.json"), config(&[]).to_string()).unwrap();
    let bundle = bundle.to_str().unwrap();
    assert_eq!(call(&host, &["create", "--bundle", bundle, ID], "exit 5").status, 5);
    assert_eq!((host.entry(), host.names_in("run/ledger")), (None, vec![]), "planned, and taken back");
    assert_eq!(names_in(bundle.as_ref()), ["config.json"]);
}

#[test]
fn a_configuration_that_cannot_be_edited_is_left_and_so_is_the_ledger() {
    let host = Host::new();
    let mut odd = config(&[]);
    odd["hooks"] = "none".into();
    let path = bundle(&host, &odd);
    assert_eq!(call(&host, &["create", "--bundle", &path, ID], "exit 5").status, 5);
    assert_eq!((read(&host), host.names_in("run/ledger")), (odd, vec![]));
}

#[test]
fn a_real_runtime_that_cannot_be_executed_is_an_error_in_one_line() {
    let host = Host::new();
    let real = host.write("real", "#!/nowhere\n");
    fs::set_permissions(&real, Permissions::from_mode(0o755)).unwrap();
    let mut program = program();
    let call: Call = program.args(["runtime", "--real"]).arg(real).args(["state", ID]).output().unwrap().into();
    assert!(call.says(NAME, 1).contains("failed to execute"), "{call:?}");
}

#[test]
fn a_real_runtime_is_found_where_systems_have_it_also_by_a_caller_whose_path_is_another() {
    let host = Host::new();
    let no_program = host.write("sh", "not to be executed");
    for path in [no_program.parent().unwrap().to_str().unwrap(), "/nowhere", ""] {
        // Nor one of the working folder's, which anybody may have put there.
        let mut program = program();
        program.current_dir(real(&host, "sh").parent().unwrap());
        let call = program.env("PATH", path).args(["runtime", "--real", "sh", "-c", "exit 7"]).output().unwrap();
        assert_eq!(call.status.code(), Some(7), "{call:?}");
    }
}

#[test]
fn signals_descriptors_and_the_process_are_the_real_runtimes() {
    let host = Host::new();
    let real = real(&host, "real");
    let mut child = Command::new("sh")
        .args(["-c", "exec 5>\"$1\"; shift; exec \"$@\"", "sh"])
        .arg(host.path("fifth"))
        .arg(env!("CARGO_BIN_EXE_oarlock-hook"))
        .arg("runtime")
        .args(host.flags())
        .arg("--real")
        .arg(real)
        .args(["create", ID])
        .env(
            "DO",
            "trap 'exit 42' TERM; echo $$ >&5; sed -n s/^SigIgn:.//p /proc/$$/status; while :; do sleep 0.05; done",
        )
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let written = || fs::read_to_string(host.path("fifth")).unwrap_or_default();
    while !written().ends_with('\n') {
        assert_eq!(child.try_wait().unwrap(), None);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(written().trim(), child.id().to_string(), "no process between");
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(42));
    let ignored = u64::from_str_radix(String::from_utf8(output.stdout).unwrap().trim(), 16).unwrap();
    assert_eq!(ignored & SIGPIPE, 0, "a Rust program ignores it, and its successor shall not");
}

#[test]
fn by_its_name_it_is_a_runtime_in_front_of_the_one_named_or_found_and_never_of_itself() {
    let host = Host::new();
    for name in ["crun", "runc"] {
        real(&host, name);
    }
    let links = host.path("links");
    fs::create_dir(&links).unwrap();
    let by = |name: &str| {
        let link = links.join(name);
        symlink(env!("CARGO_BIN_EXE_oarlock-hook"), &link).unwrap();
        let path = format!("{}:{}:/usr/bin:/bin", links.display(), host.path("bin").display());
        let mut program = assert_cmd::Command::new(link);
        let call: Call =
            program.args(["delete", "x"]).env("PATH", path).env("DO", "basename $0").output().unwrap().into();
        call.stdout
    };
    symlink(env!("CARGO_BIN_EXE_oarlock-hook"), links.join("runc")).unwrap();
    assert_eq!(by("oarlock-runtime"), "runc\n");
    assert_eq!(by("oarlock-runtime-crun"), "crun\n");
    assert_eq!(names_in(&links).len(), 3);
    let own = env!("CARGO_BIN_EXE_oarlock-hook");
    let call: Call = program().args(["runtime", "--real", own, "create", "x"]).output().unwrap().into();
    assert!(call.says(NAME, 1).contains("there is no other OCI runtime here"), "{call:?}");
}
