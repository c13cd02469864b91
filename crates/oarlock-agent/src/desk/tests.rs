mod away;
mod hooked;
mod hostile;
mod outside;

use oarlock_core::Machine;
use oarlock_core::locality::{Evidence, Locality};
use oarlock_core::machine::{Gpu, Node};
use oarlock_device_plugin::pod_resources::HeldDevices;
use oarlock_nri::proto::{ContainerState, LinuxContainer, LinuxCpu, LinuxPodSandbox};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::*;
use crate::place::{Given, OwnResources};

/// Nodes 0 and 1 with CPUs 0-3 and 4-7, a core each; GPUs `GPU-0` and `GPU-1` on nodes 1 and 0.
fn knowledge() -> Knowledge {
    let node = |id, cpus: &str| Node { id, cpus: set(cpus), memory_mb: Some(1 << 20), gpu_memory: false };
    let gpu = |index: u32, node| Gpu {
        index,
        pci: format!("0000:0{index}:00.0").parse().ok(),
        uuid: Some(format!("GPU-{index}")),
        model: None,
        locality: Locality::Node { node, from: Evidence::NumaNode },
        local_cpus: None,
        memory_node: None,
    };
    let machine = Machine {
        nodes: vec![node(0, "0-3"), node(1, "4-7")],
        cores: Some((0..8).map(CpuSet::of).collect()),
        gpus: vec![gpu(0, 1), gpu(1, 0)],
        ..Machine::default()
    };
    let own = OwnResources {
        gpu: "oarlock.dev/gpu".to_owned(),
        mig_prefix: "oarlock.dev/mig-".to_owned(),
        numa_node: "oarlock.dev/numa-node".to_owned(),
    };
    Knowledge {
        machine: machine.checked().unwrap(),
        slices: BTreeMap::new(),
        slots: BTreeMap::from([("node-0".to_owned(), (0, set("0-3"))), ("node-1".to_owned(), (1, set("4-7")))]),
        given: Given::default(),
        own,
    }
}

fn set(cpus: &str) -> CpuSet {
    cpus.parse().unwrap()
}

/// A desk over a run folder, and all that comes out of it.
struct Office {
    desk: Desk,
    run_dir: tempfile::TempDir,
    orders: UnboundedReceiver<Order>,
    notices: UnboundedReceiver<Notice>,
    changes: UnboundedReceiver<ContainerUpdate>,
    placements: UnboundedReceiver<Placed>,
}

fn office() -> Office {
    office_in(tempfile::tempdir().unwrap(), ContainerCpuset::Own)
}

fn office_in(run_dir: tempfile::TempDir, container_cpuset: ContainerCpuset) -> Office {
    let (orders, ordered) = mpsc::unbounded_channel();
    let (notices, noticed) = mpsc::unbounded_channel();
    let (changes, changed) = mpsc::unbounded_channel();
    let (placements, placed) = mpsc::unbounded_channel();
    let rules = Rules {
        reserved: CpuSet::new(),
        container_cpuset,
        run_dir: run_dir.path().to_owned(),
        boot: "b007".to_owned(),
    };
    let cgroups = Cgroups::in_folder(&run_dir.path().join("cgroups"));
    let desk = Desk::new(rules, knowledge(), cgroups, Outlets { orders, notices, placements, changes });
    Office { desk, run_dir, orders: ordered, notices: noticed, changes: changed, placements: placed }
}

impl Office {
    fn create(&self, pod: &PodSandbox, container: &Container) -> Created {
        self.desk.create(pod, container).unwrap()
    }

    fn entries(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.run_dir.path().join("ledger"));
        let mut names: Vec<String> = files
            .into_iter()
            .flatten()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort_unstable();
        names
    }

    /// The ward that was ordered last.
    fn ward(&mut self) -> Option<Ward> {
        let mut ward = None;
        while let Ok(order) = self.orders.try_recv() {
            ward = match order {
                Order::Keep(kept) => Some(*kept),
                Order::Forget(_) | Order::Used(_) => None,
            };
        }
        ward
    }

    fn notice(&mut self) -> (What, String) {
        let notice = self.notices.try_recv().unwrap();
        (notice.what, notice.words)
    }
}

const AUTO: [(&str, &str); 2] = [("cpu-map", "auto"), ("mem-map", "auto")];

fn pod(name: &str, annotations: &[(&str, &str)]) -> PodSandbox {
    PodSandbox {
        id: format!("sandbox-{name}"),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        namespace: "default".to_owned(),
        annotations: annotations.iter().map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned())).collect(),
        linux: Some(LinuxPodSandbox::default()),
        ..PodSandbox::default()
    }
}

/// A container `main` of the pod, with this environment, and CPUs where kubelet gave some.
fn container(pod: &PodSandbox, env: &[&str], cpus: &str) -> Container {
    Container {
        id: format!("main-{}", pod.name),
        pod_sandbox_id: pod.id.clone(),
        name: "main".to_owned(),
        env: env.iter().map(|&entry| entry.to_owned()).collect(),
        linux: Some(LinuxContainer {
            resources: Some(resources(cpus)),
            cgroups_path: format!("/kubepods/{}/main", pod.name),
            ..LinuxContainer::default()
        }),
        ..Container::default()
    }
}

fn resources(cpus: &str) -> LinuxResources {
    LinuxResources { cpu: Some(LinuxCpu { cpus: cpus.to_owned(), ..LinuxCpu::default() }), ..LinuxResources::default() }
}

const BOTH_GPUS: [&str; 1] = ["NVIDIA_VISIBLE_DEVICES=GPU-0,GPU-1"];

/// CPUs and memory nodes in an answer.
fn cpuset_of(resources: Option<LinuxResources>) -> (String, String) {
    let cpu = resources.unwrap().cpu.unwrap();
    (cpu.cpus, cpu.mems)
}

fn adjusted(created: Created) -> (String, String) {
    cpuset_of(created.adjust.unwrap().linux.unwrap().resources)
}

fn changed(change: &ContainerUpdate) -> (String, String, String) {
    let (cpus, mems) = cpuset_of(change.linux.clone().unwrap().resources);
    (change.container_id.clone(), cpus, mems)
}

/// As [`changed`] gives it.
fn to(id: &str, cpus: &str) -> (String, String, String) {
    (id.to_owned(), cpus.to_owned(), String::new())
}

#[test]
fn an_annotated_container_gets_its_place_its_environment_and_a_ledger_entry_until_it_stops() {
    let mut office = office();
    let pod = pod("a", &AUTO);
    let main = container(&pod, &BOTH_GPUS, "");
    let created = office.create(&pod, &main);
    let env = &created.adjust.as_ref().unwrap().env;
    assert!(env.iter().any(|entry| entry.key == "OARLOCK_RANK_CPUS" && entry.value == "4-7;0-3"), "{env:?}");
    assert_eq!(adjusted(created), ("0-7".to_owned(), "0-1".to_owned()));
    assert_eq!(office.entries(), ["main-a.json"]);
    assert_eq!(office.ward(), None, "nothing runs yet");

    office.desk.made("main-a");
    office.desk.started(&main);
    let ward = office.ward().unwrap();
    assert_eq!((ward.cgroup.as_str(), ward.ranks.ranks.len()), ("/kubepods/a/main", 2));
    assert_eq!(office.desk.stopped("main-a"), []);
    assert!(matches!(office.orders.try_recv(), Ok(Order::Forget(id)) if id == "main-a"));
    assert_eq!(office.entries(), [""; 0]);
}

#[test]
fn a_container_that_asks_for_nothing_is_not_touched_and_leaves_no_trace() {
    let mut office = office();
    let pod = pod("a", &[]);
    let main = container(&pod, &BOTH_GPUS, "1-2");
    assert_eq!(office.create(&pod, &main), Created::default());
    office.desk.started(&main);
    assert_eq!(office.desk.update(&main, &resources("3")), []);
    assert_eq!((office.ward(), office.entries().len()), (None, 0));
    assert!(office.notices.try_recv().is_err());
}

#[test]
fn nodes_that_all_ranks_prefer_are_told_to_runtimes_that_have_memory_policies() {
    let prefers = [("cpu-map", "0"), ("mem-map", "1"), ("mem-policy", "preferred")];
    let policy = |office: &Office, maps: &[(&str, &str)]| {
        let pod = pod(maps[0].1, maps);
        let linux =
            office.create(&pod, &container(&pod, &["NVIDIA_VISIBLE_DEVICES=GPU-1"], "")).adjust.unwrap().linux?;
        Some((linux.memory_policy.map(|policy| (policy.mode(), policy.nodes)), cpuset_of(linux.resources)))
    };
    let office = office();
    let cpus = ("0-3".to_owned(), String::new());
    assert_eq!(policy(&office, &prefers), Some((None, cpus.clone())), "nothing is known of the runtime");
    for (nri, expected) in [
        (Some(NriVersion::new(0, 12, 0)), Some((MpolMode::MpolPreferred, "1".to_owned()))),
        (Some(NriVersion::new(0, 11, 0)), None),
        (None, None),
    ] {
        office.desk.serve(nri);
        assert_eq!(policy(&office, &prefers), Some((expected, cpus.clone())), "{nri:?}");
    }
    office.desk.serve(Some(NriVersion::OWN));
    assert_eq!(policy(&office, &AUTO).unwrap().0, None, "the wall is enough");
    let others = office_in(tempfile::tempdir().unwrap(), ContainerCpuset::Leave);
    others.desk.serve(Some(NriVersion::OWN));
    assert_eq!(policy(&others, &prefers), None);
}

#[test]
fn beside_a_container_with_gpus_one_without_is_left_alone() {
    let office = office();
    let pod = pod("a", &AUTO);
    office.create(&pod, &container(&pod, &BOTH_GPUS, ""));
    let sidecar = Container { id: "sidecar".to_owned(), name: "sidecar".to_owned(), ..container(&pod, &[], "") };
    assert_eq!(office.create(&pod, &sidecar), Created::default());
    let other = self::pod("b", &AUTO);
    let alone = Container { id: "alone".to_owned(), ..container(&other, &[], "") };
    assert_ne!(office.create(&other, &alone), Created::default(), "another pod's gpus are none of its");
}

#[test]
fn a_refusal_stops_the_container_only_where_the_pod_wants_it() {
    let mut office = office();
    let refused = pod("a", &[("cpu-map", "9"), ("on-failure", "refuse")]);
    let error = office.desk.create(&refused, &container(&refused, &[], "")).unwrap_err();
    assert_eq!(error.key, "oarlock.dev/cpu-map");
    let (what, words) = office.notice();
    assert!(what == What::BindingRefused && words.contains("cpu-map"), "{words}");
    let run = pod("b", &[("cpu-map", "9")]);
    assert_eq!(office.create(&run, &container(&run, &[], "")), Created::default());
    assert_eq!(office.notice().0, What::RanksUnbound);
    assert_eq!(office.entries(), [""; 0]);
}

#[test]
fn what_kubelet_gives_later_is_planned_in_again_and_the_answer_names_the_container() {
    let mut office = office();
    let pod = pod("a", &AUTO);
    let main = container(&pod, &BOTH_GPUS, "0-5");
    assert_eq!(adjusted(office.create(&pod, &main)).0, "0-5");
    office.desk.started(&main);
    assert_eq!(office.ward().unwrap().ranks.ranks[0].cpus, Some(set("4-5")));
    let change = office.desk.update(&main, &resources("2,6-7"));
    assert_eq!(
        change.iter().map(changed).collect::<Vec<_>>(),
        [("main-a".to_owned(), "2,6-7".to_owned(), "0-1".to_owned())]
    );
    office.desk.updated("main-a");
    let ranks = office.ward().unwrap().ranks.ranks;
    assert_eq!((&ranks[0].cpus, &ranks[1].cpus), (&Some(set("6-7")), &Some(set("2"))));
    // Other resources change, and the cpuset does not.
    let again = office.desk.update(&main, &resources(""));
    assert_eq!(changed(&again[0]).1, "2,6-7");
}

#[test]
fn exclusive_containers_never_share_a_cpu() {
    let office = office();
    let mut all = CpuSet::new();
    for name in ["a", "b"] {
        let pod = pod(name, &[("cpu-map", "exclusive"), ("ranks", "1")]);
        let cpus = set(&adjusted(office.create(&pod, &container(&pod, &["NVIDIA_VISIBLE_DEVICES=GPU-1"], "0-1"))).0);
        assert!(!cpus.is_empty() && !cpus.intersects(&all), "{cpus} of {all}");
        all.extend(&cpus);
        if name == "a" {
            // All of the node is taken now.
            assert_eq!(all, set("0-1"));
            office.desk.stopped("main-a");
            all = CpuSet::new();
        }
    }
    let third = pod("c", &[("cpu-map", "exclusive"), ("on-failure", "refuse")]);
    let refused = office.desk.create(&third, &container(&third, &["NVIDIA_VISIBLE_DEVICES=GPU-1"], "0-1"));
    assert!(refused.unwrap_err().message.contains("default/b/main"));
}

#[test]
fn a_holder_of_a_node_has_it_alone_and_the_others_get_it_back() {
    let office = office();
    let (plain, bounded, nodes) = (pod("plain", &[]), pod("bounded", &[]), pod("nodes", &[]));
    office.create(&plain, &container(&plain, &[], ""));
    office.create(&bounded, &container(&bounded, &[], "2-5"));
    let inside = pod("inside", &[]);
    office.create(&inside, &container(&inside, &[], "6"));
    office.desk.pod(&nodes);
    let devices = HeldDevices {
        resource: "oarlock.dev/numa-node".to_owned(),
        ids: vec!["node-1".to_owned()],
        nodes: "1".parse().unwrap(),
    };
    let word = ContainerHoldings {
        namespace: "default".to_owned(),
        pod: "nodes".to_owned(),
        container: "main".to_owned(),
        devices: vec![devices],
        cpus: CpuSet::new(),
        memory: Vec::new(),
    };
    office.desk.word("sandbox-nodes", Arc::new(vec![word]));
    let created = office.create(&nodes, &container(&nodes, &["OARLOCK_NUMA_NODES=1"], ""));
    let moved: Vec<_> = created.update.iter().map(changed).collect();
    assert_eq!(moved, [to("main-bounded", "2-3"), to("main-plain", "0-3")], "one that would have nothing left stays");
    assert_eq!(adjusted(created), ("4-7".to_owned(), "1".to_owned()));

    let late = pod("late", &[]);
    assert_eq!(adjusted(office.create(&late, &container(&late, &[], ""))).0, "0-3");
    let kept = office.desk.update(&container(&bounded, &[], ""), &resources("3-6"));
    assert_eq!(kept.iter().map(changed).collect::<Vec<_>>(), [to("main-bounded", "3")]);

    let given_back: Vec<_> = office.desk.stopped("main-nodes").iter().map(changed).collect();
    assert_eq!(given_back, [to("main-bounded", "3-6"), to("main-late", "0-7"), to("main-plain", "0-7")]);
}

#[test]
fn who_was_kept_off_gets_everything_back_also_after_a_restart() {
    let first = office();
    let (plain, nodes) = (pod("plain", &[]), pod("nodes", &[]));
    first.desk.state().knowledge.given.add(&["node-1".to_owned()]);
    first.create(&plain, &container(&plain, &[], ""));
    first.create(&nodes, &container(&nodes, &["OARLOCK_NUMA_NODES=1"], ""));
    assert_eq!(first.entries(), ["main-nodes.json", "main-plain.json"]);

    let mut second = office_in(first.run_dir, ContainerCpuset::Own);
    let running = |pod: &PodSandbox, cpus: &str| {
        let mut container = container(pod, &[], cpus);
        container.set_state(ContainerState::ContainerRunning);
        container
    };
    let late = pod("late", &[]);
    // The runtime tells what it was told, and of one that was made meanwhile that it has all.
    let containers = [running(&plain, "0-3"), running(&nodes, "4-7"), running(&late, "")];
    second.desk.synchronize(&[plain, nodes, late], &containers);
    assert_eq!(changed(&second.changes.try_recv().unwrap()), to("main-late", "0-3"));
    let given_back: Vec<_> = second.desk.stopped("main-nodes").iter().map(changed).collect();
    assert_eq!(given_back, [to("main-late", "0-7"), to("main-plain", "0-7")]);
    assert_eq!(second.entries(), [""; 0]);
}

#[test]
fn a_forged_variable_takes_no_node_from_others() {
    let office = office();
    let (plain, forged) = (pod("plain", &[]), pod("forged", &[]));
    office.create(&plain, &container(&plain, &[], ""));
    let created = office.create(&forged, &container(&forged, &["OARLOCK_NUMA_NODES=1"], ""));
    assert_eq!(created, Created::default());
}

#[test]
fn a_container_that_could_not_be_made_with_our_cpuset_is_made_without_it_and_its_ranks_are_held_all_the_same() {
    let mut office = office();
    let pod = pod("a", &AUTO);
    let main = container(&pod, &BOTH_GPUS, "");
    office.create(&pod, &main);
    office.desk.stopped("main-a");
    office.desk.removed("main-a");
    let second = Container { id: "second".to_owned(), ..main.clone() };
    let adjust = office.create(&pod, &second).adjust.unwrap();
    assert_eq!(adjust.linux, None);
    assert!(!adjust.env.is_empty());
    office.desk.made("second");
    office.desk.started(&second);
    assert_eq!(office.ward().unwrap().ranks.ranks.len(), 2);
    // It could be made: the next one is as usual.
    office.desk.stopped("second");
    assert!(office.create(&pod, &Container { id: "third".to_owned(), ..main }).adjust.unwrap().linux.is_some());
}

#[test]
fn the_cpuset_of_containers_can_be_left_to_others() {
    let office = office_in(tempfile::tempdir().unwrap(), ContainerCpuset::Leave);
    let pod = pod("a", &AUTO);
    let main = container(&pod, &BOTH_GPUS, "");
    assert_eq!(office.create(&pod, &main).adjust.unwrap().linux, None);
    assert_eq!(office.desk.update(&main, &resources("2-5")), []);
}

#[test]
fn after_a_restart_places_are_as_the_ledger_has_them_and_what_was_missed_is_made_up_for() {
    let first = office();
    let (a, gone, missed) = (pod("a", &AUTO), pod("gone", &AUTO), pod("missed", &AUTO));
    for pod in [&a, &gone] {
        first.create(pod, &container(pod, &BOTH_GPUS, "0-6"));
    }
    assert_eq!(first.entries(), ["main-a.json", "main-gone.json"]);

    let mut second = office_in(first.run_dir, ContainerCpuset::Own);
    let running = |pod: &PodSandbox, cpus: &str, mems: &str| {
        let mut container = container(pod, &BOTH_GPUS, "");
        container.linux.as_mut().unwrap().resources = Some(cpuset(Some(&set(cpus)), mems.parse().ok().as_ref()));
        container.set_state(ContainerState::ContainerRunning);
        container
    };
    let listed = [running(&a, "0-6", "0-1"), running(&missed, "", "")];
    let unplaced = second.desk.synchronize(&[a.clone(), missed.clone()], &listed);
    assert_eq!(unplaced.iter().map(|(_, container)| container.id.as_str()).collect::<Vec<_>>(), ["main-missed"]);
    assert_eq!(second.entries(), ["main-a.json"]);
    let ward = second.ward().unwrap();
    assert_eq!((ward.id.as_str(), &ward.ranks.ranks[0].cpus), ("main-a", &Some(set("4-6"))), "as it was planned");

    second.desk.settle("main-missed");
    assert_eq!(changed(&second.changes.try_recv().unwrap()).1, "0-7");
    assert_eq!(second.ward().unwrap().id, "main-missed");
    assert_eq!(second.entries(), ["main-a.json", "main-missed.json"]);
}

#[test]
fn a_container_that_the_runtime_has_forgotten_keeps_its_place_as_long_as_its_processes_live() {
    let folder = tempfile::tempdir().unwrap();
    let cgroup = |name: &str| folder.path().join("cgroups/kubepods").join(name).join("main");
    for (name, processes) in [("lives", "77\n"), ("ended", "")] {
        std::fs::create_dir_all(cgroup(name)).unwrap();
        std::fs::write(cgroup(name).join("cgroup.procs"), processes).unwrap();
    }
    let first = office_in(folder, ContainerCpuset::Own);
    let (lives, ended) = (pod("lives", &AUTO), pod("ended", &AUTO));
    for pod in [&lives, &ended] {
        let main = container(pod, &BOTH_GPUS, "");
        first.create(pod, &main);
        first.desk.started(&main);
    }
    // Only the runtime was killed.
    assert_eq!(first.desk.synchronize(&[lives.clone(), ended.clone()], &[]), []);
    assert_eq!(first.entries(), ["main-lives.json"]);

    // The agent too, and the runtime has forgotten the pod as well.
    let mut second = office_in(first.run_dir, ContainerCpuset::Own);
    assert_eq!(second.desk.synchronize(&[], &[]), []);
    assert_eq!(second.ward().unwrap().cgroup, "/kubepods/lives/main");
    assert_eq!(second.desk.place_of("main-lives", 0).unwrap().pod.name, "lives");
    // A container that has stopped is listed until it is removed.
    let mut stopped = container(&lives, &BOTH_GPUS, "");
    stopped.set_state(ContainerState::ContainerStopped);
    assert_eq!(second.desk.synchronize(std::slice::from_ref(&lives), &[stopped]), []);
    second.desk.heed_ended();
    assert_eq!(second.entries(), ["main-lives.json"]);
    std::fs::write(second.run_dir.path().join("cgroups/kubepods/lives/main/cgroup.procs"), "").unwrap();
    second.desk.heed_ended();
    assert!(matches!(second.orders.try_recv(), Ok(Order::Forget(id)) if id == "main-lives"));
    assert_eq!(second.entries(), [""; 0]);
}

#[test]
fn another_number_of_ranks_than_planned_is_planned_for_unless_the_pod_states_one() {
    let mut office = office();
    let pod = pod("a", &AUTO);
    let main = container(&pod, &BOTH_GPUS, "");
    office.create(&pod, &main);
    office.desk.started(&main);
    office.desk.replan("main-a", Some(1));
    assert_eq!(office.ward().unwrap().ranks.ranks.len(), 1);
    let stated = self::pod("b", &[AUTO[0], ("ranks", "2")]);
    let main = container(&stated, &BOTH_GPUS, "");
    office.create(&stated, &main);
    office.desk.started(&main);
    office.ward();
    office.desk.replan("main-b", Some(1));
    assert_eq!(office.ward(), None);
    assert!(office.notice().1.contains("states 1 local ranks"));
}

#[test]
fn a_container_that_was_unpinned_by_hand_is_left_alone() {
    let mut office = office();
    let pod = pod("a", &AUTO);
    let main = container(&pod, &BOTH_GPUS, "1-7");
    office.create(&pod, &main);
    office.desk.started(&main);
    office.ward();
    let ledger = LedgerFolder::in_run_dir(office.run_dir.path());
    let mut entry = ledger.reader("b007").read().unwrap().get("main-a").unwrap().clone();
    entry.unpinned = true;
    ledger.lock(LEDGER_PATIENCE).unwrap().put(&entry).unwrap();
    while office.placements.try_recv().is_ok() {}
    office.desk.heed_unpinned();
    assert!(matches!(office.orders.try_recv(), Ok(Order::Forget(_))));
    assert_eq!(annotated(&mut office), Some(("a".to_owned(), 0)));
    let restored = changed(&office.changes.try_recv().unwrap());
    assert_eq!(restored, ("main-a".to_owned(), "1-7".to_owned(), "0-1".to_owned()), "as before, where that was set");
    assert_eq!(office.desk.update(&main, &resources("1-6")), []);
    office.desk.updated("main-a");
    assert_eq!(office.ward(), None);
}

/// The pod and ranks of the annotation that comes out next.
fn annotated(office: &mut Office) -> Option<(String, usize)> {
    match office.placements.try_recv().ok()? {
        Placed::Container { pod, ranks, .. } => Some((pod.name, ranks.len())),
        Placed::Gone { uid } => Some((uid, usize::MAX)),
    }
}

#[test]
fn a_pods_annotation_follows_its_containers_until_its_last_sandbox_is_gone() {
    let mut office = office();
    let pod = pod("a", &AUTO);
    let main = container(&pod, &BOTH_GPUS, "");
    office.create(&pod, &main);
    assert_eq!(annotated(&mut office), Some(("a".to_owned(), 2)));
    office.desk.stopped("main-a");
    assert_eq!(annotated(&mut office), None, "what has ended keeps it");

    // The same pod in a new sandbox, where its container asks for more CPUs than there are.
    let again = PodSandbox {
        id: "sandbox-again".to_owned(),
        annotations: [(format!("{PREFIX}cpu-map"), "cpus:99;98".to_owned())].into(),
        ..pod.clone()
    };
    office.create(&again, &Container { pod_sandbox_id: again.id.clone(), ..main });
    assert_eq!(annotated(&mut office), Some(("a".to_owned(), 0)));
    office.desk.pod_gone(&pod.id);
    assert_eq!(annotated(&mut office), None);
    office.desk.pod_gone(&again.id);
    assert_eq!(annotated(&mut office), Some(("uid-a".to_owned(), usize::MAX)));
}

#[test]
fn a_pod_from_a_file_is_told_apart_by_what_kubelet_says() {
    for (source, expected) in [(None, false), (Some("api"), false), (Some("file"), true), (Some("http"), true)] {
        let mut office = office();
        let mut pod = pod("a", &AUTO);
        pod.annotations.extend(source.map(|source| (CONFIG_SOURCE.to_owned(), source.to_owned())));
        office.create(&pod, &container(&pod, &BOTH_GPUS, ""));
        let placed = office.placements.try_recv().unwrap();
        assert!(matches!(placed, Placed::Container { from_file, .. } if from_file == expected), "{source:?}");
    }
}
