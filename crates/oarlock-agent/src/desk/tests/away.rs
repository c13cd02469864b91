//! What the runtime did while no agent was there.

use super::*;

/// A container of the pod as a runtime lists it that has these sets for it.
fn listed(pod: &PodSandbox, env: &[&str], cpus: &str, mems: &str) -> Container {
    let mut container = container(pod, env, cpus);
    let resources = container.linux.as_mut().unwrap().resources.as_mut().unwrap();
    resources.cpu.as_mut().unwrap().mems = mems.to_owned();
    container.set_state(ContainerState::ContainerRunning);
    container
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
    assert_eq!(ids(&second.desk.synchronize(&pods, &[listed(&pod, &BOTH_GPUS, "0-6", "0-1")])), [""; 0]);
    second.desk.settle("main-a");
    assert_eq!(changes(&mut second), [], "what is as it was planned stays");

    let mut third = successor(second);
    assert_eq!(ids(&third.desk.synchronize(&pods, &[listed(&pod, &BOTH_GPUS, "2,6-7", "")])), ["main-a"]);
    third.desk.settle("main-a");
    let ranks = third.ward().unwrap().ranks.ranks;
    assert_eq!((&ranks[0].cpus, &ranks[1].cpus), (&Some(set("6-7")), &Some(set("2"))));
    assert_eq!(changes(&mut third), [("main-a".to_owned(), "2,6-7".to_owned(), "0-1".to_owned())]);
    let entry = third.desk.ledger.reader("b007").read().unwrap().get("main-a").unwrap().clone();
    assert_eq!((entry.container.cpus, entry.before.cpus), (set("2,6-7"), Some(set("2,6-7"))));
    third.desk.settle("main-a");
    assert_eq!((changes(&mut third), third.ward()), (vec![], None), "once is enough");

    // The agent lives, and the connection was lost.
    assert_eq!(ids(&third.desk.synchronize(&pods, &[listed(&pod, &BOTH_GPUS, "0-7", "0-1")])), ["main-a"]);
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
    assert_eq!(ids(&second.desk.synchronize(&pods, &[listed(&pod, &BOTH_GPUS, "", "")])), ["main-a"]);
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
    assert_eq!(ids(&second.desk.synchronize(&pods, &[listed(&pod, &BOTH_GPUS, "2-5", "")])), ["main-a"]);
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
fn who_was_kept_off_anothers_cpus_gets_them_back_and_what_it_was_given_is_cut_anew() {
    let first = office();
    first.desk.state().knowledge.given.add(&["node-1".to_owned()]);
    let (kept, nodes) = (pod("kept", &[]), pod("nodes", &[]));
    first.create(&nodes, &container(&nodes, &["OARLOCK_NUMA_NODES=1"], ""));
    first.create(&kept, &container(&kept, &[], "0-5"));
    assert_eq!(first.entries(), ["main-kept.json", "main-nodes.json"]);
    let holder = listed(&nodes, &["OARLOCK_NUMA_NODES=1"], "4-7", "1");
    let pods = [kept.clone(), nodes];
    let mut second = successor(first);
    second.desk.synchronize(&pods, &[listed(&kept, &[], "2-6", ""), holder.clone()]);
    assert_eq!(changes(&mut second), [to("main-kept", "2-3")]);
    let mut third = successor(second);
    third.desk.synchronize(&pods, &[listed(&kept, &[], "1-3", ""), holder]);
    assert_eq!(changes(&mut third), [], "none of these are the holder's");
    assert_eq!(third.entries(), ["main-nodes.json"]);

    let again = office();
    again.desk.state().knowledge.given.add(&["node-1".to_owned()]);
    again.create(&pods[1], &container(&pods[1], &["OARLOCK_NUMA_NODES=1"], ""));
    again.create(&kept, &container(&kept, &[], "0-5"));
    let mut next = successor(again);
    next.desk.synchronize(&pods[..1], &[listed(&kept, &[], "0-3", "")]);
    assert_eq!(changes(&mut next), [to("main-kept", "0-5")], "the holder has ended");
    assert_eq!(next.entries(), [""; 0]);
}
