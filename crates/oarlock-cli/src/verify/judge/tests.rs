use std::collections::BTreeMap;

use oarlock_core::machine::Node;
use oarlock_core::rankenv::RankEntry;
use oarlock_kernel::numa_maps::{Mixed, Pages, Policy};
use oarlock_kernel::status::Status;

use super::*;

fn cpus(list: &str) -> CpuSet {
    list.parse().unwrap()
}

fn nodes(list: &str) -> NodeSet {
    list.parse().unwrap()
}

/// Nodes 0 and 3, so that a node's place is not its id.
fn machine() -> Machine {
    let node = |id, list| Node { id, cpus: cpus(list), memory_mb: None, gpu_memory: false };
    Machine { nodes: vec![node(0, "0-7"), node(3, "8-15")], ..Machine::default() }
}

fn thread(tid: u32, list: &str, policy: Option<&str>) -> Thread {
    let policy = policy.map(|policy| {
        let (mode, nodes) = policy.split_once(':').unwrap_or((policy, ""));
        Policy { mode: mode.to_owned(), nodes: nodes.parse().unwrap() }
    });
    let status = Status {
        name: format!("t{tid}"),
        state: 'S',
        tid,
        process: 100,
        parent: 7,
        namespaced: None,
        threads: None,
        signals_ignored: None,
        cpus_allowed: Some(cpus(list)),
        mems_allowed: Some(nodes("0,3")),
    };
    Thread { status, policy }
}

/// Rank 1 on CPUs 8-11 and node 3, with all its 64 MiB there and the libraries' files on node 0.
fn bound() -> Seen {
    let pages = |count| Pages { count, kib: 4 * count };
    Seen {
        pid: 100,
        parent: 7,
        name: "python".to_owned(),
        planned: Ok(Some(Planned {
            rank: 1,
            entry: RankEntry {
                cpus: Some(cpus("8-11")),
                mems: Some(nodes("3")),
                gpu_mems: NodeSet::new(),
                gpus: vec![5],
            },
            mem_policy: MemPolicy::Bind,
        })),
        threads: vec![thread(100, "8-11", Some("bind:3")), thread(101, "8-11", Some("bind:3"))],
        pages: Ok(Some(NumaMaps {
            policies: BTreeMap::new(),
            anonymous: BTreeMap::from([(3, pages(16384))]),
            file: BTreeMap::from([(0, pages(900)), (3, pages(40))]),
            mixed: vec![Mixed { anonymous: 3, page_kib: 4, pages: vec![(0, 4), (3, 3)] }],
        })),
        strings_outside: 0,
    }
}

fn judged(seen: Seen) -> ProcessReport {
    judge(&Observed::Process(Box::new(seen)), Some(&machine()))
}

fn plan_of(seen: &mut Seen) -> &mut Planned {
    seen.planned.as_mut().unwrap().as_mut().unwrap()
}

#[test]
fn a_rank_inside_its_walls_is_as_planned_whatever_its_file_pages_do() {
    let report = judged(bound());
    assert_eq!(report.status, Standing::AsPlanned, "{:?}", report.problems);
    assert_eq!((report.rank, report.gpus), (Some(1), vec![5]));
    assert_eq!((report.cpus, report.mems), (Some(cpus("8-11")), Some(nodes("3"))));
    assert_eq!((report.near_nodes, report.locality_percent), (Some(nodes("3")), Some(100.0)));
    assert_eq!((report.pages[0].node, report.pages[0].anon_pages, report.pages[0].file_pages), (0, 0, 900));
    assert_eq!((report.pages[1].node, report.pages[1].anon_pages, report.pages[1].file_kib), (3, 16384, 160));
    assert_eq!((report.mixed_anon_kib, report.notes), (12, Vec::<String>::new()));
}

#[test]
fn a_thread_on_other_cpus_is_named_with_what_it_has_and_what_was_planned() {
    let mut seen = bound();
    seen.threads[1] = thread(101, "0-3,8-11", Some("bind:3"));
    let report = judged(seen);
    assert_eq!(report.status, Standing::NotAsPlanned);
    assert_eq!(report.problems, ["thread 101 (t101) may run on cpus 0-3,8-11; planned are 8-11"]);
    assert_eq!(report.cpus, Some(cpus("0-3,8-11")));
}

#[test]
fn threads_that_differ_alike_are_one_problem() {
    let mut seen = bound();
    seen.threads = (200..264).map(|tid| thread(tid, "0-15", Some("bind:3"))).collect();
    let report = judged(seen);
    assert_eq!(report.problems, ["thread 200 (t200) and 63 others may run on cpus 0-15; planned are 8-11"]);
}

#[test]
fn a_thread_that_bound_itself_inside_the_wall_is_fine_and_told_of() {
    let mut seen = bound();
    seen.threads[1] = thread(101, "9", Some("bind:3"));
    let report = judged(seen);
    assert_eq!(report.status, Standing::AsPlanned);
    assert_eq!(report.notes, ["thread 101 (t101): bound by the job itself to cpus 9 of 8-11"]);
}

#[test]
fn one_anonymous_page_outside_the_wall_is_not_as_planned() {
    let mut seen = bound();
    let pages = seen.pages.as_mut().unwrap().as_mut().unwrap();
    pages.anonymous.insert(0, Pages { count: 1, kib: 4 });
    let report = judged(seen);
    assert_eq!(report.problems, ["1 anonymous pages (4 KiB) are on other nodes than the planned 3"]);
    assert!(report.locality_percent.unwrap() < 100.0);
}

#[test]
fn pages_that_moved_to_a_reader_of_the_environment_are_told_apart_from_others() {
    let mut seen = bound();
    seen.strings_outside = 1;
    // The kernel told where they are a moment later: none is outside any more.
    let report = judged(seen);
    assert_eq!((report.problems, report.notes), (Vec::<String>::new(), Vec::<String>::new()));

    let with = |count| {
        let mut seen = bound();
        seen.strings_outside = 2;
        let pages = seen.pages.as_mut().unwrap().as_mut().unwrap();
        pages.anonymous.insert(0, Pages { count, kib: 4 * count });
        judged(seen)
    };
    let report = with(2);
    assert_eq!((report.status, report.problems), (Standing::AsPlanned, Vec::<String>::new()));
    let told = "2 pages with its arguments and environment are on other nodes than the planned 3: before Linux 6.6 they may \
                go to whoever reads them";
    assert_eq!(report.notes, [told]);
    assert!(report.locality_percent.unwrap() < 100.0);
    let report = with(3);
    assert_eq!(report.status, Standing::NotAsPlanned);
    let told = "3 anonymous pages (12 KiB) are on other nodes than the planned 3, 2 of them with its arguments and \
                environment";
    assert_eq!((report.problems, report.notes), (vec![told.to_owned()], Vec::new()));
}

#[test]
fn memory_without_its_wall_is_not_as_planned_even_where_the_pages_are_near() {
    let mut seen = bound();
    seen.threads[1] = thread(101, "8-11", Some("default"));
    let report = judged(seen);
    let expected = "thread 101 (t101) may get memory from nodes 0,3 (memory policy default); planned are 3";
    assert_eq!(report.problems, [expected]);
}

#[test]
fn a_cpuset_is_a_wall_as_good_as_a_policy() {
    let mut seen = bound();
    for thread in &mut seen.threads {
        thread.policy = None;
        thread.status.mems_allowed = Some(nodes("3"));
    }
    assert_eq!(judged(seen).status, Standing::AsPlanned);
}

#[test]
fn the_memory_of_the_ranks_own_gpus_is_inside() {
    let mut seen = bound();
    plan_of(&mut seen).entry.gpu_mems = nodes("9");
    seen.pages.as_mut().unwrap().as_mut().unwrap().anonymous.insert(9, Pages { count: 512, kib: 2048 });
    let report = judged(seen);
    assert_eq!((report.status, report.locality_percent), (Standing::AsPlanned, Some(100.0)));
}

#[test]
fn under_the_policy_preferred_pages_elsewhere_cost_locality_and_nothing_else() {
    let mut seen = bound();
    plan_of(&mut seen).mem_policy = MemPolicy::Preferred;
    seen.threads = vec![thread(100, "8-11", Some("default"))];
    let maps = seen.pages.as_mut().unwrap().as_mut().unwrap();
    maps.mixed.clear();
    maps.anonymous.insert(0, Pages { count: 16384, kib: 65536 });
    let report = judged(seen);
    assert_eq!((report.status, report.locality_percent), (Standing::AsPlanned, Some(50.0)));
}

#[test]
fn without_planned_memory_the_nodes_of_the_cpus_are_near() {
    let mut seen = bound();
    plan_of(&mut seen).entry.mems = None;
    assert_eq!(judged(seen).near_nodes, Some(nodes("3")));
    let mut seen = bound();
    seen.planned = Ok(None);
    seen.threads = vec![thread(100, "0-9", None)];
    let report = judged(seen);
    assert_eq!((report.status, report.near_nodes), (Standing::Unplanned, Some(nodes("0,3"))));
    let mut seen = bound();
    seen.planned = Ok(None);
    let report = judge(&Observed::Process(Box::new(seen)), None);
    assert_eq!((report.near_nodes, report.locality_percent), (None, None));
}

#[test]
fn an_unbound_rank_is_as_planned_wherever_it_is() {
    let mut seen = bound();
    plan_of(&mut seen).entry = RankEntry::default();
    seen.threads = vec![thread(100, "0-15", Some("default"))];
    let report = judged(seen);
    assert_eq!((report.status, report.rank), (Standing::AsPlanned, Some(1)));
}

#[test]
fn an_environment_that_makes_no_sense_is_a_problem_and_an_ended_process_is_none() {
    let mut seen = bound();
    seen.planned = Err("its environment makes no sense: LOCAL_RANK \"x\"".to_owned());
    let report = judged(seen);
    assert_eq!((report.status, report.problems.len()), (Standing::NotAsPlanned, 1));
    let report = judge(&Observed::Vanished { pid: 5 }, None);
    assert_eq!((report.pid, report.status, report.problems.len()), (5, Standing::Vanished, 0));
    let report = judge(&Observed::Unreadable { pid: 5, why: "no".to_owned() }, None);
    assert_eq!(report.problems, ["it cannot be seen whole: no"]);
    let mut seen = bound();
    seen.pages = Err("denied".to_owned());
    assert_eq!(judged(seen).problems, ["its pages cannot be seen: denied"]);
}
