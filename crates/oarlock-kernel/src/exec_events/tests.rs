use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use super::*;

/// No step of a test takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A subscription; where this host gives none, the reason is printed and the test is over.
fn subscribe(buffer: usize) -> Option<ExecEvents> {
    match ExecEvents::open_with(buffer) {
        Ok(events) => Some(events),
        Err(error) => {
            println!("not run: {error}");
            None
        }
    }
}

/// Reads on until an event fits.
fn read_until(events: &ExecEvents, fits: impl Fn(ExecEvent) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match events.next().unwrap() {
            Some(event) if fits(event) => return,
            Some(_) => {}
            None => events.wait(deadline.checked_duration_since(Instant::now()).unwrap()).unwrap(),
        }
    }
}

fn run_true() -> u32 {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id();
    child.wait().unwrap();
    pid
}

#[test]
fn a_program_that_is_executed_is_told_by_its_process_id() {
    let Some(events) = subscribe(BUFFER) else { return };
    let first = run_true();
    let second = run_true();
    read_until(&events, |event| matches!(event, ExecEvent::Exec { pid, .. } if pid == first));
    read_until(&events, |event| matches!(event, ExecEvent::Exec { pid, at } if pid == second && at <= now()));
}

#[test]
fn events_that_have_no_room_are_told_to_be_lost_and_later_ones_come_again() {
    // The kernel takes this for its smallest buffer.
    let Some(events) = subscribe(1) else { return };
    for _ in 0..40 {
        run_true();
    }
    read_until(&events, |event| event == ExecEvent::Lost);
    while events.next().unwrap().is_some() {}
    let pid = run_true();
    read_until(&events, |event| {
        matches!(event, ExecEvent::Exec { pid: who, .. } if who == pid) || event == ExecEvent::Lost
    });
}

#[test]
fn nothing_but_executions_wakes_the_listener() {
    let Some(events) = subscribe(BUFFER) else { return };
    let mut received = 0;
    let deadline = Instant::now() + PATIENCE;
    // A shell that forks makes events of other kinds, all of which a listener would be sent.
    let mut child = Command::new("sh").args(["-c", "(:); (:); (:); exec /bin/true"]).spawn().unwrap();
    let pid = child.id();
    child.wait().unwrap();
    let mut executed = 0;
    while executed < 2 {
        match events.receive().unwrap() {
            Some(Received::Message(Message::Exec { pid: who, .. })) => executed += u32::from(who == pid),
            Some(Received::Message(Message::Answer { .. })) => {}
            Some(other) => panic!("{other:?} came through the filter"),
            None => events.wait(deadline.checked_duration_since(Instant::now()).unwrap()).unwrap(),
        }
        received += 1;
    }
    assert!(received >= 2);
}

/// What opening says in a namespace of its own; `None` where this host makes none.
fn said_under(unshare: &[&str]) -> Option<String> {
    said_by(Command::new("unshare").args(unshare).arg(std::env::current_exe().unwrap()))
}

/// What opening says in this test's program, which the command runs; `None` where that cannot be run.
fn said_by(command: &mut Command) -> Option<String> {
    command.args(["exec_events::tests::say", "--exact", "--ignored", "--nocapture"]);
    let output = command.stderr(Stdio::inherit()).output().ok().filter(|output| output.status.success())?;
    let output = String::from_utf8(output.stdout).unwrap();
    Some(output.split("said: ").nth(1).unwrap().lines().next().unwrap().to_owned())
}

#[test]
#[ignore = "run by other tests, in other namespaces"]
fn say() {
    match ExecEvents::open() {
        Ok(_) => println!("said: open"),
        Err(error) => println!("said: {error}"),
    }
}

#[test]
fn in_namespaces_that_the_kernel_does_not_speak_to_the_error_says_so() {
    if subscribe(BUFFER).is_none() {
        return;
    }
    for (unshare, expected) in [
        (&["--net"][..], "process events come only in the host's own network namespace"),
        (
            &["--pid", "--fork"],
            "the kernel does not answer: process events come only in the host's own pid and user namespaces",
        ),
    ] {
        match said_under(unshare) {
            Some(said) => assert_eq!(said, expected, "{unshare:?}"),
            None => println!("not run: unshare {unshare:?} fails here"),
        }
    }
    // Linux 6.6 and later let anybody join the group.
    if let Some(said) = said_under(&["--user", "--map-root-user"]) {
        assert!(said.contains("user namespace"), "{said}");
    }
}

#[test]
fn whoever_is_not_root_is_told_what_it_takes() {
    if subscribe(BUFFER).is_none() {
        return;
    }
    match said_by(Command::new(std::env::current_exe().unwrap()).uid(65534)) {
        // Linux 6.6 and later let anybody listen.
        Some(said) => assert!(said == "open" || said.contains("CAP_NET_ADMIN"), "{said}"),
        None => println!("not tried: this program cannot be run by another user"),
    }
}
