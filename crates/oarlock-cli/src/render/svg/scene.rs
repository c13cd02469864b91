//! What is to be drawn, in the terms of the picture: who has which CPU, which cores a node has, how fine to draw them.

use oarlock_core::idset::CpuSet;
use oarlock_core::machine::{Gpu, Machine, Node};
use oarlock_core::plan::Plan;

/// More cores than this are drawn as bars.
const MOST_TILES: usize = 1200;

/// A machine, with a plan or without.
pub(super) struct Scene<'a> {
    pub(super) machine: &'a Machine,
    pub(super) plan: Option<&'a Plan>,
    /// By CPU id: the positions in the plan of the ranks that have it.
    holders: Vec<Vec<usize>>,
    pub(super) detail: Detail,
    /// The size of the largest node's memory, MiB: the full length of a bar.
    pub(super) largest_memory: u64,
}

/// How fine cores are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// Each core a tile.
    Tiles,
    /// Neighbouring cores of the same ranks as one piece of a bar.
    Bars,
}

/// Cores that share a last-level cache; one group of all where the source does not tell.
pub(super) struct Group {
    /// The cores, each as its threads; where cores are not known, each CPU is taken for one.
    pub(super) cores: Vec<CpuSet>,
}

impl<'a> Scene<'a> {
    pub(super) fn new(machine: &'a Machine, plan: Option<&'a Plan>) -> Self {
        let mut holders: Vec<Vec<usize>> = Vec::new();
        for (position, rank) in plan.iter().flat_map(|plan| plan.ranks.iter().enumerate()) {
            for cpu in rank.cpus.iter().flat_map(CpuSet::iter) {
                let cpu = cpu as usize;
                if holders.len() <= cpu {
                    holders.resize_with(cpu + 1, Vec::new);
                }
                holders[cpu].push(position);
            }
        }
        let cores = machine.cores.as_ref().map_or_else(|| machine.cpus().len(), Vec::len);
        let detail = if cores > MOST_TILES { Detail::Bars } else { Detail::Tiles };
        let largest_memory = machine.nodes.iter().filter_map(|node| node.memory_mb).max().unwrap_or(0);
        Self { machine, plan, holders, detail, largest_memory }
    }

    /// The ranks that have this CPU, as positions in the plan.
    pub(super) fn holders(&self, cpu: u32) -> &[usize] {
        self.holders.get(cpu as usize).map_or(&[], Vec::as_slice)
    }

    /// Whether some CPU has a number of ranks that `sharing` asks about.
    pub(super) fn any_shared(&self, sharing: impl Fn(usize) -> bool) -> bool {
        self.holders.iter().any(|ranks| sharing(ranks.len()))
    }

    /// The ranks that have any of these CPUs, ascending.
    pub(super) fn holders_of(&self, cpus: &CpuSet) -> Vec<usize> {
        let mut ranks: Vec<usize> = cpus.iter().flat_map(|cpu| self.holders(cpu).iter().copied()).collect();
        ranks.sort_unstable();
        ranks.dedup();
        ranks
    }

    /// The ranks that get memory from this node, as positions in the plan.
    pub(super) fn memory_holders(&self, node: u32) -> Vec<usize> {
        let Some(plan) = self.plan else { return Vec::new() };
        plan.ranks
            .iter()
            .enumerate()
            .filter(|(_, rank)| {
                rank.gpu_mems.contains(node) || rank.mems.as_ref().is_some_and(|mems| mems.contains(node))
            })
            .map(|(position, _)| position)
            .collect()
    }

    /// The ranks that drive this GPU, as positions in the plan.
    pub(super) fn drivers(&self, gpu: &Gpu) -> Vec<usize> {
        let Some(plan) = self.plan else { return Vec::new() };
        let drives = |(_, rank): &(usize, &oarlock_core::plan::RankPlan)| rank.gpus.contains(&gpu.index);
        plan.ranks.iter().enumerate().filter(drives).map(|(position, _)| position).collect()
    }

    /// The number that a person knows a rank by.
    pub(super) fn rank_number(&self, position: usize) -> u32 {
        self.plan.and_then(|plan| plan.ranks.get(position)).map_or(0, |rank| rank.rank)
    }

    /// The GPUs attached to a node.
    pub(super) fn gpus_on(&self, node: &Node) -> Vec<&'a Gpu> {
        self.machine.gpus.iter().filter(|gpu| gpu.locality.node() == Some(node.id)).collect()
    }

    /// The GPUs of which no node is known.
    pub(super) fn lost_gpus(&self) -> Vec<&'a Gpu> {
        self.machine.gpus.iter().filter(|gpu| gpu.locality.node().is_none()).collect()
    }

    /// A node's cores by their last-level cache.
    pub(super) fn groups(&self, node: &Node) -> Vec<Group> {
        let cores = parts(self.machine.cores.as_deref().unwrap_or(&[]), &node.cpus, |rest| {
            rest.iter().map(CpuSet::of).collect()
        });
        let caches = parts(self.machine.l3.as_deref().unwrap_or(&[]), &node.cpus, |rest| vec![rest.clone()]);
        let mut groups: Vec<Group> = Vec::new();
        for cache in caches {
            let inside = cores.iter().filter(|core| core.first().is_some_and(|first| cache.contains(first)));
            groups.push(Group { cores: inside.cloned().collect() });
        }
        groups.retain(|group| !group.cores.is_empty());
        groups
    }

    /// The positions of the packages that a node's CPUs are in.
    pub(super) fn packages_of(&self, node: &Node) -> Vec<usize> {
        let packages = self.machine.packages.as_deref().unwrap_or(&[]);
        let inside = packages.iter().enumerate().filter(|(_, package)| package.cpus.intersects(&node.cpus));
        inside.map(|(position, _)| position).collect()
    }
}

/// The parts of `whole` that lie in each of `sets`, and what of it lies in none, cut up by `rest`.
fn parts(sets: &[CpuSet], whole: &CpuSet, rest: impl FnOnce(&CpuSet) -> Vec<CpuSet>) -> Vec<CpuSet> {
    let mut parts: Vec<CpuSet> =
        sets.iter().map(|set| set.intersection(whole)).filter(|part| !part.is_empty()).collect();
    let taken = parts.iter().fold(CpuSet::new(), |taken, part| taken.union(part));
    let left = whole.difference(&taken);
    if !left.is_empty() {
        parts.extend(rest(&left));
    }
    parts.sort();
    parts
}
