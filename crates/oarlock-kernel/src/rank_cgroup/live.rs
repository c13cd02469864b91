//! What the kernel really does. These tests make cgroups in the cgroup v2 folder that `$OARLOCK_CGROUP_TESTS` names, which
//! has the controllers cpuset and memory for its children; the emulated machines give them one.

mod container;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use container::{Container, Member, allowed, anonymous, only_on, two_nodes, wall};

const PATIENCE: Duration = Duration::from_secs(60);
const ROOT: &str = "/sys/fs/cgroup";

#[test]
fn a_rank_is_held_with_all_its_threads_and_pages_and_those_to_come() {
    let (Some(container), Some([last, first])) = (Container::new(), two_nodes()) else { return };
    let mut member = Member::of(&container);
    let mut helper = Member::of(&container);
    let held = container.held(0, &wall(&last));
    assert_eq!(held, Held { cpus: last.cpus.clone(), mems: NodeSet::of(last.id) });
    assert_eq!(
        (container.read("cgroup.type"), container.read("cgroup.subtree_control")),
        ("domain threaded".into(), "cpuset".into())
    );
    assert_eq!(container.read("oarlock-rank-0/cgroup.type"), "threaded");

    assert_eq!(container.take(0, &member), Live::Here(()));
    let behind = [(last.cpus.to_string(), last.id.to_string())];
    assert_eq!(allowed(&container, member.pid()), behind);
    only_on(&container, member.pid(), last.id);
    assert_eq!(container.ranks().processes(0, &container.proc).unwrap(), [member.pid()]);
    assert_eq!(member.asked("widen", "widened"), format!("widened: {}", last.cpus));
    let child = member.asked("child", "child").rsplit(' ').next().unwrap().parse().unwrap();
    assert_eq!(allowed(&container, child), behind);
    assert_eq!(rank_at(&container.path, &container.place(child)), Some(0));
    assert_eq!(container.ranks().processes(0, &container.proc).unwrap().len(), 2);
    // Who is no rank is not touched.
    assert_ne!(allowed(&container, helper.pid()), behind);
    helper.asked("widen", "widened");

    // The same rank again, elsewhere: the pages follow the wall.
    assert_eq!(container.take(0, &member), Live::Here(()));
    container.held(0, &wall(&first));
    assert_eq!(allowed(&container, member.pid()), [(first.cpus.to_string(), first.id.to_string())]);
    only_on(&container, member.pid(), first.id);
    // Another rank: a process moves from one to the other.
    container.held(1, &wall(&last));
    assert_eq!(container.take(1, &member), Live::Here(()));
    only_on(&container, member.pid(), last.id);
    assert_eq!(container.ranks().ranks().unwrap(), [0, 1]);
}

#[test]
fn the_pages_with_arguments_and_environment_are_brought_home_and_no_others_are() {
    let (Some(container), Some([last, first])) = (Container::new(), two_nodes()) else { return };
    let member = Member::of(&container);
    let process = container.process(&member);
    let (away, home) = (NodeSet::of(last.id), NodeSet::of(first.id));
    container.held(0, &wall(&first));
    container.take(0, &member);
    assert_eq!(process.strings_outside(&home).unwrap(), Live::Here(0));
    // In a wall of both nodes pages stay where they are.
    container.held(0, &Wall { cpus: None, mems: Some(away.union(&home)) });
    let all = process.bring_strings(&away).unwrap().here().unwrap();
    assert!(all > 0, "{all}");
    assert_eq!(
        (process.strings_outside(&away).unwrap(), process.strings_outside(&home).unwrap()),
        (Live::Here(0), Live::Here(all))
    );
    let page = rustix::param::page_size() as u64 / 1024;
    assert!(anonymous(&container, member.pid()).contains(&(last.id, page * all)));
    assert_eq!(process.bring_strings(&home).unwrap(), Live::Here(all));
    only_on(&container, member.pid(), first.id);
    assert_eq!(process.bring_strings(&home).unwrap(), Live::Here(0));
}

#[test]
fn without_a_wall_a_rank_has_what_its_container_has() {
    let (Some(container), Some([last, first])) = (Container::new(), two_nodes()) else { return };
    let member = Member::of(&container);
    let all = container.read("cpuset.mems.effective");
    let held = container.held(2, &Wall { cpus: Some(last.cpus.clone()), mems: None });
    assert_eq!((held.cpus, held.mems.to_string()), (last.cpus.clone(), all.clone()));
    container.held(2, &wall(&last));
    // The kernel does not want a cgroup with processes to have nothing.
    container.take(2, &member);
    let held = container.held(2, &Wall::default());
    assert_eq!((held.cpus.to_string(), held.mems.to_string()), (container.read("cpuset.cpus.effective"), all));
    container.set(&first.cpus, &NodeSet::of(first.id));
    assert_eq!(allowed(&container, member.pid()), [(first.cpus.to_string(), first.id.to_string())]);
    container.set(&CpuSet::new(), &NodeSet::new());
    assert_eq!(allowed(&container, member.pid()), [(held.cpus.to_string(), held.mems.to_string())]);
}

#[test]
fn letting_go_makes_the_container_an_ordinary_one_again() {
    let (Some(container), Some([last, first])) = (Container::new(), two_nodes()) else { return };
    let members = [Member::of(&container), Member::of(&container)];
    let mut busy = Command::new("sh").args(["-c", "while :; do (:); done"]).spawn().unwrap();
    container.write("cgroup.procs", &busy.id().to_string());
    let before = allowed(&container, members[0].pid());
    for (rank, node) in [(0, &last), (7, &first)] {
        container.held(rank, &wall(node));
    }
    container.take(0, &members[0]);
    container.take(7, &members[1]);
    // A process that forks all the time.
    let process = container.proc.process(busy.id()).unwrap().unwrap();
    assert_eq!(container.ranks().take(7, &process, &container.proc).unwrap(), Live::Here(()));
    assert_eq!(container.ranks().let_go().unwrap(), [0, 7]);
    container.is_as_it_was();
    for member in &members {
        assert_eq!(
            (container.place(member.pid()), allowed(&container, member.pid())),
            (container.path.clone(), before.clone())
        );
    }
    assert_eq!(container.place(busy.id()), container.path);
    assert_eq!(container.ranks().let_go().unwrap(), [0_u32; 0]);
    busy.kill().unwrap();
    busy.wait().unwrap();
}

#[test]
fn a_container_that_is_narrowed_narrows_its_ranks_and_one_without_any_of_a_ranks_cpus_is_told() {
    let (Some(container), Some([last, first])) = (Container::new(), two_nodes()) else { return };
    let member = Member::of(&container);
    container.held(0, &wall(&last));
    container.take(0, &member);
    let one = last.cpus.first().unwrap();
    let narrow = CpuSet::of(one).union(&first.cpus);
    container.write("cpuset.cpus", &narrow.to_string());
    assert_eq!(allowed(&container, member.pid())[0].0, one.to_string());
    let held = container.held(0, &wall(&last));
    assert_eq!(held.cpus, CpuSet::of(one));

    container.write("cpuset.cpus", &first.cpus.to_string());
    let error = container.ranks().hold(0, &wall(&last)).unwrap_err();
    assert!(
        matches!(&error, RankCgroupError::NotGiven { wanted, got, .. }
        if *wanted == last.cpus.to_string() && *got == first.cpus.to_string()),
        "{error}"
    );
    // What was asked for comes back by itself.
    container.set(&CpuSet::new(), &NodeSet::new());
    assert_eq!(allowed(&container, member.pid())[0].0, last.cpus.to_string());

    container.write("cpuset.mems", &first.id.to_string());
    let error = container.ranks().hold(0, &wall(&last)).unwrap_err().to_string();
    let file = container.folder.join("oarlock-rank-0/cpuset.mems");
    assert_eq!(
        error,
        format!(
            "\"{}\" is given {} where {} was asked for: the container has none of these",
            file.display(),
            first.id,
            last.id
        )
    );
}

#[test]
fn a_container_with_sub_cgroups_or_controllers_for_them_cannot_hold_ranks_and_stays_as_it_is() {
    let Some(container) = Container::new() else { return };
    let refused = |why: &str| {
        let error = container.ranks().hold(0, &Wall::default()).unwrap_err();
        assert!(matches!(error, RankCgroupError::CannotHold { .. }) && error.to_string().ends_with(why), "{error}");
        assert_eq!(container.read("cgroup.type"), "domain");
        assert_eq!(container.ranks().ranks().unwrap(), [0_u32; 0]);
    };
    let own = container.folder.join("init.scope");
    fs::create_dir(&own).unwrap();
    refused("it has sub-cgroups of its own (\"init.scope\")");
    let mut inside = Command::new("sleep").arg("600").spawn().unwrap();
    fs::write(own.join("cgroup.procs"), inside.id().to_string()).unwrap();
    refused("it has sub-cgroups of its own (\"init.scope\")");
    inside.kill().unwrap();
    inside.wait().unwrap();
    fs::remove_dir(&own).unwrap();
    container.write("cgroup.subtree_control", "+memory");
    refused("it enables controllers for sub-cgroups of its own that a threaded one cannot have");
    assert_eq!(container.read("cgroup.subtree_control"), "memory");
    container.write("cgroup.subtree_control", "-memory");
    container.write("cgroup.max.descendants", "0");
    refused("its cgroup.max.descendants or cgroup.max.depth, or one above it, is reached");
    container.is_as_it_was();
}

#[test]
fn a_container_that_holds_ranks_can_put_no_process_into_sub_cgroups_of_its_own() {
    let Some(container) = Container::new() else { return };
    container.held(0, &Wall::default());
    let member = Member::of(&container);
    let own = container.folder.join("own");
    fs::create_dir(&own).unwrap();
    assert_eq!(fs::read_to_string(own.join("cgroup.type")).unwrap(), "domain invalid\n");
    let error = fs::write(own.join("cgroup.procs"), member.pid().to_string()).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::OPNOTSUPP));
    // Ranks that are held stay so; another one is none that this container can hold.
    container.held(0, &Wall::default());
    assert!(matches!(container.ranks().hold(1, &Wall::default()), Err(RankCgroupError::CannotHold { .. })));
    assert_eq!(container.ranks().let_go().unwrap(), [0]);
    container.is_as_it_was();
    fs::write(own.join("cgroup.procs"), member.pid().to_string()).unwrap();
    // What the container then enables for its own is not taken away.
    container.write("cgroup.subtree_control", "+cpuset");
    assert_eq!(container.ranks().let_go().unwrap(), [0_u32; 0]);
    assert_eq!(container.read("cgroup.subtree_control"), "cpuset");
}

#[test]
fn a_wall_that_the_kernel_refuses_leaves_no_rank_cgroup_behind() {
    let Some(container) = Container::new() else { return };
    let absent = Wall { cpus: None, mems: Some(NodeSet::of(1000)) };
    let error = container.ranks().hold(0, &absent).unwrap_err().to_string();
    let file = container.folder.join("oarlock-rank-0/cpuset.mems");
    let rule = "a node there does not exist or has no memory";
    assert_eq!(error, format!("failed to write \"1000\" to \"{}\" ({rule})", file.display()));
    container.is_as_it_was();
    let absent = Wall { cpus: Some(CpuSet::of(8000)), mems: None };
    assert!(container.ranks().hold(0, &absent).is_err());
    container.is_as_it_was();
}

#[test]
fn a_rank_cgroup_that_another_left_half_made_is_finished() {
    let (Some(container), Some([last, _])) = (Container::new(), two_nodes()) else { return };
    let member = Member::of(&container);
    fs::create_dir(container.folder.join("oarlock-rank-3")).unwrap();
    container.held(3, &wall(&last));
    assert_eq!(container.take(3, &member), Live::Here(()));
    only_on(&container, member.pid(), last.id);
}

#[test]
fn who_is_not_of_the_container_or_no_more_is_not_taken() {
    let (Some(container), Some(other)) = (Container::new(), Container::new()) else { return };
    container.held(0, &Wall::default());
    let stranger = Member::of(&other);
    let error = container.ranks().take(0, &other.process(&stranger), &container.proc).unwrap_err();
    assert!(matches!(&error, RankCgroupError::OfAnother { cgroup, .. } if *cgroup == other.path), "{error}");
    assert_eq!(container.place(stranger.pid()), other.path);
    // A thread of the kernel is of no container.
    let kernel = container.proc.process(2).unwrap().unwrap();
    assert!(matches!(container.ranks().take(0, &kernel, &container.proc), Err(RankCgroupError::OfAnother { .. })));

    let mut member = Member::of(&container);
    let process = container.process(&member);
    member.child.kill().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !process.status().unwrap().here().unwrap().is_zombie() {
        assert!(Instant::now() < deadline);
    }
    // It has ended, and its parent has not taken note.
    assert_eq!(container.ranks().take(0, &process, &container.proc).unwrap(), Live::Vanished);
    member.child.wait().unwrap();
    assert_eq!(container.ranks().take(0, &process, &container.proc).unwrap(), Live::Vanished);
    assert_eq!(container.ranks().let_go().unwrap(), [0]);
    container.is_as_it_was();
}

#[test]
fn a_stranger_who_got_the_number_of_a_process_that_ended_goes_back_to_where_it_belongs() {
    let Some(container) = Container::new() else { return };
    container.held(0, &Wall::default());
    let mut member = Member::of(&container);
    let (pid, process) = (member.pid(), container.process(&member));
    let own = container.place(std::process::id());
    let mut stranger = None;
    let swap = || {
        member.kill();
        let deadline = Instant::now() + PATIENCE;
        while stranger.is_none() {
            assert!(Instant::now() < deadline, "no process got number {pid}");
            fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
            let mut child = Command::new("sleep").arg("600").spawn().unwrap();
            if child.id() == pid {
                stranger = Some(child);
            } else {
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
    };
    let taken = container.ranks().take_after(swap, 0, &process, &container.proc).unwrap();
    assert_eq!((taken, container.place(pid)), (Live::Vanished, own));
    let mut stranger = stranger.unwrap();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn a_container_that_ends_takes_its_ranks_with_it() {
    let (Some(container), Some([last, _])) = (Container::new(), two_nodes()) else { return };
    let mut member = Member::of(&container);
    container.held(0, &wall(&last));
    container.take(0, &member);
    let ranks = container.ranks();
    member.kill();
    // As runtimes do it: the deepest first.
    fs::remove_dir(container.folder.join("oarlock-rank-0")).unwrap();
    fs::remove_dir(&container.folder).unwrap();
    assert_eq!(ranks.hold(0, &wall(&last)).unwrap(), Live::Vanished);
    assert_eq!(ranks.processes(0, &container.proc).unwrap(), [0_u32; 0]);
    assert_eq!(ranks.let_go().unwrap(), [0_u32; 0]);
}
