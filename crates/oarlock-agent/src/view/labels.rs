//! What this host's Node object is labelled with: how many NUMA nodes it has, and how its GPUs lie on them.

use std::collections::BTreeMap;

use oarlock_core::Machine;

/// How many of its NUMA nodes have CPUs.
const NUMA_NODES: &str = "oarlock.dev/numa-nodes";
/// How many GPUs it has.
const GPUS: &str = "oarlock.dev/gpus";
/// How many of them are next to each of these nodes, in the order of the nodes' ids: `4-4`.
const GPUS_PER_NUMA_NODE: &str = "oarlock.dev/gpus-per-numa-node";
/// All of them.
const KEYS: [&str; 3] = [NUMA_NODES, GPUS, GPUS_PER_NUMA_NODE];
/// The value of a label has no more characters, which are letters, digits and `-_.`.
const MOST_VALUE: usize = 63;

/// Labels by their keys.
pub(super) type Labels = BTreeMap<&'static str, String>;

/// The labels of the host that is this machine. One that cannot be told is left out.
pub(super) fn labels(machine: &Machine) -> Labels {
    let mut labels =
        Labels::from([(NUMA_NODES, machine.cpu_nodes().len().to_string()), (GPUS, machine.gpus.len().to_string())]);
    labels.extend(gpus_per_node(machine).map(|value| (GPUS_PER_NUMA_NODE, value)));
    labels
}

/// A GPU of which no one node is known makes any count wrong.
fn gpus_per_node(machine: &Machine) -> Option<String> {
    let mut counts: BTreeMap<u32, usize> = machine.cpu_nodes().iter().map(|node| (node, 0)).collect();
    for gpu in &machine.gpus {
        let near = machine.cpu_nodes_near(gpu.locality.node()?);
        if near.len() != 1 {
            return None;
        }
        *counts.get_mut(&near.first()?)? += 1;
    }
    let counts: Vec<String> = counts.values().map(ToString::to_string).collect();
    let value = counts.join("-");
    (!machine.gpus.is_empty() && value.len() <= MOST_VALUE).then_some(value)
}

/// Whether a Node with labels has these, and none of the others that are ours.
pub(super) fn are_there(labels: &Labels, seen: &BTreeMap<String, String>) -> bool {
    KEYS.iter().all(|key| labels.get(key) == seen.get(*key))
}

#[cfg(test)]
mod tests {
    use oarlock_core::locality::{Evidence, Locality};
    use oarlock_core::machine::{Gpu, Node};

    use super::*;

    /// Node 2 has memory alone, and is nearer to node 4 than to node 0.
    fn machine(gpus: &[Option<u32>]) -> Machine {
        let node = |id, cpus: &str| Node { id, cpus: cpus.parse().unwrap(), memory_mb: Some(1024), gpu_memory: false };
        let gpu = |(index, node): (usize, &Option<u32>)| Gpu {
            index: index as u32,
            pci: None,
            uuid: None,
            model: None,
            locality: node.map_or(Locality::Unknown { why: "nobody says".to_owned() }, |node| Locality::Node {
                node,
                from: Evidence::NumaNode,
            }),
            local_cpus: None,
            memory_node: None,
        };
        Machine {
            nodes: vec![node(0, "0-1"), node(2, ""), node(4, "2-3")],
            distances: Some(vec![vec![10, 30, 20], vec![30, 10, 15], vec![20, 15, 10]]),
            gpus: gpus.iter().enumerate().map(gpu).collect(),
            ..Machine::default()
        }
    }

    fn of(gpus: &[Option<u32>]) -> Vec<(&'static str, String)> {
        labels(&machine(gpus)).into_iter().collect()
    }

    #[test]
    fn nodes_with_cpus_are_counted_and_the_gpus_next_to_each() {
        let expected = [(GPUS, "4"), (GPUS_PER_NUMA_NODE, "1-3"), (NUMA_NODES, "2")];
        let expected = expected.map(|(key, value)| (key, value.to_owned()));
        assert_eq!(of(&[Some(4), Some(4), Some(0), Some(2)]), expected, "a gpu on node 2 is next to node 4");
        assert_eq!(of(&[]), [(GPUS, "0".to_owned()), (NUMA_NODES, "2".to_owned())]);
    }

    #[test]
    fn what_is_not_known_of_one_gpu_or_is_longer_than_a_label_is_not_told() {
        assert_eq!(of(&[Some(4), None]), [(GPUS, "2".to_owned()), (NUMA_NODES, "2".to_owned())]);
        let mut tied = machine(&[Some(2)]);
        tied.distances = None;
        assert!(!labels(&tied).contains_key(GPUS_PER_NUMA_NODE), "both nodes are as near");
        let mut large = machine(&[Some(0)]);
        large.nodes = (0..33).map(|id| Node { id, ..large.nodes[0].clone() }).collect();
        assert!(!labels(&large).contains_key(GPUS_PER_NUMA_NODE));
        large.nodes.truncate(32);
        assert_eq!(labels(&large)[GPUS_PER_NUMA_NODE].len(), 63);
    }

    #[test]
    fn labels_of_others_make_no_difference_and_an_older_one_of_ours_does() {
        let wanted = labels(&machine(&[None]));
        let mut seen: BTreeMap<String, String> =
            wanted.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        assert!(are_there(&wanted, &seen));
        seen.insert("oarlock.dev/pool".to_owned(), "a".to_owned());
        assert!(are_there(&wanted, &seen));
        seen.insert(GPUS_PER_NUMA_NODE.to_owned(), "1-0".to_owned());
        assert!(!are_there(&wanted, &seen));
        seen.remove(GPUS_PER_NUMA_NODE);
        seen.insert(GPUS.to_owned(), "2".to_owned());
        assert!(!are_there(&wanted, &seen));
        assert!(!are_there(&wanted, &BTreeMap::new()));
    }
}
