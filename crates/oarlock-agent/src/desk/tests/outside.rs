//! Containers that have not what was planned for them.

use std::time::Instant;

use super::*;

/// A host with cgroups and a container of the pod that runs, with a place for each GPU inside these CPUs.
fn office_with(pod: &PodSandbox, cpus: &str) -> Office {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("cgroups")).unwrap();
    let mut office = office_in(folder, ContainerCpuset::Own);
    let main = container(pod, &BOTH_GPUS, cpus);
    office.create(pod, &main);
    office.desk.started(&main);
    office.ward().unwrap();
    office
}

/// What its processes may use.
fn in_effect(office: &Office, pod: &PodSandbox, cpus: &str, mems: &str) {
    let cgroup = office.run_dir.path().join("cgroups/kubepods").join(&pod.name).join("main");
    std::fs::create_dir_all(&cgroup).unwrap();
    std::fs::write(cgroup.join("cpuset.cpus.effective"), format!("{cpus}\n")).unwrap();
    std::fs::write(cgroup.join("cpuset.mems.effective"), format!("{mems}\n")).unwrap();
}

fn given(office: &Office) -> (String, String) {
    let given = office.desk.state().containers["main-a"].given.clone();
    (given.cpus.unwrap_or_default().to_string(), given.mems.unwrap_or_default().to_string())
}

fn cpus_of_ranks(ward: Option<Ward>) -> Option<Vec<String>> {
    Some(ward?.ranks.ranks.iter().map(|rank| rank.cpus.clone().unwrap().to_string()).collect())
}

fn texts(cpus: &str, mems: &str) -> (String, String) {
    (cpus.to_owned(), mems.to_owned())
}

#[test]
fn what_somebody_else_gave_it_its_ranks_are_planned_inside_of() {
    let pod = pod("a", &AUTO);
    let mut office = office_with(&pod, "0-7");
    in_effect(&office, &pod, "2,6-7", "0-1");
    office.desk.replan("main-a", None);
    assert_eq!(cpus_of_ranks(office.ward()).unwrap(), ["6-7", "2"]);
    assert_eq!(given(&office).0, "2,6-7");
}

#[test]
fn what_is_ours_nobody_gave_it() {
    let pod = pod("a", &AUTO);
    let mut office = office_with(&pod, "0-7");
    let main = container(&pod, &BOTH_GPUS, "0-7");
    office.desk.update(&main, &resources("0-2"));
    office.desk.updated("main-a");
    let narrow = cpus_of_ranks(office.ward()).unwrap();
    let (cpus, mems) = office.desk.state().containers["main-a"].sets();
    let (cpus, mems) = (cpus.unwrap().to_string(), mems.unwrap().to_string());
    assert_ne!(mems, "0-1", "the plan needs fewer nodes than there are");
    in_effect(&office, &pod, &cpus, &mems);
    office.desk.replan("main-a", None);
    assert_eq!((cpus_of_ranks(office.ward()).unwrap(), given(&office)), (narrow, texts("0-2", "")));
    office.desk.update(&main, &resources("0-7"));
    office.desk.updated("main-a");
    assert_eq!(cpus_of_ranks(office.ward()).unwrap(), ["4-7", "0-3"], "all nodes again");
}

#[test]
fn while_a_change_is_on_its_way_a_cgroup_is_not_believed() {
    let pod = pod("a", &AUTO);
    let mut office = office_with(&pod, "0-7");
    let main = container(&pod, &BOTH_GPUS, "0-7");
    office.desk.update(&main, &resources("0-2"));
    office.desk.updated("main-a");
    office.ward();
    let (_, old) = office.desk.state().containers["main-a"].sets();
    office.desk.update(&main, &resources("0-7"));
    // The kernel has the CPUs already, and not yet the nodes.
    in_effect(&office, &pod, "0-7", &old.unwrap().to_string());
    office.desk.replan("main-a", None);
    assert_eq!((office.ward(), given(&office)), (None, texts("0-7", "")));
    // It may be that the runtime fails.
    let long_ago = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
    office.desk.state().containers.get_mut("main-a").unwrap().changed = Some(long_ago);
    office.desk.replan("main-a", None);
    assert!(office.ward().is_some());
}
