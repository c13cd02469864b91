//! `oarlock run` on this very host.

mod call;
mod live;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use call::Call;
use live::{Running, a_pci_device, eventually, is_alive, oarlock, run, two_cpus, without_memory_policy};

/// Both ends of the allowed CPUs, a rank on each.
fn two_lists() -> String {
    let (first, last) = two_cpus();
    format!("cpus:{first};{last}")
}

fn lines_of(text: &str, rank: usize) -> Vec<&str> {
    let prefix = format!("[{rank}] ");
    text.lines().filter_map(|line| line.strip_prefix(&*prefix)).collect()
}

/// The line of a status that an unbound rank has as well as this test.
#[expect(clippy::unwrap_used, reason = "part of tests, where clippy does not see that")]
fn inherited() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    status.lines().find(|line| line.starts_with("Cpus_allowed_list")).unwrap().to_owned()
}

#[test]
fn every_rank_is_told_who_it_is_and_how_all_were_placed() {
    let lists = two_lists();
    let names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR OARLOCK_RANKS OARLOCK_CPU_MAP OARLOCK_MEM_MAP \
        OARLOCK_MEM_POLICY OARLOCK_RANK_CPUS OARLOCK_RANK_MEMS OARLOCK_RANK_GPUS OMP_NUM_THREADS";
    let script = format!("for name in {names}; do eval echo \\\"\\$$name\\\"; done; echo \"$MASTER_PORT\"");
    let arguments = ["run", "--nproc-per-node", "2", "--cpu-map", &lists, "--mem-map", "0,0", "--gpus", "none"];
    let said = run(arguments.into_iter().chain(["--omp-threads", "7", "--", "sh", "-c", &script]));
    assert_eq!((said.status, &*said.stderr), (0, ""));
    let (zero, one) = (lines_of(&said.stdout, 0), lines_of(&said.stdout, 1));
    let cpus = lists.strip_prefix("cpus:").unwrap();
    let expected = |rank: &'static str| {
        vec![rank, rank, "2", "2", "127.0.0.1", "2", &*lists, "0,0", "bind", cpus, "0;0", ";", "7"]
    };
    assert_eq!(zero[..13], expected("0"));
    assert_eq!(one[..13], expected("1"));
    let port: u16 = zero[13].parse().unwrap();
    assert!(port > 1023);
    assert_eq!(zero[13], one[13], "the ranks must meet");
}

#[test]
fn what_the_environment_already_says_of_port_and_threads_stays() {
    let arguments = ["run", "--omp-threads", "7", "--", "sh", "-c", "echo $MASTER_PORT $OMP_NUM_THREADS"];
    let output = oarlock(arguments).env("MASTER_PORT", "29555").env("OMP_NUM_THREADS", "3").output().unwrap();
    assert_eq!(Call::from(output).stdout, "[0] 29555 3\n");
}

#[test]
fn each_rank_is_bound_before_it_executes_anything_and_the_next_one_is_bound_anew() {
    let (first, last) = two_cpus();
    let (lists, script) = (two_lists(), "grep -h _allowed_list /proc/self/status; head -1 /proc/self/numa_maps");
    let said = run(["run", "--nproc-per-node", "2", "--cpu-map", &lists, "--mem-map", "0,0", "--", "sh", "-c", script]);
    assert_eq!(said.status, 0, "{}", said.stderr);
    for (rank, cpu) in [(0, first), (1, last)] {
        let lines = lines_of(&said.stdout, rank);
        assert_eq!(lines[0], format!("Cpus_allowed_list:\t{cpu}"));
        assert!(lines[2].contains(" bind:0 "), "{}", lines[2]);
    }
}

#[test]
fn the_policy_preferred_leaves_pages_to_first_touch() {
    let arguments = ["run", "--mem-map", "0", "--mem-policy", "preferred", "--", "head", "-1", "/proc/self/numa_maps"];
    let said = run(arguments);
    assert!(said.stdout.contains(" default "), "{}", said.stdout);
}

#[test]
fn without_maps_nothing_is_bound_and_one_rank_runs() {
    let inherited = inherited();
    let said = run(["run", "--gpus", "none", "--", "grep", "Cpus_allowed_list", "/proc/self/status"]);
    assert_eq!((said.status, said.stdout, &*said.stderr), (0, format!("[0] {inherited}\n"), ""));
}

#[test]
fn lines_of_64_kib_from_several_ranks_stay_whole() {
    let script = "letter=$(echo abcd | cut -c $((LOCAL_RANK + 1)))
        line=$(head -c 65536 /dev/zero | tr '\\0' $letter)
        for i in 1 2 3 4 5 6 7 8; do echo $line; echo $line >&2; done";
    let command = format!("exec '{}' run --nproc-per-node 4 -- sh -c \"$0\" 2>&1", env!("CARGO_BIN_EXE_oarlock"));
    let output = Command::new("sh").args(["-c", &command, script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 4 * 2 * 8);
    for (rank, letter) in (0..4).zip(["a", "b", "c", "d"]) {
        let lines = lines_of(&text, rank);
        assert_eq!(lines.len(), 16);
        assert!(lines.iter().all(|line| *line == letter.repeat(65536)));
    }
}

#[test]
fn a_last_line_without_its_end_and_bytes_that_are_no_text_appear() {
    let output = oarlock(["run", "--", "sh", "-c", r"printf 'a\n\n\377\000b'; printf 'oops' >&2"]).output().unwrap();
    assert_eq!(output.stdout, b"[0] a\n[0] \n[0] \xff\x00b\n");
    assert_eq!(output.stderr, b"[0] oops\n");
}

#[test]
fn ranks_have_no_standard_input() {
    let mut command = oarlock(["run", "--nproc-per-node", "2", "--", "cat"]);
    let mut running = Running::start(command.stdin(Stdio::piped()));
    assert_eq!(running.line(), "");
    assert_eq!(running.end().status, 0);
}

#[test]
fn the_status_of_the_first_failure_counts_and_the_other_ranks_are_ended() {
    let ready = tempfile::tempdir().unwrap();
    let script = format!(
        "cd {}; if [ $LOCAL_RANK = 2 ]; then until [ -e 0 -a -e 1 ]; do sleep 0.02; done; exit 7; fi
        trap 'echo told; exit 9' TERM; : > $LOCAL_RANK; while :; do read -r line < /dev/null; done",
        ready.path().display()
    );
    let start = Instant::now();
    let said = run(["run", "--nproc-per-node", "3", "--", "sh", "-c", &script]);
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert_eq!(said.status, 7);
    assert_eq!((lines_of(&said.stdout, 0), lines_of(&said.stdout, 1)), (vec!["told"], vec!["told"]));
    assert!(said.stderr.starts_with("oarlock: rank 2 (process "), "{}", said.stderr);
    assert!(said.stderr.ends_with(") exited with status 7: ending the other ranks\n"), "{}", said.stderr);
    assert_eq!(said.stderr.lines().count(), 1);
}

#[test]
fn a_rank_that_does_not_end_when_asked_is_killed_after_the_grace_period() {
    let ready = tempfile::tempdir().unwrap();
    let script = format!(
        "cd {}; if [ $LOCAL_RANK = 0 ]; then until [ -e 1 ]; do sleep 0.02; done; exit 4; fi
        trap '' TERM; : > 1; while :; do sleep 0.05; done",
        ready.path().display()
    );
    let start = Instant::now();
    let said = run(["run", "--grace-period", "1", "--nproc-per-node", "2", "--", "sh", "-c", &script]);
    assert_eq!(said.status, 4);
    assert!((Duration::from_secs(1)..Duration::from_secs(8)).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[test]
fn a_rank_that_is_killed_counts_as_128_and_the_signal() {
    let said = run(["run", "--nproc-per-node", "2", "--", "sh", "-c", "[ $LOCAL_RANK = 0 ] && kill -9 $$; sleep 60"]);
    assert_eq!(said.status, 137);
    assert!(said.stderr.contains("was ended by signal 9"), "{}", said.stderr);
}

#[test]
fn signals_reach_every_rank() {
    for name in ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"] {
        let script = format!("trap 'echo got; exit 0' {name}; echo ready; while :; do sleep 0.02; done");
        let mut running = Running::start(&mut oarlock(["run", "--nproc-per-node", "2", "--", "sh", "-c", &script]));
        let ready = [running.line(), running.line()];
        assert!(ready.iter().all(|line| line.ends_with("ready")), "{ready:?}");
        running.signal(name);
        let said = running.end();
        assert_eq!((lines_of(&said.stdout, 0), lines_of(&said.stdout, 1)), (vec!["got"], vec!["got"]), "{name}");
        assert_eq!(said.status, 0, "{name}");
    }
}

#[test]
fn a_signal_that_ends_the_ranks_gives_its_status() {
    let mut running = Running::start(&mut oarlock(["run", "--", "sh", "-c", "echo ready; exec sleep 60"]));
    assert_eq!(running.line(), "[0] ready");
    running.signal("TERM");
    assert_eq!(running.end().status, 143);
}

#[test]
fn a_signal_that_was_ignored_from_the_start_stays_ignored() {
    let program = env!("CARGO_BIN_EXE_oarlock");
    let script = format!("trap '' HUP; exec '{program}' run -- sh -c 'echo ready; sleep 0.5; echo done'");
    let mut running = Running::start(Command::new("sh").args(["-c", &script]).stdin(Stdio::null()));
    assert_eq!(running.line(), "[0] ready");
    running.signal("HUP");
    let said = running.end();
    assert_eq!((said.status, &*said.stdout), (0, "[0] done\n"));
}

#[test]
fn when_run_itself_is_killed_no_rank_is_left() {
    let mut running =
        Running::start(&mut oarlock(["run", "--nproc-per-node", "2", "--", "sh", "-c", "echo $$; exec sleep 60"]));
    let pids: Vec<u32> =
        [running.line(), running.line()].iter().map(|line| line.split_once("] ").unwrap().1.parse().unwrap()).collect();
    assert!(pids.iter().all(|&pid| is_alive(pid)));
    running.signal("KILL");
    eventually("the end of the ranks", || pids.iter().all(|&pid| !is_alive(pid)));
}

#[test]
fn what_a_rank_leaves_behind_is_ended_with_the_job() {
    // One in the rank's own group, one that has left it, one that does not listen.
    let script = "sleep 61 & echo $!; setsid sleep 62 & echo $!; setsid sh -c 'trap \"\" TERM; echo $$; sleep 63; sleep 64' & sleep 0.3";
    let start = Instant::now();
    let said = run(["run", "--grace-period", "1", "--", "sh", "-c", script]);
    let pids: Vec<u32> = lines_of(&said.stdout, 0).iter().map(|line| line.parse().unwrap()).collect();
    assert_eq!((said.status, pids.len()), (0, 3));
    assert!(start.elapsed() < Duration::from_secs(8), "they were waited for: {:?}", start.elapsed());
    assert!(pids.iter().all(|&pid| !is_alive(pid)), "{pids:?}");
}

#[test]
fn when_nobody_reads_the_output_the_ranks_end_as_without_us_in_between() {
    let program = env!("CARGO_BIN_EXE_oarlock");
    let script = format!("'{program}' run -- yes 2>/dev/null | head -1");
    let start = Instant::now();
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(output.stdout, b"[0] y\n");
    assert!(start.elapsed() < Duration::from_secs(8));
}

#[test]
fn a_command_that_cannot_be_run_gives_the_shells_status_and_one_line() {
    for (command, status) in [("no-such-command", 127), ("/no/such/command", 127), ("/etc/passwd", 126), ("/", 126)] {
        let said = run(["run", "--nproc-per-node", "3", "--", command]);
        assert_eq!((said.status, &*said.stdout), (status, ""), "{command}");
        assert!(said.stderr.starts_with(&format!("oarlock: failed to execute {command:?}: ")), "{}", said.stderr);
        assert_eq!(said.stderr.lines().count(), 1, "{}", said.stderr);
    }
}

#[test]
fn a_wrong_call_and_a_refusal_start_nothing() {
    let (first, _) = two_cpus();
    let one = format!("cpus:{first}");
    for (arguments, status) in [
        (vec!["run"], 2),
        (vec!["run", "true"], 2),
        (vec!["run", "--nproc-per-node", "0", "--", "echo"], 2),
        (vec!["run", "--nproc-per-node", "gpu", "--", "echo"], 2),
        (vec!["run", "--nproc-per-node", "9999", "--", "echo"], 2),
        (vec!["run", "--cpu-map", "everywhere", "--", "echo"], 1),
        (vec!["run", "--cpu-map", "cpus:8191", "--", "echo"], 1),
        (vec!["run", "--nproc-per-node", "2", "--cpu-map", &one, "--", "echo"], 1),
    ] {
        let said = run(arguments.iter().copied());
        assert_eq!((said.status, &*said.stdout), (status, ""), "{arguments:?}: {}", said.stderr);
        assert!(said.stderr.starts_with("oarlock: ") && said.stderr.lines().count() == 1, "{}", said.stderr);
    }
}

#[test]
fn where_memory_policies_are_denied_the_ranks_run_without_and_that_is_said_once() {
    let lists = two_lists();
    let arguments = ["run", "--nproc-per-node", "2", "--cpu-map", &lists, "--mem-map", "0,0"];
    let command = ["--", "grep", "Cpus_allowed_list", "/proc/self/status"];
    let said = without_memory_policy(&mut oarlock(arguments.into_iter().chain(command)));
    let (first, last) = two_cpus();
    assert_eq!(said.status, 0, "{}", said.stderr);
    assert_eq!(lines_of(&said.stdout, 0), [format!("Cpus_allowed_list:\t{first}")]);
    assert_eq!(lines_of(&said.stdout, 1), [format!("Cpus_allowed_list:\t{last}")]);
    assert!(
        said.stderr.starts_with("oarlock: warning: memory is not bound: the kernel denies set_mempolicy"),
        "{}",
        said.stderr
    );
    assert!(said.stderr.contains("CAP_SYS_NICE") && said.stderr.lines().count() == 1, "{}", said.stderr);

    let refuse = ["--on-failure", "refuse"].into_iter();
    let said = without_memory_policy(&mut oarlock(arguments.into_iter().chain(refuse).chain(command)));
    assert_eq!((said.status, &*said.stdout), (1, ""));
    assert!(
        said.stderr.starts_with("oarlock: memory is not bound: ") && said.stderr.lines().count() == 1,
        "{}",
        said.stderr
    );
}

#[test]
fn a_rank_that_stays_unbound_runs_and_is_warned_of_once_or_is_refused() {
    let Some(device) = a_pci_device() else {
        println!("not run: this host has no PCI device to stand for a GPU");
        return;
    };
    let arguments = ["run", "--nproc-per-node", "2", "--gpus", &device, "--cpu-map", "auto"];
    let said = run(arguments.into_iter().chain(["--", "sh", "-c", "echo $OARLOCK_RANK_CPUS"]));
    assert_eq!(said.status, 0, "{}", said.stderr);
    assert!(lines_of(&said.stdout, 1)[0].ends_with(';'), "{}", said.stdout);
    assert!(
        said.stderr.starts_with("oarlock: warning: rank 1 stays unbound") && said.stderr.lines().count() == 1,
        "{}",
        said.stderr
    );
    let said = run(arguments.into_iter().chain(["--on-failure", "refuse", "--", "echo"]));
    assert_eq!((said.status, &*said.stdout), (1, ""));
    assert!(
        said.stderr.starts_with("oarlock: refused: oarlock.dev/on-failure \"refuse\": rank 1 stays unbound")
            && said.stderr.lines().count() == 1,
        "{}",
        said.stderr
    );
}

#[test]
fn without_maps_of_its_own_run_takes_the_placement_of_an_agent() {
    let (_, last) = two_cpus();
    let arguments = ["run", "--", "sh", "-c", "echo $OARLOCK_RANK_CPUS; grep Cpus_allowed_list /proc/self/status"];
    let output = oarlock(arguments).env("OARLOCK_RANK_CPUS", format!("{last};")).output().unwrap();
    let placed = Call::from(output);
    assert_eq!(lines_of(&placed.stdout, 0), [format!("{last};"), format!("Cpus_allowed_list:\t{last}")]);
    assert_eq!(lines_of(&placed.stdout, 1), [format!("{last};"), inherited()], "the binding of rank 0 is not rank 1's");
    let output =
        oarlock(["run", "--nproc-per-node", "3", "--", "true"]).env("OARLOCK_RANK_CPUS", "0;").output().unwrap();
    assert_eq!(Call::from(output).status, 2);
}
