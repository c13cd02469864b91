//! Where the memory of managed containers is.

use std::collections::BTreeMap;

use oarlock_core::NodeSet;
use oarlock_core::rankenv::RankEnv;

use super::{Desk, Stage};
use crate::metrics::ContainerLabels;

/// The memory of a container, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) container: ContainerLabels,
    /// On the nodes of its ranks.
    pub(crate) planned: u64,
    /// On all others.
    pub(crate) elsewhere: u64,
}

impl Desk {
    /// The memory of each container that was planned any. It reads a file for each, after the lock is let go.
    pub(crate) fn memory(&self) -> Vec<Memory> {
        let state = self.state();
        let running = state.containers.values().filter(|known| known.stage == Stage::Running && !known.unpinned);
        let planned: Vec<(ContainerLabels, String, NodeSet)> = running
            .filter_map(|known| {
                let nodes = nodes(&known.placement.as_ref()?.ranks)?;
                let pod = &state.pods.get(&known.sandbox)?.pod;
                let labels = ContainerLabels {
                    namespace: pod.namespace.clone(),
                    pod: pod.name.clone(),
                    container: known.name.clone(),
                };
                Some((labels, known.cgroup.clone()?, nodes))
            })
            .collect();
        drop(state);
        let memory = |(container, cgroup, nodes): (ContainerLabels, String, NodeSet)| {
            let (planned, elsewhere) = split(&self.cgroups.memory(&cgroup)?, &nodes);
            Some(Memory { container, planned, elsewhere })
        };
        planned.into_iter().filter_map(memory).collect()
    }
}

/// The memory nodes of all ranks, and of their GPUs; `None` where one rank's memory may be anywhere.
fn nodes(ranks: &RankEnv) -> Option<NodeSet> {
    let mut nodes = NodeSet::new();
    for rank in &ranks.ranks {
        nodes = nodes.union(rank.mems.as_ref()?).union(&rank.gpu_mems);
    }
    (!nodes.is_empty()).then_some(nodes)
}

/// Bytes on these nodes, and on others.
fn split(by_node: &BTreeMap<u32, u64>, nodes: &NodeSet) -> (u64, u64) {
    by_node.iter().fold((0, 0), |(planned, elsewhere), (&node, &bytes)| {
        if nodes.contains(node) {
            (planned.saturating_add(bytes), elsewhere)
        } else {
            (planned, elsewhere.saturating_add(bytes))
        }
    })
}

#[cfg(test)]
mod tests {
    use oarlock_core::rankenv::RankEntry;

    use super::*;

    #[test]
    fn memory_is_where_it_was_planned_or_elsewhere() {
        let rank = |mems: &str, gpu_mems: &str| RankEntry {
            mems: mems.parse().ok(),
            gpu_mems: gpu_mems.parse().unwrap_or_default(),
            ..RankEntry::default()
        };
        let mut ranks = RankEnv { ranks: vec![rank("1", "8"), rank("3", "")], ..RankEnv::default() };
        let by_node = BTreeMap::from([(0, 1), (1, 20), (2, 300), (3, 4000), (8, 50_000)]);
        assert_eq!(split(&by_node, &nodes(&ranks).unwrap()), (54_020, 301));
        // A rank without a place for its memory may use any.
        ranks.ranks.push(RankEntry::default());
        assert_eq!(nodes(&ranks), None);
        assert_eq!(nodes(&RankEnv::default()), None);
    }
}
