//! Where each rank's memory is.

use crate::explain::Warning;
use crate::idset::NodeSet;
use crate::refusal::Refusal;
use crate::request::{CpuMap, MemMap, MemPolicy, Request};

use super::cpus::{Place, check_length, in_block_order};
use super::ground::Ground;
use super::seats::Seat;

/// The memory nodes of every rank, in rank order; `None` where a rank's memory stays unbound.
pub(super) fn mems(
    ground: &Ground<'_>,
    seats: &[Seat<'_>],
    places: &[Place],
    request: &Request,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<Option<NodeSet>>, Refusal> {
    let text = || request.mem_map.to_string();
    if let MemMap::Nodes(lists) = &request.mem_map {
        check_length("mem-map", text, lists.len(), seats)?;
    }
    let mut all = Vec::with_capacity(seats.len());
    for (seat, place) in seats.iter().zip(places) {
        let wanted = match &request.mem_map {
            MemMap::None => None,
            MemMap::Auto => near(ground, seat, place, seats.len(), request, warnings),
            // A rank that stays unbound is not walled in either.
            MemMap::Numa if request.cpu_map != CpuMap::None && place.cpus.is_none() => None,
            MemMap::Numa => Some(in_block_order(ground, seat.rank, seats.len()).nodes),
            MemMap::Nodes(lists) => {
                all.push(Some(listed(ground, seat.rank, &lists[seat.rank as usize], &text, warnings)?));
                continue;
            }
        };
        all.push(wanted.and_then(|nodes| with_memory(ground, seat.rank, &nodes, warnings)));
    }
    if request.mem_policy == MemPolicy::Bind {
        warn_of_full_nodes(ground, &all, request, warnings);
    }
    Ok(all)
}

/// The nodes of the rank's CPUs; without a CPU map its GPUs' own nodes, or block order where the container has none.
fn near(
    ground: &Ground<'_>,
    seat: &Seat<'_>,
    place: &Place,
    ranks: usize,
    request: &Request,
    warnings: &mut Vec<Warning>,
) -> Option<NodeSet> {
    if let Some(cpus) = &place.cpus {
        return Some(ground.nodes_of(cpus));
    }
    if request.cpu_map != CpuMap::None {
        // Unbound, and already said so.
        return None;
    }
    if seat.gpus.is_empty() {
        if !seat.container_has_gpus {
            return Some(in_block_order(ground, seat.rank, ranks).nodes);
        }
        warnings.push(Warning::RankWithoutGpu { rank: seat.rank });
        return None;
    }
    let mut nodes = NodeSet::new();
    for gpu in &seat.gpus {
        let Some(node) = gpu.locality.node() else {
            let text = format!("{}: {}", gpu.name(), gpu.why_unknown());
            warnings.push(Warning::LocalityUnknown { rank: seat.rank, text });
            return None;
        };
        nodes.insert(node);
    }
    Some(nodes)
}

/// Those of `nodes` that have allowed memory; else the nearest that have, ties together; else all that is allowed.
fn with_memory(ground: &Ground<'_>, rank: u32, nodes: &NodeSet, warnings: &mut Vec<Warning>) -> Option<NodeSet> {
    let here = nodes.intersection(&ground.mems);
    if !here.is_empty() {
        return Some(here);
    }
    if ground.mems.is_empty() {
        // Said once, with the ground's own warnings.
        return None;
    }
    let distance = |node: u32| nodes.iter().filter_map(|from| ground.machine.distance(from, node)).min();
    let least = ground.mems.iter().filter_map(distance).min();
    let nearest: NodeSet = match least {
        Some(least) => ground.mems.iter().filter(|&node| distance(node) == Some(least)).collect(),
        None => ground.mems.clone(),
    };
    warnings.push(Warning::MemoryElsewhere { rank, wanted: nodes.clone(), got: nearest.clone() });
    Some(nearest)
}

fn listed(
    ground: &Ground<'_>,
    rank: u32,
    nodes: &NodeSet,
    text: &impl Fn() -> String,
    warnings: &mut Vec<Warning>,
) -> Result<NodeSet, Refusal> {
    const RULE: &str = "an entry names nodes of this machine whose memory is allowed";
    let refuse = |what: String| Refusal::of_entry("mem-map", text(), RULE, rank as usize, &what);
    for id in nodes.iter() {
        let node = ground.machine.node(id).ok_or_else(|| refuse(format!("there is no node {id}")))?;
        if node.gpu_memory {
            return Err(refuse(format!("node {id} is GPU memory, which is never chosen")));
        }
        if !node.has_memory() {
            return Err(refuse(format!("node {id} has no memory")));
        }
    }
    let kept = nodes.intersection(&ground.mems);
    if kept.is_empty() {
        return Err(refuse(format!("memory of node {nodes} is not allowed; allowed is {}", ground.mems)));
    }
    if kept != *nodes {
        warnings.push(Warning::NodesCut { rank, nodes: nodes.difference(&kept) });
    }
    Ok(kept)
}

/// A wall around a full node kills: say so where the container may use more than the walled nodes have.
fn warn_of_full_nodes(ground: &Ground<'_>, mems: &[Option<NodeSet>], request: &Request, warnings: &mut Vec<Warning>) {
    let Some(limit) = request.memory_limit else { return };
    let mut walls: Vec<(&NodeSet, Vec<u32>)> = Vec::new();
    for (rank, nodes) in mems.iter().enumerate().filter_map(|(rank, nodes)| Some((rank as u32, nodes.as_ref()?))) {
        match walls.iter_mut().find(|(known, _)| *known == nodes) {
            Some((_, ranks)) => ranks.push(rank),
            None => walls.push((nodes, vec![rank])),
        }
    }
    for (nodes, ranks) in walls {
        let sizes: Option<Vec<u64>> = nodes.iter().map(|id| ground.machine.node(id)?.memory_mb).collect();
        if let Some(sizes) = sizes {
            let memory_mb: u64 = sizes.iter().sum();
            if limit / (1 << 20) > memory_mb {
                warnings.push(Warning::WallMayKill { ranks, nodes: nodes.clone(), memory_mb, limit });
            }
        }
    }
}
