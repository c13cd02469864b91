use std::sync::Arc;

use oarlock_core::Machine;
use oarlock_device_plugin::pod_resources::{Allocatable, ContainerHoldings, Memory};
use serde_json::{Value, json};

use super::*;

const GIB: u64 = 1 << 30;

/// Nodes 1 and 3 have CPUs, node 4 memory alone, 8 is a GPU's memory, and 64 does not fit into a set of kubelet's.
fn knowledge() -> Knowledge {
    let node = |id, cpus: &str, gib: u64| Node {
        id,
        cpus: cpus.parse().unwrap(),
        memory_mb: Some(gib << 10),
        gpu_memory: id == 8,
    };
    let nodes = vec![node(1, "0-7", 16), node(3, "8-15", 8), node(4, "", 32), node(8, "", 64), node(64, "16-17", 1)];
    let row = |from: u32| (0..5).map(|to| if from == to { 10 } else { 20 + to }).collect();
    let mut knowledge = Knowledge {
        machine: Machine { nodes, distances: Some((0..5).map(row).collect()), ..Machine::default() },
        ..Knowledge::default()
    };
    knowledge.own.numa_node = "oarlock.dev/numa-node".to_owned();
    knowledge.slots.insert("node-3-slot-0".to_owned(), (3, "8-11".parse().unwrap()));
    knowledge
}

fn devices(resource: &str, ids: &[&str], nodes: &str) -> HeldDevices {
    HeldDevices {
        resource: resource.to_owned(),
        ids: ids.iter().map(ToString::to_string).collect(),
        nodes: nodes.parse().unwrap(),
    }
}

fn memory_of(kind: &str, bytes: u64, nodes: &str) -> Memory {
    Memory { kind: kind.to_owned(), bytes, nodes: nodes.parse().unwrap() }
}

fn container(devices: Vec<HeldDevices>, cpus: &str, memory: Vec<Memory>) -> ContainerHoldings {
    let name = |name: &str| name.to_owned();
    let (namespace, pod, container) = (name("ml"), name("job"), name("main"));
    ContainerHoldings { namespace, pod, container, devices, cpus: cpus.parse().unwrap(), memory }
}

fn told(allocatable: Allocatable, containers: Vec<ContainerHoldings>) -> Value {
    let says = Says { allocatable, containers: Arc::new(containers) };
    serde_json::to_value(zones(&knowledge(), &"0,8".parse().unwrap(), &says)).unwrap()
}

/// Capacity, allocatable and available of a resource in a zone.
fn of(zones: &Value, zone: &str, resource: &str) -> Option<[u64; 3]> {
    let zone = zones.as_array().unwrap().iter().find(|known| known["name"] == zone)?;
    let found = zone["resources"].as_array().unwrap().iter().find(|known| known["name"] == resource)?;
    Some(["capacity", "allocatable", "available"].map(|key| found[key].as_str().unwrap().parse().unwrap()))
}

#[test]
fn zones_are_the_nodes_that_kubelet_can_have_in_a_set_with_their_distances() {
    let zones = told(Allocatable::default(), Vec::new());
    let names: Vec<&str> = zones.as_array().unwrap().iter().map(|zone| zone["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["node-1", "node-3", "node-4"]);
    assert_eq!(zones[1]["type"], "Node");
    let costs = json!([
        { "name": "node-1", "value": 20 }, { "name": "node-3", "value": 10 }, { "name": "node-4", "value": 22 },
    ]);
    assert_eq!(zones[1]["costs"], costs);
}

#[test]
fn where_kubelets_managers_are_off_a_node_has_its_cpus_less_the_systems_and_all_its_memory() {
    let zones = told(Allocatable::default(), vec![container(Vec::new(), "", Vec::new())]);
    assert_eq!(of(&zones, "node-1", "cpu"), Some([8, 7, 7]));
    assert_eq!(of(&zones, "node-1", "memory"), Some([16 * GIB; 3]));
    assert_eq!(of(&zones, "node-4", "cpu"), None);
    assert_eq!(of(&zones, "node-4", "memory"), Some([32 * GIB; 3]));
}

#[test]
fn cpus_that_a_container_has_for_itself_are_not_left() {
    let allocatable = Allocatable { cpus: "2-15".parse().unwrap(), ..Allocatable::default() };
    let zones = told(allocatable.clone(), vec![container(Vec::new(), "2-4,9", Vec::new())]);
    assert_eq!(of(&zones, "node-1", "cpu"), Some([8, 6, 3]), "kubelet's word is about what the system keeps, too");
    assert_eq!(of(&zones, "node-3", "cpu"), Some([8, 8, 7]));
    // A slot of ours has CPUs of its own, one of which is that container's by mistake.
    let slot = container(vec![devices("oarlock.dev/numa-node", &["node-3-slot-0"], "3")], "", Vec::new());
    let zones = told(allocatable, vec![container(Vec::new(), "2-4,9", Vec::new()), slot]);
    assert_eq!(of(&zones, "node-3", "cpu"), Some([8, 8, 4]));
}

#[test]
fn devices_count_where_their_plugin_says_one_node() {
    let allocatable = Allocatable {
        devices: vec![
            devices("nvidia.com/gpu", &["a"], "1"),
            devices("nvidia.com/gpu", &["b", "c"], "3"),
            devices("nvidia.com/gpu", &["both"], "1,3"),
            devices("nvidia.com/gpu", &["nowhere"], ""),
            devices("nvidia.com/gpu", &["absent"], "7"),
            devices("rdma/hca", &["a"], "1"),
        ],
        ..Allocatable::default()
    };
    let zones = told(allocatable.clone(), Vec::new());
    assert_eq!(of(&zones, "node-1", "nvidia.com/gpu"), Some([1, 1, 1]));
    assert_eq!(of(&zones, "node-3", "nvidia.com/gpu"), Some([2, 2, 2]));
    assert_eq!(of(&zones, "node-4", "nvidia.com/gpu"), None);
    // Held: one of node 3, said twice; one that is not healthy any more; and one of the same name of another resource.
    let held = vec![
        devices("nvidia.com/gpu", &["c"], "3"),
        devices("nvidia.com/gpu", &["c", "sick"], ""),
        devices("rdma/hca", &["a"], "1"),
    ];
    let zones = told(allocatable, vec![container(held, "", Vec::new())]);
    assert_eq!(of(&zones, "node-3", "nvidia.com/gpu"), Some([2, 2, 1]));
    assert_eq!(of(&zones, "node-1", "nvidia.com/gpu"), Some([1, 1, 1]));
    assert_eq!(of(&zones, "node-1", "rdma/hca"), Some([1, 1, 0]));
}

#[test]
fn memory_that_is_reserved_on_several_nodes_fills_them_one_after_the_other() {
    let allocatable = Allocatable {
        memory: vec![
            memory_of("memory", 15 * GIB, "1"),
            memory_of("memory", 7 * GIB, "3"),
            memory_of("hugepages-1Gi", 2 * GIB, "3"),
        ],
        ..Allocatable::default()
    };
    let held = vec![memory_of("memory", 16 * GIB, "1,3"), memory_of("hugepages-1Gi", GIB, "3")];
    let zones = told(allocatable, vec![container(Vec::new(), "", held)]);
    assert_eq!(of(&zones, "node-1", "memory"), Some([16 * GIB, 15 * GIB, 0]));
    assert_eq!(of(&zones, "node-3", "memory"), Some([8 * GIB, 7 * GIB, 6 * GIB]));
    assert_eq!(of(&zones, "node-3", "hugepages-1Gi"), Some([2 * GIB, 2 * GIB, GIB]));
    assert_eq!(of(&zones, "node-4", "memory"), None, "the Memory Manager keeps it");
}

#[test]
fn what_kubelet_says_wrongly_takes_no_more_than_there_is() {
    let allocatable = Allocatable {
        memory: vec![memory_of("memory", u64::MAX, "1"), memory_of("memory", u64::MAX, "1")],
        devices: vec![devices("x/y", &["a"], "1"), devices("x/y", &["a"], "3")],
        ..Allocatable::default()
    };
    let held = vec![devices("x/y", &["a"], "1"), devices("x/y", &["a"], "1")];
    let container = container(held, "0-15", vec![memory_of("memory", u64::MAX, "1"); 2]);
    let zones = told(allocatable, vec![container]);
    assert_eq!(of(&zones, "node-1", "memory").map(|amounts| amounts[2]), Some(0));
    assert_eq!((of(&zones, "node-1", "x/y"), of(&zones, "node-3", "x/y")), (Some([1, 1, 0]), None));
    assert_eq!(of(&zones, "node-1", "cpu"), Some([8, 7, 0]));
}
