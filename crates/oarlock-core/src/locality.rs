//! Which NUMA node a PCI device is attached to: one rule for every source of facts.

use std::fmt;

use crate::idset::{CpuSet, NodeSet};
use crate::machine::Node;

/// The NUMA node of a device, or why none is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Locality {
    /// The device is attached to this node. The node may lack CPUs; the planner then takes the nearest that has some.
    Node {
        /// The node's id.
        node: u32,
        /// Which fact said so.
        from: Evidence,
    },
    /// No fact names exactly one node.
    Unknown {
        /// What the facts said instead.
        why: String,
    },
}

/// The fact that named a device's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// The PCI device's own `numa_node`.
    NumaNode,
    /// The device's `local_cpulist` lies inside exactly one node.
    LocalCpus,
    /// The same two of a bridge above it.
    Bridge,
    /// NVML's memory affinity at node scope, with exactly one bit.
    Nvml,
    /// The operator said so.
    Override,
    /// The machine has a single node with CPUs.
    OnlyNode,
    /// Its device plugin told kubelet.
    Plugin,
}

/// What one source says of a device's place. Every field may be silent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalityFacts {
    /// `numa_node` as written: −1 for unknown.
    pub numa_node: Option<i64>,
    /// `local_cpulist` or `local_cpus`.
    pub local_cpus: Option<CpuSet>,
    /// The same two of the bridges above it, the nearest first.
    pub bridges: Vec<(Option<i64>, Option<CpuSet>)>,
    /// NVML's memory affinity at node scope.
    pub nvml_memory_affinity: Option<NodeSet>,
    /// The operator's word.
    pub override_node: Option<u32>,
}

impl Locality {
    /// The node's id, where one is known.
    pub fn node(&self) -> Option<u32> {
        match self {
            Self::Node { node, .. } => Some(*node),
            Self::Unknown { .. } => None,
        }
    }
}

/// Decides a device's node from the facts: its own `numa_node`, then its local CPUs, then its bridges from the
/// nearest up, then NVML, then the operator's override; last, the only node with CPUs, where there is just one.
///
/// A fact counts only when it names exactly one node of the machine. Local CPUs that reach over several nodes name none,
/// however many of them lie in one.
pub fn resolve(nodes: &[Node], facts: &LocalityFacts) -> Locality {
    let known = |node: u32| nodes.iter().any(|n| n.id == node).then_some(node);
    let by_number = |number: Option<i64>| number.and_then(|n| u32::try_from(n).ok()).and_then(known);
    let by_cpus = |cpus: Option<&CpuSet>| cpus.and_then(|cpus| only_node_around(nodes, cpus));
    let by_bits = |bits: &NodeSet| if bits.len() == 1 { bits.first().and_then(known) } else { None };

    let candidates = [
        (by_number(facts.numa_node), Evidence::NumaNode),
        (by_cpus(facts.local_cpus.as_ref()), Evidence::LocalCpus),
        (
            facts.bridges.iter().find_map(|(number, cpus)| by_number(*number).or_else(|| by_cpus(cpus.as_ref()))),
            Evidence::Bridge,
        ),
        (facts.nvml_memory_affinity.as_ref().and_then(by_bits), Evidence::Nvml),
        (facts.override_node.and_then(known), Evidence::Override),
        (only_node_with_cpus(nodes), Evidence::OnlyNode),
    ];
    for (node, from) in candidates {
        if let Some(node) = node {
            return Locality::Node { node, from };
        }
    }
    Locality::Unknown { why: why_unknown(nodes, facts) }
}

fn only_node_around(nodes: &[Node], cpus: &CpuSet) -> Option<u32> {
    if cpus.is_empty() {
        return None;
    }
    let mut around = nodes.iter().filter(|node| cpus.is_subset(&node.cpus));
    match (around.next(), around.next()) {
        (Some(node), None) => Some(node.id),
        _ => None,
    }
}

fn only_node_with_cpus(nodes: &[Node]) -> Option<u32> {
    let mut bearing = nodes.iter().filter(|node| !node.cpus.is_empty());
    match (bearing.next(), bearing.next()) {
        (Some(node), None) => Some(node.id),
        _ => None,
    }
}

fn why_unknown(nodes: &[Node], facts: &LocalityFacts) -> String {
    let number = match facts.numa_node {
        None => "it has no numa_node".to_owned(),
        Some(n) if n < 0 => format!("its numa_node is {n}"),
        Some(n) => format!("its numa_node {n} is not a node of this machine"),
    };
    let cpus = match &facts.local_cpus {
        Some(cpus) if !cpus.is_empty() => {
            let over: NodeSet = nodes.iter().filter(|n| n.cpus.intersects(cpus)).map(|n| n.id).collect();
            if over.is_empty() {
                format!("its local cpus {cpus} are on no node")
            } else {
                format!("its local cpus {cpus} are on nodes {over}")
            }
        }
        _ => "it has no local cpus".to_owned(),
    };
    format!("{number} and {cpus}")
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NumaNode => "numa_node",
            Self::LocalCpus => "local cpus",
            Self::Bridge => "the bridge above it",
            Self::Nvml => "NVML",
            Self::Override => "the operator's override",
            Self::OnlyNode => "the only node with cpus",
            Self::Plugin => "its device plugin",
        })
    }
}
