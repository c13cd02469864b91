//! What the runtime did while no agent was there.

use super::*;

/// A host with cgroups.
fn office() -> Office {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("cgroups")).unwrap();
    office_in(folder, ContainerCpuset::Own)
}

/// A container of the pod as a runtime lists it that has these sets for it.
fn listed(pod: &PodSandbox, env: &[&str], cpus: &str, mems: &str) -> Container {
    let mut container = container(pod, env, cpus);
    let resources = container.linux.as_mut().unwrap().resources.as_mut().unwrap();
    resources.cpu.as_mut().unwrap().mems = mems.to_owned();
    container.set_state(ContainerState::ContainerRunning);
    container
}

/// The same, where the kernel has them too.
fn running(office: &Office, pod: &PodSandbox, cpus: &str, mems: &str) -> Container {
    let cgroup = office.run_dir.path().join("cgroups/kubepods").join(&pod.name).join("main");
    std::fs::create_dir_all(&cgroup).unwrap();
    std::fs::write(cgroup.join("cpuset.cpus"), format!("{cpus}\n")).unwrap();
    std::fs::write(cgroup.join("cpuset.mems"), format!("{mems}\n")).unwrap();
    listed(pod, &BOTH_GPUS, cpus, mems)
}

fn ids(unsettled: &[(PodSandbox, Container)]) -> Vec<&str> {
    unsettled.iter().map(|(_, container)| container.id.as_str()).collect()
}

/// The changes that went out.
fn changes(office: &mut Office) -> Vec<(String, String, String)> {
    std::iter::from_fn(|| office.changes.try_recv().ok()).map(|change| changed(&change)).collect()
}

/// Another agent in the place of this one.
fn successor(office: Office) -> Office {
    office_in(office.run_dir, ContainerCpuset::Own)
}

#[test]
fn another_cpuset_that_a_container_was_given_is_planned_in() {
    let first = office();
    let pod = pod("a", &AUTO);
    first.create(&pod, &container(&pod, &BOTH_GPUS, "0-6"));
    let mut second = successor(first);
    let pods = [pod.clone()];
    assert_eq!(ids(&second.desk.synchronize(&pods, &[running(&second, &pod, "0-6", "0-1")])), [""; 0]);
    second.desk.settle("main-a");
    assert_eq!(changes(&mut second), [], "what is as it was planned stays");

    let mut third = successor(second);
    assert_eq!(ids(&third.desk.synchronize(&pods, &[running(&third, &pod, "2,6-7", "")])), ["main-a"]);
    third.desk.settle("main-a");
    let ranks = third.ward().unwrap().ranks.ranks;
    assert_eq!((&ranks[0].cpus, &ranks[1].cpus), (&Some(set("6-7")), &Some(set("2"))));
    assert_eq!(changes(&mut third), [("main-a".to_owned(), "2,6-7".to_owned(), "0-1".to_owned())]);
    let entry = third.desk.ledger.reader("b007").read().unwrap().get("main-a").unwrap().clone();
    assert_eq!((entry.container.cpus, entry.before.cpus), (set("2,6-7"), Some(set("2,6-7"))));
    third.desk.settle("main-a");
    assert_eq!((changes(&mut third), third.ward()), (vec![], None), "once is enough");

    // The agent lives, and the connection was lost.
    assert_eq!(ids(&third.desk.synchronize(&pods, &[running(&third, &pod, "0-7", "0-1")])), ["main-a"]);
    third.desk.settle("main-a");
    assert_eq!(third.ward().unwrap().ranks.ranks[0].cpus, Some(set("4-7")));
}

#[test]
fn a_cpuset_that_never_came_to_the_runtime_is_sent_again() {
    let first = office();
    let pod = pod("a", &AUTO);
    first.create(&pod, &container(&pod, &BOTH_GPUS, ""));
    let mut second = successor(first);
    let pods = [pod.clone()];
    assert_eq!(ids(&second.desk.synchronize(&pods, &[running(&second, &pod, "", "")])), ["main-a"]);
    second.desk.settle("main-a");
    assert_eq!(changes(&mut second), [("main-a".to_owned(), "0-7".to_owned(), "0-1".to_owned())]);
}

#[test]
fn a_cpuset_that_is_anothers_stays_so_with_the_next_agent_and_ranks_are_held_inside_it() {
    let first = office();
    let pod = pod("a", &AUTO);
    let main = container(&pod, &BOTH_GPUS, "");
    first.create(&pod, &main);
    first.desk.stopped("main-a");
    assert_eq!(first.create(&pod, &main).adjust.unwrap().linux, None);
    let mut second = successor(first);
    let pods = [pod.clone()];
    assert_eq!(ids(&second.desk.synchronize(&pods, &[running(&second, &pod, "2-5", "")])), ["main-a"]);
    second.desk.settle("main-a");
    assert_eq!(second.ward().unwrap().ranks.ranks[0].cpus, Some(set("4-5")));
    assert_eq!(changes(&mut second), []);
    assert_eq!(second.desk.update(&main, &resources("2-6")), []);

    // So it is told to be for all of them.
    let mut third = office_in(second.run_dir, ContainerCpuset::Leave);
    let late = self::pod("late", &AUTO);
    let late_one = listed(&late, &BOTH_GPUS, "0-6", "");
    third.desk.note(&late_one);
    assert_eq!(ids(&third.desk.synchronize(std::slice::from_ref(&late), &[late_one])), ["main-late"]);
    third.desk.settle("main-late");
    assert_eq!(third.ward().unwrap().ranks.ranks[0].cpus, Some(set("4-6")));
    assert_eq!(changes(&mut third), []);
}

#[test]
fn a_runtime_that_tells_of_what_was_long_ago_is_not_believed() {
    let first = office();
    let pod = pod("a", &AUTO);
    first.create(&pod, &container(&pod, &BOTH_GPUS, "0-6"));
    let mut second = successor(first);
    running(&second, &pod, "0-6", "0-1");
    let unsettled = second.desk.synchronize(std::slice::from_ref(&pod), &[listed(&pod, &BOTH_GPUS, "0-7", "")]);
    assert_eq!(ids(&unsettled), [""; 0]);
    assert_eq!(second.ward().unwrap().ranks.ranks[0].cpus, Some(set("4-6")));
}

#[test]
fn containers_that_were_given_each_others_own_cpus_are_in_nobodys_way() {
    let first = office();
    let pods = ["a", "b"].map(|name| pod(name, &[("cpu-map", "exclusive"), ("ranks", "1")]));
    first.create(&pods[0], &container(&pods[0], &BOTH_GPUS, "0-3"));
    first.create(&pods[1], &container(&pods[1], &BOTH_GPUS, "4-7"));
    let second = successor(first);
    let swapped = [running(&second, &pods[0], "4-7", ""), running(&second, &pods[1], "0-3", "")];
    let unsettled = second.desk.synchronize(&pods, &swapped);
    assert_eq!(ids(&unsettled), ["main-a", "main-b"]);
    for id in ids(&unsettled) {
        second.desk.settle(id);
    }
    let mut reader = second.desk.ledger.reader("b007");
    let ledger = reader.read().unwrap();
    let held = ["main-a", "main-b"].map(|id| ledger.get(id).unwrap().exclusive.clone());
    assert_eq!(held, [set("4-7"), set("0-3")]);
}

#[test]
fn while_kubelet_says_nothing_no_place_is_lost() {
    let first = office();
    let pod = pod("a", &AUTO);
    first.create(&pod, &container(&pod, &BOTH_GPUS, "0-6"));
    let mut second = successor(first);
    // What its devices were kubelet alone knows.
    let mut blind = running(&second, &pod, "0-3", "");
    blind.env = vec!["NVIDIA_VISIBLE_DEVICES=void".to_owned()];
    assert_eq!(ids(&second.desk.synchronize(std::slice::from_ref(&pod), &[blind])), ["main-a"]);
    assert_eq!(second.ward(), None, "the old place is none inside the new cpuset");
    second.desk.settle("main-a");
    assert_eq!(second.ward().unwrap().ranks.ranks.len(), 2);
    assert_eq!(second.entries(), ["main-a.json"]);
    assert!(second.notices.try_recv().is_err());
}

#[test]
fn a_cpuset_that_was_ours_is_so_where_the_next_agent_leaves_all_of_them() {
    let first = office();
    let pod = pod("a", &AUTO);
    first.create(&pod, &container(&pod, &BOTH_GPUS, ""));
    let second = office_in(first.run_dir, ContainerCpuset::Leave);
    let container = running(&second, &pod, "0-7", "0-1");
    assert_eq!(ids(&second.desk.synchronize(std::slice::from_ref(&pod), &[container])), [""; 0]);
    let entry = second.desk.ledger.reader("b007").read().unwrap().get("main-a").unwrap().clone();
    assert_eq!((entry.container.cpus, entry.before.cpus), (set("0-7"), None));
}

#[test]
fn who_was_kept_off_anothers_cpus_gets_them_back_where_the_holder_ended_meanwhile_unless_unpinned_by_hand() {
    for unpinned in [false, true] {
        let first = office();
        first.desk.state().knowledge.given.add(&["node-1".to_owned()]);
        let (kept, nodes) = (pod("kept", &[]), pod("nodes", &[]));
        first.create(&nodes, &container(&nodes, &["OARLOCK_NUMA_NODES=1"], ""));
        first.create(&kept, &container(&kept, &[], "0-5"));
        assert_eq!(first.entries(), ["main-kept.json", "main-nodes.json"]);
        let ledger = LedgerFolder::in_run_dir(first.run_dir.path());
        let mut entry = ledger.reader("b007").read().unwrap().get("main-kept").unwrap().clone();
        entry.unpinned = unpinned;
        ledger.lock(LEDGER_PATIENCE).unwrap().put(&entry).unwrap();
        let mut second = successor(first);
        second.desk.synchronize(std::slice::from_ref(&kept), &[listed(&kept, &[], "0-3", "")]);
        if unpinned {
            assert_eq!((changes(&mut second), second.entries()), (vec![], vec!["main-kept.json".to_owned()]));
        } else {
            assert_eq!(changes(&mut second), [to("main-kept", "0-5")]);
            assert_eq!(second.entries(), [""; 0]);
        }
    }
}
