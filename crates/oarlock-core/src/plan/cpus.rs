//! Where each rank's CPUs are: one function per map.

use std::collections::BTreeMap;

use crate::explain::{Home, Reason, Warning};
use crate::idset::{CpuSet, NodeSet};
use crate::locality::Locality;
use crate::machine::Machine;
use crate::refusal::Refusal;
use crate::request::{CpuMap, Request};

use super::ground::Ground;
use super::seats::{Seat, SeatGpu};

/// One rank's CPUs, `None` where it stays unbound or untouched, and why.
pub(super) struct Place {
    pub(super) cpus: Option<CpuSet>,
    pub(super) reason: Reason,
}

/// The CPUs of every rank, in rank order.
pub(super) fn places(
    ground: &Ground<'_>,
    seats: &[Seat<'_>],
    request: &Request,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<Place>, Refusal> {
    let text = || request.cpu_map.to_string();
    match &request.cpu_map {
        CpuMap::None => Ok(seats.iter().map(|_| Place { cpus: None, reason: Reason::Untouched }).collect()),
        CpuMap::Nodes(lists) => {
            check_length("cpu-map", text, lists.len(), seats)?;
            lists.iter().enumerate().map(|(rank, nodes)| from_nodes(ground, rank, nodes, &text, warnings)).collect()
        }
        CpuMap::Cpus(lists) => {
            check_length("cpu-map", text, lists.len(), seats)?;
            lists.iter().enumerate().map(|(rank, cpus)| from_cpus(ground, rank, cpus, &text, warnings)).collect()
        }
        CpuMap::Numa => Ok(seats
            .iter()
            .map(|seat| {
                let home = in_block_order(ground, seat.rank, seats.len());
                Place { cpus: Some(whole_nodes(ground, &home)), reason: Reason::Home(home) }
            })
            .collect()),
        CpuMap::Auto | CpuMap::Node => shared(ground, seats, warnings, |home| Ok(whole_nodes(ground, home))),
        CpuMap::Socket => {
            let sockets = Sockets::new(ground, &text())?;
            shared(ground, seats, warnings, |home| Ok(sockets.around(ground, home)))
        }
        CpuMap::Exclusive => {
            let cores = ground.machine.cores.as_ref().ok_or_else(|| ground.missing("cpu-map", "exclusive", "cores"))?;
            divided(ground, seats, warnings, cores, exclusive)
        }
        CpuMap::CoreComplex => {
            let l3 = ground.machine.l3.as_ref();
            let l3 = l3.ok_or_else(|| ground.missing("cpu-map", "core-complex", "last-level caches"))?;
            divided(ground, seats, warnings, l3, core_complex)
        }
    }
}

/// A list has one entry per rank.
pub(super) fn check_length(
    key: &str,
    text: impl Fn() -> String,
    entries: usize,
    seats: &[Seat<'_>],
) -> Result<(), Refusal> {
    if entries == seats.len() { Ok(()) } else { Err(Refusal::wrong_length(key, text(), entries, seats.len() as u32)) }
}

/// Rank r of n is on node number ⌊r·k/n⌋ of the k nodes with allowed CPUs.
pub(super) fn in_block_order(ground: &Ground<'_>, rank: u32, ranks: usize) -> Home {
    let number = rank as usize * ground.roomy.len() / ranks;
    Home {
        nodes: ground.roomy.iter().nth(number).into_iter().collect(),
        words: crate::explain::block_order(rank, ranks, &ground.roomy),
    }
}

/// Where a rank is at home: the CPU-bearing nodes of its GPUs, with allowed CPUs; in block order where the container has
/// no GPUs. `Err` holds why it stays unbound.
fn home(ground: &Ground<'_>, seat: &Seat<'_>, ranks: usize, warnings: &mut Vec<Warning>) -> Result<Home, Reason> {
    if seat.gpus.is_empty() {
        if !seat.container_has_gpus {
            return Ok(in_block_order(ground, seat.rank, ranks));
        }
        warnings.push(Warning::RankWithoutGpu { rank: seat.rank });
        return Err(Reason::NoGpu);
    }
    let mut nodes = NodeSet::new();
    let mut words = Vec::new();
    for gpu in &seat.gpus {
        match gpu_home(ground, gpu) {
            Ok((found, said, warning)) => {
                nodes.extend(&found);
                words.push(said);
                warnings.extend(warning.map(|text| Warning::NearestInstead { rank: seat.rank, text }));
            }
            Err(why) => {
                let text = format!("{}: {why}", gpu.name());
                warnings.push(Warning::LocalityUnknown { rank: seat.rank, text: text.clone() });
                return Err(Reason::LocalityUnknown(text));
            }
        }
    }
    words.dedup();
    Ok(Home { nodes, words: words.join("; ") })
}

/// One GPU's nodes, words for the reason, and a warning where they are not its own.
fn gpu_home(ground: &Ground<'_>, gpu: &SeatGpu<'_>) -> Result<(NodeSet, String, Option<String>), String> {
    let (own, evidence) = match gpu.locality {
        Locality::Node { node, from } => (*node, *from),
        Locality::Unknown { why } => return Err(why.clone()),
    };
    let said = format!("{} is on node {own}{}", gpu.name(), crate::explain::evidence(evidence));
    let (bearing, allowed) = (&ground.bearing, &ground.roomy);
    if allowed.contains(own) {
        return Ok((NodeSet::of(own), said, None));
    }
    if bearing.contains(own) {
        let nearest = ground.machine.nearest(own, allowed);
        let text = format!("{said}, where no cpu is allowed; node {nearest} is the nearest with allowed cpus");
        return Ok((nearest, text.clone(), Some(text)));
    }
    let nearest = ground.machine.cpu_nodes_near(own);
    if ground.machine.distances.is_none() && nearest.len() > 1 && nearest.intersects(allowed) {
        let nearest = nearest.intersection(allowed);
        let text =
            format!("{said}, which has no cpus, and no distances say which node is near: it gets node {nearest}");
        return Ok((nearest, text.clone(), Some(text)));
    }
    let said = format!("{said}, which has no cpus; node {nearest} is the nearest that has");
    if nearest.intersects(allowed) {
        return Ok((nearest.intersection(allowed), said, None));
    }
    let next = ground.machine.nearest(own, allowed);
    let text = format!("{said}, where no cpu is allowed; node {next} is the nearest with allowed cpus");
    Ok((next, text.clone(), Some(text)))
}

fn whole_nodes(ground: &Ground<'_>, home: &Home) -> CpuSet {
    let mut cpus = CpuSet::new();
    for node in home.nodes.iter() {
        if let Some(allowed) = ground.allowed_on(node) {
            cpus.extend(allowed);
        }
    }
    cpus
}

/// The maps in which ranks of one node share its CPUs.
fn shared(
    ground: &Ground<'_>,
    seats: &[Seat<'_>],
    warnings: &mut Vec<Warning>,
    cpus: impl Fn(&Home) -> Result<CpuSet, Refusal>,
) -> Result<Vec<Place>, Refusal> {
    seats
        .iter()
        .map(|seat| match home(ground, seat, seats.len(), warnings) {
            Ok(home) => Ok(Place { cpus: Some(cpus(&home)?), reason: Reason::Home(home) }),
            Err(reason) => Ok(Place { cpus: None, reason }),
        })
        .collect()
}

/// The maps in which a node's groups of CPUs (cores, caches) are dealt out among the ranks on it, in the order of their
/// GPUs' indices.
fn divided(
    ground: &Ground<'_>,
    seats: &[Seat<'_>],
    warnings: &mut Vec<Warning>,
    groups: &[CpuSet],
    deal: impl Fn(&Ground<'_>, &Pool, usize) -> Result<Vec<(CpuSet, String)>, Refusal>,
) -> Result<Vec<Place>, Refusal> {
    let homes: Vec<Result<Home, Reason>> = seats.iter().map(|seat| home(ground, seat, seats.len(), warnings)).collect();
    let mut places: Vec<Place> = homes
        .iter()
        .map(|home| match home {
            Ok(home) => Place { cpus: Some(CpuSet::new()), reason: Reason::Home(home.clone()) },
            Err(reason) => Place { cpus: None, reason: reason.clone() },
        })
        .collect();

    for pool in pools(ground, groups) {
        let mut here: Vec<usize> = (0..seats.len())
            .filter(|&rank| homes[rank].as_ref().is_ok_and(|home| home.nodes.intersects(&pool.nodes)))
            .collect();
        if here.is_empty() {
            continue;
        }
        here.sort_by_key(|&rank| (seats[rank].gpus.iter().map(|gpu| gpu.index).min(), rank));
        for (&rank, (share, words)) in here.iter().zip(deal(ground, &pool, here.len())?) {
            let place = &mut places[rank];
            if let Some(cpus) = &mut place.cpus {
                cpus.extend(&share);
            }
            if let Reason::Home(home) = &mut place.reason {
                home.words = format!("{}, {words}", home.words);
            }
        }
    }
    Ok(places)
}

/// A node with the allowed part of its groups. Nodes that share CPUs (firmware does that) are one pool: what is dealt out
/// twice is not exclusive.
struct Pool {
    nodes: NodeSet,
    groups: Vec<CpuSet>,
    /// All CPUs of the groups here, whether allowed or not.
    all: CpuSet,
}

fn pools(ground: &Ground<'_>, groups: &[CpuSet]) -> Vec<Pool> {
    let mut pools: Vec<(NodeSet, CpuSet)> = Vec::new();
    for node in ground.machine.nodes.iter().filter(|node| !node.cpus.is_empty()) {
        let mut merged = (NodeSet::of(node.id), node.cpus.clone());
        pools.retain(|(nodes, cpus)| {
            let apart = !cpus.intersects(&merged.1);
            if !apart {
                merged.0.extend(nodes);
                merged.1.extend(cpus);
            }
            apart
        });
        pools.push(merged);
    }
    let mut pools: Vec<Pool> = pools.into_iter().map(|(nodes, all)| Pool { nodes, groups: Vec::new(), all }).collect();
    // A cache can span nodes (sub-NUMA clusters share one): each node has its part.
    for group in groups {
        let allowed = group.intersection(&ground.cpus);
        let Some(first) = allowed.first() else { continue };
        if let Some(pool) = pools.iter_mut().find(|pool| pool.all.contains(first))
            && allowed.is_subset(&pool.all)
        {
            pool.groups.push(allowed);
            continue;
        }
        for pool in pools.iter_mut().filter(|pool| pool.all.intersects(&allowed)) {
            pool.groups.push(allowed.intersection(&pool.all));
        }
    }
    pools
}

/// torchrun's `exclusive`: with C cores and n ranks, q = C div n and r = C mod n, the rank at position k takes the cores
/// from k·q + min(k, r), q of them, and one more while k < r. A core goes with all its allowed threads.
///
/// The cores are in the order of their lowest thread, allowed or not (torchrun's key).
fn exclusive(ground: &Ground<'_>, pool: &Pool, ranks: usize) -> Result<Vec<(CpuSet, String)>, Refusal> {
    let cores = &pool.groups;
    if cores.len() < ranks {
        return Err(Refusal::new(
            "cpu-map",
            "exclusive",
            "exclusive gives each rank of a node at least one physical core",
            format!(
                "node {} has {} free core{} for {ranks} ranks; {}",
                pool.nodes,
                cores.len(),
                if cores.len() == 1 { "" } else { "s" },
                ground.holders(&pool.all)
            ),
        ));
    }
    let (quotient, rest) = (cores.len() / ranks, cores.len() % ranks);
    Ok((0..ranks)
        .map(|k| {
            let first = k * quotient + k.min(rest);
            let count = quotient + usize::from(k < rest);
            let mut share = CpuSet::new();
            for core in &cores[first..first + count] {
                share.extend(core);
            }
            (share, format!("{count} of its {} cores", cores.len()))
        })
        .collect())
}

/// torchrun's `core-complex`: the groups by number of allowed CPUs descending, then lowest CPU; the rank at position k
/// takes group k mod the number of groups.
fn core_complex(ground: &Ground<'_>, pool: &Pool, ranks: usize) -> Result<Vec<(CpuSet, String)>, Refusal> {
    if pool.groups.is_empty() {
        return Err(ground.missing("cpu-map", "core-complex", &format!("last-level caches on node {}", pool.nodes)));
    }
    let mut groups: Vec<&CpuSet> = pool.groups.iter().collect();
    groups.sort_by_key(|group| (std::cmp::Reverse(group.len()), group.first()));
    Ok((0..ranks)
        .map(|k| {
            let number = k % groups.len();
            (groups[number].clone(), format!("cache {} of {}", number + 1, groups.len()))
        })
        .collect())
}

/// torchrun's `socket`: the package of a node's lowest allowed CPU, and every node whose lowest allowed CPU is in it.
struct Sockets {
    /// The package of each node with allowed CPUs.
    package_of: BTreeMap<u32, u32>,
}

impl Sockets {
    fn new(ground: &Ground<'_>, value: &str) -> Result<Self, Refusal> {
        let packages = ground.machine.packages.as_deref();
        let mut package_of = BTreeMap::new();
        for (node, allowed) in ground.nodes_with_cpus() {
            let package = match packages {
                Some(packages) => packages
                    .iter()
                    .find(|package| allowed.first().is_some_and(|cpu| package.cpus.contains(cpu)))
                    .map(|package| package.id),
                // One node is one socket at most.
                None if ground.bearing.len() == 1 => Some(0),
                None => None,
            };
            let package = package.ok_or_else(|| ground.missing("cpu-map", value, "packages"))?;
            package_of.insert(node.id, package);
        }
        Ok(Self { package_of })
    }

    fn around(&self, ground: &Ground<'_>, home: &Home) -> CpuSet {
        let packages: Vec<u32> = home.nodes.iter().filter_map(|node| self.package_of.get(&node).copied()).collect();
        let nodes: NodeSet =
            self.package_of.iter().filter(|(_, package)| packages.contains(package)).map(|(node, _)| *node).collect();
        whole_nodes(ground, &Home { nodes, words: String::new() })
    }
}

fn from_nodes(
    ground: &Ground<'_>,
    rank: usize,
    nodes: &NodeSet,
    text: &impl Fn() -> String,
    warnings: &mut Vec<Warning>,
) -> Result<Place, Refusal> {
    const RULE: &str = "an entry names nodes of this machine that have allowed cpus";
    let refuse = |what: String| Refusal::of_entry("cpu-map", text(), RULE, rank, &what);
    let mut cpus = CpuSet::new();
    let mut without = NodeSet::new();
    for id in nodes.iter() {
        let node = ground.machine.node(id).ok_or_else(|| refuse(format!("there is no node {id}")))?;
        if node.cpus.is_empty() {
            return Err(refuse(format!("node {id} has no cpus")));
        }
        match ground.allowed_on(id) {
            Some(allowed) if !allowed.is_empty() => cpus.extend(allowed),
            _ => {
                without.insert(id);
            }
        }
    }
    if cpus.is_empty() {
        return Err(refuse(format!("no cpu of node {nodes} is allowed; allowed are {}", ground.cpus)));
    }
    if !without.is_empty() {
        warnings.push(Warning::NodesCut { rank: rank as u32, nodes: without });
    }
    Ok(Place { cpus: Some(cpus), reason: Reason::Listed("cpu-map") })
}

fn from_cpus(
    ground: &Ground<'_>,
    rank: usize,
    cpus: &CpuSet,
    text: &impl Fn() -> String,
    warnings: &mut Vec<Warning>,
) -> Result<Place, Refusal> {
    const RULE: &str = "an entry names cpus that are online, at least one of them allowed";
    let refuse = |what: String| Refusal::of_entry("cpu-map", text(), RULE, rank, &what);
    let offline = cpus.difference(&ground.machine.cpus());
    if !offline.is_empty() {
        return Err(refuse(format!("cpus {offline} are not online on this machine")));
    }
    let kept = cpus.intersection(&ground.cpus);
    if kept.is_empty() {
        return Err(refuse(format!("none of cpus {cpus} is allowed; allowed are {}", ground.cpus)));
    }
    if kept != *cpus {
        warnings.push(Warning::CpusCut { rank: rank as u32, cpus: cpus.difference(&kept) });
    }
    Ok(Place { cpus: Some(kept), reason: Reason::Listed("cpu-map") })
}

/// The core of each CPU, by number.
pub(super) struct CoreTable {
    core_of: Vec<Option<u32>>,
}

impl CoreTable {
    pub(super) fn new(machine: &Machine) -> Option<Self> {
        let mut core_of = Vec::new();
        for (number, core) in machine.cores.as_ref()?.iter().enumerate() {
            for cpu in core.iter() {
                if core_of.len() <= cpu as usize {
                    core_of.resize(cpu as usize + 1, None);
                }
                core_of[cpu as usize] = Some(number as u32);
            }
        }
        Some(Self { core_of })
    }

    /// The lowest thread of each core in `cpus`. A CPU of no known core counts as one of its own.
    pub(super) fn one_thread_each(&self, cpus: &CpuSet) -> CpuSet {
        let mut seen = std::collections::HashSet::new();
        cpus.iter()
            .filter(|&cpu| match self.core_of.get(cpu as usize).copied().flatten() {
                Some(core) => seen.insert(core),
                None => true,
            })
            .collect()
    }

    /// How many cores `cpus` touch.
    pub(super) fn count(&self, cpus: &CpuSet) -> u32 {
        self.one_thread_each(cpus).len() as u32
    }
}
