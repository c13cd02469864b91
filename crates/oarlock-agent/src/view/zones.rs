//! The zones of a `NodeResourceTopology` object (`topology.node.k8s.io/v1alpha2`): what each NUMA node has, could give, and
//! has left, for schedulers that look at it before kubelet does.
//!
//! Its words are those that the schedulers' plugin reads: a zone of type `Node` is named `node-` and an id, and a resource
//! that kubelet cannot place by node is in no zone.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use oarlock_core::machine::Node;
use oarlock_core::{CpuSet, NodeSet};
use oarlock_device_plugin::pod_resources::HeldDevices;
use serde::Serialize;

use crate::beside::Says;
use crate::place::Knowledge;

/// Ids from here on do not fit into the 64 bits in which kubelet and schedulers keep a set of nodes.
const PAST_NODES: u32 = 64;

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Zone {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    costs: Vec<Cost>,
    resources: Vec<Resource>,
}

/// The distance to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Cost {
    name: String,
    value: u32,
}

/// So much of a resource. Numbers are quantities of Kubernetes, which are strings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Resource {
    name: String,
    capacity: String,
    allocatable: String,
    available: String,
}

/// The same as numbers.
#[derive(Debug, Default)]
struct Amount {
    capacity: u64,
    allocatable: u64,
    available: u64,
}

impl Amount {
    /// All that can be given is left.
    fn whole(capacity: u64, allocatable: u64) -> Self {
        Self { capacity: capacity.max(allocatable), allocatable, available: allocatable }
    }
}

/// What there is of each resource on one node.
type Amounts = BTreeMap<String, Amount>;

/// The zones of the host that is this machine, of which kubelet says this.
pub(super) fn zones(knowledge: &Knowledge, reserved: &CpuSet, says: &Says) -> Vec<Zone> {
    let machine = &knowledge.machine;
    let is_zone = |node: &&Node| !node.gpu_memory && node.id < PAST_NODES;
    let nodes: Vec<&Node> = machine.nodes.iter().filter(is_zone).collect();
    let held = held_cpus(knowledge, says);
    let mut amounts: BTreeMap<u32, Amounts> = BTreeMap::new();
    for node in &nodes {
        let of_node = amounts.entry(node.id).or_default();
        if !node.cpus.is_empty() {
            of_node.insert("cpu".to_owned(), cpus(node, reserved, &held, says));
        }
        of_node.extend(memory(node, says));
    }
    for container in says.containers.iter() {
        for memory in &container.memory {
            take_memory(&mut amounts, &memory.kind, memory.bytes, &memory.nodes);
        }
    }
    devices(&mut amounts, says);
    let name = |node: &Node| format!("node-{}", node.id);
    let zone = |node: &&Node| Zone {
        name: name(node),
        kind: "Node",
        costs: nodes
            .iter()
            .filter_map(|to| Some(Cost { name: name(to), value: machine.distance(node.id, to.id)? }))
            .collect(),
        resources: amounts.remove(&node.id).unwrap_or_default().into_iter().map(resource).collect(),
    };
    nodes.iter().map(zone).collect()
}

fn resource((name, amount): (String, Amount)) -> Resource {
    Resource {
        name,
        capacity: amount.capacity.to_string(),
        allocatable: amount.allocatable.to_string(),
        available: amount.available.to_string(),
    }
}

/// The CPUs that containers have for themselves: by kubelet's CPU Manager, and with a NUMA node or a slot of ours.
fn held_cpus(knowledge: &Knowledge, says: &Says) -> CpuSet {
    let mut held = CpuSet::new();
    for container in says.containers.iter() {
        held.extend(&container.cpus);
        let ours = container.devices.iter().filter(|devices| devices.resource == knowledge.own.numa_node);
        for (_, cpus) in ours.flat_map(|devices| &devices.ids).filter_map(|id| knowledge.slots.get(id)) {
            held.extend(cpus);
        }
    }
    held
}

fn cpus(node: &Node, reserved: &CpuSet, held: &CpuSet, says: &Says) -> Amount {
    // A CPU Manager that gives no CPUs away says of none that it could.
    let managed = &says.allocatable.cpus;
    let given = if managed.is_empty() { node.cpus.difference(reserved) } else { node.cpus.intersection(managed) };
    Amount {
        capacity: node.cpus.len() as u64,
        allocatable: given.len() as u64,
        available: given.difference(held).len() as u64,
    }
}

/// Memory and huge pages of a node. Where no Memory Manager says what it could reserve, it is all that the node has.
fn memory(node: &Node, says: &Says) -> Amounts {
    let has = node.memory_mb.unwrap_or_default() << 20;
    let mut given: BTreeMap<&str, u64> = BTreeMap::new();
    for block in says.allocatable.memory.iter().filter(|block| block.nodes == NodeSet::of(node.id)) {
        let sum = given.entry(&block.kind).or_default();
        *sum = sum.saturating_add(block.bytes);
    }
    if says.allocatable.memory.is_empty() && has > 0 {
        given.insert("memory", has);
    }
    let whole = |(kind, bytes): (&str, u64)| {
        (kind.to_owned(), Amount::whole(if kind == "memory" { has } else { bytes }, bytes))
    };
    given.into_iter().map(whole).collect()
}

/// What a container has on several nodes together fills them one after the other, as kubelet counts it.
fn take_memory(amounts: &mut BTreeMap<u32, Amounts>, kind: &str, bytes: u64, nodes: &NodeSet) {
    let mut left = bytes;
    for node in nodes.iter() {
        if let Some(amount) = amounts.get_mut(&node).and_then(|of_node| of_node.get_mut(kind)) {
            let taken = left.min(amount.available);
            amount.available -= taken;
            left -= taken;
        }
    }
}

/// Devices of which their plugin says one node.
fn devices(amounts: &mut BTreeMap<u32, Amounts>, says: &Says) {
    let mut node_of = HashMap::new();
    for (devices, id) in each(&says.allocatable.devices) {
        let Some(node) = devices.nodes.first().filter(|_| devices.nodes.len() == 1) else { continue };
        let Some(of_node) = amounts.get_mut(&node) else { continue };
        if let Entry::Vacant(device) = node_of.entry((&devices.resource, id)) {
            device.insert(node);
            let amount = of_node.entry(devices.resource.clone()).or_default();
            *amount = Amount::whole(0, amount.allocatable + 1);
        }
    }
    for container in says.containers.iter() {
        for (devices, id) in each(&container.devices) {
            // No device is taken away twice.
            let Some(node) = node_of.remove(&(&devices.resource, id)) else { continue };
            if let Some(amount) = amounts.get_mut(&node).and_then(|of_node| of_node.get_mut(&devices.resource)) {
                amount.available -= 1;
            }
        }
    }
}

fn each(devices: &[HeldDevices]) -> impl Iterator<Item = (&HeldDevices, &String)> {
    devices.iter().flat_map(|devices| devices.ids.iter().map(move |id| (devices, id)))
}

#[cfg(test)]
mod tests;
