//! What the agent says to wrong calls, wrong settings, and hosts that are not as they should be.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod host;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use host::{GPU, Host, NODE};
use oarlock_testkit::kubelet::Kubelet;
use rustix::process::Signal;

fn run(mut command: Command) -> (i32, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn wrong_settings_are_one_line_and_status_2() {
    let host = Host::new();
    for (settings, words) in [
        ("gpu: { resorce: a.b/c }\n", vec!["config.yaml", "resorce", "line 4"]),
        ("gpu: { resource: kubernetes.io/gpu }\n", vec!["kubernetes.io/gpu", "no resource name", "line 4"]),
        ("numaNode: { slotsPerNode: 0 }\n", vec!["slotsPerNode is 0"]),
        ("gpu: [\n", vec!["config.yaml"]),
        ("metricsAddress: 127.0.0.1:1\n", vec!["metricsAddress", "line 4"]),
    ] {
        let (status, said) = run(host.command(settings));
        assert_eq!((status, said.lines().count()), (2, 1), "{settings}: {said}");
        assert!(said.starts_with("oarlock-agent: ") && words.iter().all(|word| said.contains(word)), "{said}");
    }
    let mut missing = Command::new(env!("CARGO_BIN_EXE_oarlock-agent"));
    missing.args(["--config", "/nonexistent/config.yaml"]);
    let (status, said) = run(missing);
    assert_eq!(status, 2);
    assert!(said.contains("/nonexistent/config.yaml: No such file"), "{said}");
    for args in [&["--metrics-address", "nowhere"][..], &["--colour"], &["extra"]] {
        let mut wrong = Command::new(env!("CARGO_BIN_EXE_oarlock-agent"));
        let (status, said) = run({
            wrong.args(args);
            wrong
        });
        assert_eq!((status, said.lines().count()), (2, 1), "{said}");
    }
}

#[test]
fn what_the_machine_or_the_host_cannot_do_is_one_line_at_the_end_and_status_1() {
    let host = Host::new();
    let (status, said) = run(host.command("numaNode: { slotsPerNode: 5 }\n"));
    assert_eq!(status, 1);
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("oarlock-agent: slotsPerNode is 5, but node 0 has 4 whole cores"), "{said}");

    let long = format!("gpu: {{ resource: {}.com/gpu }}\n", "a".repeat(63));
    let (status, said) = run(host.command(&long));
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("the kernel allows 107"), "{said}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = host.command("");
    command.arg("--metrics-address").arg(taken.local_addr().unwrap().to_string());
    let (status, said) = run(command);
    assert_eq!(status, 1);
    assert!(said.lines().last().unwrap().contains("failed to listen at 127.0.0.1:"), "{said}");
}

#[test]
fn flags_come_before_the_file_and_what_is_printed_is_a_file_again() {
    let host = Host::new();
    let mut command = host.command("runDir: /var/elsewhere\nreservedCpus: 0-1\n");
    command.arg("--print-config");
    let first = command.output().unwrap();
    assert!(first.status.success());
    let printed = String::from_utf8(first.stdout).unwrap();
    assert!(printed.contains(host.path("run").to_str().unwrap()) && !printed.contains("/var/elsewhere"), "{printed}");
    assert!(printed.contains("reservedCpus: 0-1"), "{printed}");
    let again = host.path("printed.yaml");
    fs::write(&again, &printed).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock-agent"));
    let second = command.arg("--config").arg(&again).arg("--print-config").output().unwrap();
    assert_eq!(String::from_utf8(second.stdout).unwrap(), printed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_missing_or_is_no_folder_is_waited_for() {
    let host = Host::new();
    fs::remove_dir_all(host.kubelet_root()).unwrap();
    let mut agent = host.start();
    agent.answers("/readyz", 503, "device-plugins");
    fs::create_dir_all(host.kubelet_root()).unwrap();
    fs::write(host.plugins(), "").unwrap();
    agent.answers("/readyz", 503, GPU);
    assert!(agent.is_alive());
    fs::remove_file(host.plugins()).unwrap();
    let kubelet = Kubelet::start(&host.kubelet_root());
    kubelet.wait_for_allocatable(GPU, 8).await;
    kubelet.wait_for_allocatable(NODE, 2).await;
    agent.answers("/readyz", 200, "ready");
}

#[test]
fn a_folder_for_the_machine_file_that_cannot_be_is_a_warning() {
    let host = Host::new();
    fs::write(host.path("run"), "a file").unwrap();
    let mut agent = host.start();
    agent.says("failed to write the machine file");
    assert!(agent.is_alive());
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait().code(), Some(0));
}

/// Whether this host lets its tests mount something, for themselves alone.
fn can_mount() -> bool {
    Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_read_only_is_an_error_with_its_reason_until_it_can_be_written() {
    if !can_mount() {
        println!("SKIPPED: unshare --mount is not allowed here");
        return;
    }
    let host = Host::new();
    let kubelet = Kubelet::start(&host.kubelet_root());
    let inner = host.command("");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]);
    command.arg("mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"").arg(host.plugins());
    command.arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let agent = host::Agent::start(command);
    agent.answers("/readyz", 503, "oarlock.dev_gpu.sock: Read-only file system (os error 30)");
    assert_eq!(agent.get("/healthz"), (200, "alive\n".to_owned()));
    let inside = format!("--mount=/proc/{}/ns/mnt", agent.id());
    let mut writable = Command::new("nsenter");
    writable.arg(inside).args(["mount", "-o", "remount,bind,rw"]).arg(host.plugins());
    assert!(writable.status().unwrap().success());
    kubelet.wait_for_allocatable(GPU, 8).await;
    agent.answers("/readyz", 200, "ready");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sigterm_ends_it_at_once() {
    let host = Host::new();
    let kubelet = Kubelet::start(&host.kubelet_root());
    let mut agent = host.start();
    kubelet.wait_for_allocatable(GPU, 8).await;
    // A client that does not say that it has heard of the end: it is waited for, for a while. It has said what HTTP/2 wants
    // to hear before the first call.
    let mut deaf = UnixStream::connect(host.plugins().join("oarlock.dev_gpu.sock")).unwrap();
    deaf.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut greeted = [0; 9];
    deaf.read_exact(&mut greeted).unwrap();
    agent.signal(Signal::TERM);
    agent.says("told to stop");
    agent.signal(Signal::TERM);
    agent.says("told a second time: ending at once");
    assert_eq!(agent.wait().code(), Some(1));
    drop(deaf);
}

#[test]
fn a_sighup_is_answered_in_the_log_and_nothing_else() {
    let host = Host::new();
    let mut agent = host.start();
    agent.answers("/readyz", 503, GPU);
    agent.signal(Signal::HUP);
    agent.says("SIGHUP changes nothing: settings are read at the start only");
    assert!(agent.is_alive());
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait().code(), Some(0));
}

/// Reads until the connection is closed, which must be before `within` is over.
fn closed(mut peer: &TcpStream, within: Duration) -> String {
    peer.set_read_timeout(Some(within)).unwrap();
    let mut said = String::new();
    match peer.read_to_string(&mut said) {
        Ok(_) => {}
        // Closed before all that the peer had said was read.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    said
}

#[test]
fn a_thousand_callers_that_say_nothing_keep_nobody_from_an_answer() {
    let host = Host::new();
    let agent = host.start();
    let silent: Vec<TcpStream> = (0..1000).map(|_| TcpStream::connect(&agent.address).unwrap()).collect();
    assert_eq!(agent.get("/healthz"), (200, "alive\n".to_owned()));
    let files = fs::read_dir(format!("/proc/{}/fd", agent.id())).unwrap().count();
    assert!(files < 200, "{files} files are open");
    // The oldest have given way, long before their time was over.
    assert_eq!(closed(&silent[0], Duration::from_secs(5)), "");
    assert_eq!(closed(silent.last().unwrap(), Duration::from_secs(20)), "");
}

#[test]
fn a_caller_that_speaks_slowly_or_without_end_is_cut() {
    let host = Host::new();
    let agent = host.start();
    let mut endless = TcpStream::connect(&agent.address).unwrap();
    // It may be cut before all is said.
    let _ = write!(endless, "GET /healthz HTTP/1.1\r\nHost: agent\r\nX: {}", "x".repeat(100_000));
    let said = closed(&endless, Duration::from_secs(5));
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 431 "), "{said}");

    let mut slow = TcpStream::connect(&agent.address).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    write!(slow, "GET /healthz HTTP/1.1\r\nX: ").unwrap();
    while slow.write_all(b"x").is_ok() {
        assert!(Instant::now() < until, "the slow caller was never cut");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(agent.get("/healthz").0, 200);
}
