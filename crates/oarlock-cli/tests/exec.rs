//! `oarlock exec` on this very host.

mod call;
mod live;

use call::Call;
use live::{a_pci_device, oarlock, two_cpus, without_memory_policy};

/// Runs `oarlock exec` with these variables and arguments.
#[expect(clippy::unwrap_used, reason = "part of tests, where clippy does not see that")]
fn exec(variables: &[(&str, &str)], arguments: &[&str]) -> Call {
    oarlock(["exec"].iter().chain(arguments).copied()).envs(variables.iter().copied()).output().unwrap().into()
}

#[track_caller]
fn one_line(said: &Call, status: i32, contents: &str) {
    let line = said.says("oarlock", status);
    assert!(said.stdout.is_empty() && line.contains(contents), "{said:?} lacks {contents}");
}

#[test]
fn the_rank_is_bound_to_its_part_and_told_of_all() {
    let (first, last) = two_cpus();
    let lists = format!("cpus:{first};{last}");
    let script = "grep -h Cpus_allowed_list /proc/self/status; head -1 /proc/self/numa_maps; echo $OARLOCK_RANKS $OARLOCK_RANK_MEMS $RANK";
    for (rank, cpu) in [("0", first), ("1", last)] {
        let variables = [("LOCAL_RANK", rank), ("LOCAL_WORLD_SIZE", "2"), ("RANK", "5")];
        let said =
            exec(&variables, &["--cpu-map", &lists, "--mem-map", "numa", "--gpus", "none", "--", "sh", "-c", script]);
        assert_eq!((said.status, &*said.stderr), (0, ""));
        let lines: Vec<&str> = said.stdout.lines().collect();
        assert_eq!(lines[0], format!("Cpus_allowed_list:\t{cpu}"));
        assert!(lines[1].contains(" bind:"), "{}", lines[1]);
        assert!(lines[2].starts_with("2 ") && lines[2].contains(';') && lines[2].ends_with(" 5"), "{}", lines[2]);
    }
}

#[test]
fn every_launcher_names_rank_and_number_in_its_own_variables() {
    let (first, last) = two_cpus();
    let lists = format!("cpus:{first};{first};{last}");
    for (rank, ranks) in [
        ("LOCAL_RANK", "LOCAL_WORLD_SIZE"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        ("SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
        ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ] {
        let command = ["--cpu-map", &*lists, "--", "grep", "Cpus_allowed_list", "/proc/self/status"];
        let said = exec(&[(rank, "2"), (ranks, "3")], &command);
        assert_eq!(said.stdout, format!("Cpus_allowed_list:\t{last}\n"), "{rank}: {}", said.stderr);
        one_line(&exec(&[(rank, "3"), (ranks, "3")], &command), 2, &format!("{rank} 3 is out of range"));
        one_line(
            &exec(&[(rank, "three"), (ranks, "3")], &command),
            2,
            &format!("{rank} \"three\" is not a local rank"),
        );
    }
}

#[test]
fn a_rank_that_nobody_names_is_a_wrong_call() {
    one_line(&exec(&[], &["--", "echo"]), 2, "LOCAL_RANK is not set");
    one_line(&exec(&[("LOCAL_RANK", "")], &["--", "echo"]), 2, "LOCAL_RANK \"\" is not");
    one_line(&exec(&[("LOCAL_RANK", "-1")], &["--", "echo"]), 2, "LOCAL_RANK \"-1\" is not");
    one_line(&exec(&[("LOCAL_RANK", "1")], &["--gpus", "none", "--", "echo"]), 2, "LOCAL_RANK 1 is out of range");
    one_line(&exec(&[("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "auto")], &["--", "echo"]), 2, "LOCAL_WORLD_SIZE");
}

#[test]
fn where_an_agent_has_placed_the_ranks_its_entries_count() {
    let (first, last) = two_cpus();
    let entries = format!("{first};{last};");
    let command = [
        "--cpu-map",
        "numa",
        "--",
        "sh",
        "-c",
        "grep Cpus_allowed_list /proc/self/status; head -1 /proc/self/numa_maps",
    ];
    let placed = [("OARLOCK_RANK_CPUS", &*entries), ("OARLOCK_RANK_MEMS", ";0;0")];
    for (rank, cpus, policy) in [("0", first.to_string(), "default"), ("1", last.to_string(), "bind:0")] {
        let said = exec(&[&placed[..], &[("LOCAL_RANK", rank)]].concat(), &command);
        let (status, maps) = said.stdout.split_once('\n').unwrap();
        assert_eq!(status, format!("Cpus_allowed_list:\t{cpus}"), "{}", said.stderr);
        assert!(maps.contains(&format!(" {policy} ")), "{maps}");
    }
    let said = exec(&[&placed[..], &[("LOCAL_RANK", "2")]].concat(), &command);
    assert!(said.stdout.contains(" bind:0 "), "a rank with an empty entry is bound to no cpus: {}", said.stdout);
    one_line(&exec(&[&placed[..], &[("LOCAL_RANK", "3")]].concat(), &command), 2, "LOCAL_RANK 3 is out of range");
    let broken = [("OARLOCK_RANK_CPUS", "0;x;1"), ("LOCAL_RANK", "0")];
    one_line(&exec(&broken, &command), 2, "OARLOCK_RANK_CPUS \"0;x;1\": entry 2 (rank 1)");
}

#[test]
fn cpus_that_cannot_be_had_leave_the_rank_unbound_or_are_refused() {
    let variables = [("OARLOCK_RANK_CPUS", "8191"), ("LOCAL_RANK", "0")];
    let said = exec(&variables, &["--", "echo", "ran"]);
    assert_eq!((said.status, &*said.stdout), (0, "ran\n"));
    assert!(said.stderr.starts_with("oarlock: warning: rank 0 is not bound to its cpus: "), "{}", said.stderr);
    one_line(&exec(&variables, &["--on-failure", "refuse", "--", "echo"]), 1, "cannot have cpus 8191");
}

#[test]
fn a_command_that_cannot_be_run_gives_the_shells_status() {
    for (command, status) in [("no-such-command", 127), ("/no/such/command", 127), ("/etc/passwd", 126), ("/", 126)] {
        one_line(&exec(&[("LOCAL_RANK", "0")], &["--", command]), status, &format!("failed to execute {command:?}: "));
    }
    one_line(&exec(&[("LOCAL_RANK", "0")], &[]), 2, "COMMAND");
}

#[test]
fn the_command_takes_our_place_with_its_arguments_and_its_status() {
    let said = exec(&[("LOCAL_RANK", "0")], &["--", "sh", "-c", "echo \"$#:$1\"; exit 5", "sh", "--cpu-map", "b c"]);
    assert_eq!((said.status, &*said.stdout), (5, "2:--cpu-map\n"));
}

#[test]
fn where_memory_policies_are_denied_one_rank_says_so_and_all_run() {
    let (first, last) = two_cpus();
    let lists = format!("cpus:{first};{first};{last}");
    let arguments = ["exec", "--cpu-map", &lists, "--mem-map", "0,0,0", "--gpus", "none"];
    let denied = |rank: &str, more: &[&'static str]| {
        let mut command = oarlock(arguments.into_iter().chain(more.iter().copied()).chain(["--", "echo", "ran"]));
        without_memory_policy(command.env("LOCAL_RANK", rank).env("LOCAL_WORLD_SIZE", "3"))
    };
    let speaker = denied("0", &[]);
    assert_eq!((speaker.status, &*speaker.stdout), (0, "ran\n"));
    assert!(
        speaker.stderr.starts_with("oarlock: warning: memory is not bound: the kernel denies"),
        "{}",
        speaker.stderr
    );
    assert_eq!(speaker.stderr.lines().count(), 1);
    for rank in ["1", "2"] {
        let said = denied(rank, &[]);
        assert_eq!((said.status, &*said.stdout, &*said.stderr), (0, "ran\n", ""));
    }
    one_line(&denied("1", &["--on-failure", "refuse"]), 1, "CAP_SYS_NICE");
}

#[test]
fn a_refusal_is_one_line_and_a_warning_is_said_by_rank_0_alone() {
    let variables = [("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")];
    one_line(&exec(&variables, &["--cpu-map", "cpus:0", "--", "echo"]), 1, "oarlock.dev/cpu-map \"cpus:0\"");
    let Some(device) = a_pci_device() else {
        println!("not run: this host has no PCI device to stand for a GPU");
        return;
    };
    let command = ["--gpus", &*device, "--cpu-map", "auto", "--", "echo", "ran"];
    let unbound = exec(&variables, &command);
    assert_eq!((unbound.status, &*unbound.stdout, &*unbound.stderr), (0, "ran\n", ""));
    let speaker = exec(&[("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2")], &command);
    assert_eq!(speaker.stdout, "ran\n");
    assert!(
        speaker.stderr.starts_with("oarlock: warning: rank 1 stays unbound") && speaker.stderr.lines().count() == 1,
        "{}",
        speaker.stderr
    );
}
