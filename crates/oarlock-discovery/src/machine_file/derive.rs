//! What one stated fact implies of another that is missing.

use std::collections::BTreeMap;

use oarlock_core::machine::{Node, Package};
use oarlock_core::{CpuSet, NodeSet};

use super::Problem;
use super::gpus::RawGpu;
use super::read::RawNode;

/// NVIDIA's driver reserves eight nodes for each GPU whose memory is NUMA nodes: the first is the GPU's memory, the other
/// seven are for its MIG instances and stay empty without them.
const NODES_PER_GPU: u32 = 8;

/// A printed GPU NUMA id names the node that is the GPU's memory. The seven after it, where the file says nothing of them,
/// are the ones reserved with it.
pub(super) fn gpu_memory(nodes: &mut [RawNode], gpus: &mut [RawGpu], warnings: &mut Vec<String>) {
    for gpu in gpus {
        let Some(id) = gpu.memory_node.take().or(gpu.printed_memory_node) else { continue };
        match nodes.iter_mut().find(|node| node.id == id) {
            None => {
                warnings
                    .push(format!("gpu {}: its gpu numa id {id} is not among the nodes; it is left out", gpu.index));
            }
            Some(node) if node.cpus.as_ref().is_some_and(|cpus| !cpus.is_empty()) => {
                warnings.push(format!("gpu {}: its gpu numa id {id} is a node with cpus; it is left out", gpu.index));
            }
            Some(node) => {
                node.gpu_memory = true;
                node.cpus = Some(CpuSet::new());
                gpu.memory_node = Some(id);
            }
        }
    }
    let memory: Vec<u32> = nodes.iter().filter(|node| node.gpu_memory).map(|node| node.id).collect();
    for node in nodes.iter_mut().filter(|node| node.cpus.is_none() && node.memory_mb.is_none()) {
        if memory.iter().any(|first| node.id > *first && node.id - first < NODES_PER_GPU) {
            (node.gpu_memory, node.cpus, node.memory_mb) = (true, Some(CpuSet::new()), Some(0));
        }
    }
}

/// A node without a `cpulist` has the CPUs that the GPUs on it are near to. Nodes that no GPU tells of are refused.
pub(super) fn node_cpus(nodes: &[RawNode], gpus: &[RawGpu]) -> Result<Vec<Node>, Problem> {
    let mut near: BTreeMap<u32, CpuSet> = BTreeMap::new();
    for gpu in gpus {
        if let (Some(node), Some(affinity)) = (gpu.node, &gpu.affinity) {
            near.entry(node).or_default().extend(affinity);
        }
    }
    let silent: NodeSet =
        nodes.iter().filter(|n| n.cpus.is_none() && !near.contains_key(&n.id)).map(|n| n.id).collect();
    if !silent.is_empty() {
        return Err(Problem::NoCpulist { nodes: silent });
    }
    let node = |node: &RawNode| Node {
        id: node.id,
        cpus: node.cpus.clone().or_else(|| near.remove(&node.id)).unwrap_or_default(),
        memory_mb: node.memory_mb,
        gpu_memory: node.gpu_memory,
    };
    Ok(nodes.iter().map(node).collect())
}

/// Without SMT each CPU is a core. With two threads a core, x86 numbers all first threads of a node in one run and all
/// second ones in another, in the same order.
pub(super) fn cores(nodes: &[Node], smt: Option<u64>) -> Option<Vec<CpuSet>> {
    match smt {
        Some(1) => Some(nodes.iter().flat_map(|node| node.cpus.iter()).map(CpuSet::of).collect()),
        Some(2) | None => {
            let pairs: Option<Vec<Vec<CpuSet>>> =
                nodes.iter().filter(|node| !node.cpus.is_empty()).map(|node| two_runs(&node.cpus)).collect();
            Some(pairs?.into_iter().flatten().collect())
        }
        Some(_) => None,
    }
}

fn two_runs(cpus: &CpuSet) -> Option<Vec<CpuSet>> {
    let ids: Vec<u32> = cpus.iter().collect();
    let breaks: Vec<usize> = (1..ids.len()).filter(|&at| ids[at] != ids[at - 1] + 1).collect();
    match breaks[..] {
        [middle] if middle * 2 == ids.len() => {
            let (first, second) = ids.split_at(middle);
            Some(first.iter().zip(second).map(|(&a, &b)| [a, b].into_iter().collect()).collect())
        }
        _ => None,
    }
}

/// Packages by the nodes' `socket`, where every node with CPUs has one.
pub(super) fn packages(raw: &[RawNode], nodes: &[Node]) -> Option<Vec<Package>> {
    let mut packages: BTreeMap<u32, CpuSet> = BTreeMap::new();
    for (raw, node) in raw.iter().zip(nodes) {
        if !node.cpus.is_empty() {
            packages.entry(raw.socket?).or_default().extend(&node.cpus);
        }
    }
    Some(packages.into_iter().map(|(id, cpus)| Package { id, cpus }).collect())
}
