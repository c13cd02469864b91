use oarlock_core::idset::CpuSet;
use oarlock_core::locality::{Evidence, Locality};
use oarlock_core::machine::{Gpu, Node};
use proptest::prelude::*;

use super::*;

/// A machine of GPUs on these nodes, joined as `link` says.
fn machine(nodes: &[Option<u32>], link: impl Fn(usize, usize) -> Link) -> Machine {
    let gpu = |(index, node): (usize, &Option<u32>)| Gpu {
        index: index as u32,
        pci: None,
        uuid: None,
        model: None,
        locality: match node {
            Some(node) => Locality::Node { node: *node, from: Evidence::NumaNode },
            None => Locality::Unknown { why: String::new() },
        },
        local_cpus: None,
        memory_node: None,
    };
    let count = nodes.len();
    Machine {
        nodes: (0..8).map(|id| Node { id, cpus: CpuSet::of(id), memory_mb: None, gpu_memory: false }).collect(),
        distances: Some((0..8_u32).map(|i| (0..8).map(|j| 10 + 10 * i.abs_diff(j)).collect()).collect()),
        gpus: nodes.iter().enumerate().map(gpu).collect(),
        links: Some((0..count).map(|i| (0..count).map(|j| link(i, j)).collect()).collect()),
        ..Machine::default()
    }
    .checked()
    .unwrap()
}

fn closeness(nodes: &[u32], link: impl Fn(usize, usize) -> Link) -> Closeness {
    let nodes: Vec<Option<u32>> = nodes.iter().copied().map(Some).collect();
    Closeness::of_gpus(&machine(&nodes, link), &(0..nodes.len()).collect::<Vec<_>>())
}

fn all(count: usize) -> Vec<usize> {
    (0..count).collect()
}

#[test]
fn where_all_are_joined_alike_a_job_stays_on_one_node_and_leaves_the_other_whole() {
    let dgx = closeness(&[0, 0, 0, 0, 1, 1, 1, 1], |_, _| Link::NvLink(12));
    assert_eq!(dgx.choose(&all(8), &[], 4), [0, 1, 2, 3]);
    assert_eq!(dgx.choose(&[0, 1, 4, 5, 6, 7], &[], 2), [0, 1], "node 1 stays whole for a job of four");
    assert_eq!(dgx.choose(&[2, 4, 5, 6, 7], &[], 1), [2]);
    assert_eq!(dgx.choose(&all(8), &[], 6), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn nvlink_counts_more_than_the_node() {
    // 0 and 2 are joined over the sockets, as in some four-GPU boards.
    let link = |i: usize, j: usize| if i.abs_diff(j) == 2 { Link::NvLink(2) } else { Link::System };
    assert_eq!(closeness(&[0, 0, 1, 1], link).choose(&all(4), &[], 2), [0, 2]);
}

#[test]
fn a_pcie_switch_is_kept_together_for_the_next_job() {
    let link = |i: usize, j: usize| if i / 2 == j / 2 { Link::Switch } else { Link::Node };
    let switches = closeness(&[0; 6], link);
    assert_eq!(switches.choose(&all(6), &[], 2), [0, 1]);
    assert_eq!(switches.choose(&[0, 2, 3, 4, 5], &[], 1), [0], "the one whose partner is gone");
    assert_eq!(switches.choose(&[1, 2, 3, 4, 5], &[], 3), [1, 2, 3]);
}

#[test]
fn links_beyond_twelve_still_count() {
    let link = |i: usize, j: usize| if i.max(j) == 3 && i.min(j) == 1 { Link::NvLink(18) } else { Link::NvLink(12) };
    assert_eq!(closeness(&[0; 4], link).choose(&all(4), &[], 2), [1, 3]);
}

#[test]
fn what_must_be_included_is() {
    let dgx = closeness(&[0, 0, 0, 0, 1, 1, 1, 1], |_, _| Link::NvLink(12));
    assert_eq!(dgx.choose(&all(8), &[5], 4), [4, 5, 6, 7]);
    assert_eq!(dgx.choose(&all(8), &[1, 6], 2), [1, 6]);
    assert_eq!(dgx.choose(&all(8), &[1, 6, 7], 2), [1, 6], "more than asked for: the first of them");
    assert_eq!(dgx.choose(&[0, 1], &[7], 2), [0, 7], "kubelet may hold it already");
}

#[test]
fn what_cannot_be_met_is_met_as_far_as_it_goes() {
    let pair = closeness(&[0, 1], |_, _| Link::Unknown);
    assert_eq!(pair.choose(&[0, 1, 9], &[], 3), [0, 1], "9 is no device");
    assert_eq!(pair.choose(&[], &[], 1), Vec::<usize>::new());
    assert_eq!(pair.choose(&[0, 1], &[], 0), Vec::<usize>::new());
    assert_eq!(pair.choose(&[1, 1, 0, 0], &[1, 1], 2), [0, 1], "each counts once");
}

#[test]
fn slices_of_one_gpu_go_together() {
    let machine = machine(&[Some(0), Some(0)], |_, _| Link::Switch);
    let slices = Closeness::of_gpus(&machine, &[0, 1, 0, 1]);
    assert_eq!(slices.choose(&all(4), &[], 2), [0, 2]);
}

#[test]
fn nodes_go_by_distance_and_slots_by_node() {
    let machine = machine(&[], |_, _| Link::Unknown);
    let slots = Closeness::of_nodes(&machine, &[0, 3, 4, 4]);
    assert_eq!(slots.choose(&all(4), &[], 2), [2, 3]);
    assert_eq!(slots.choose(&[0, 1, 2], &[], 2), [1, 2]);
}

#[test]
fn more_devices_than_can_be_compared_are_still_chosen_well() {
    let nodes: Vec<u32> = (0..48).map(|i| i / 8).collect();
    let link = |i: usize, j: usize| if i / 4 == j / 4 { Link::NvLink(4) } else { Link::System };
    let big = closeness(&nodes, link);
    assert_eq!(big.choose(&all(48), &[], 4), [0, 1, 2, 3]);
    assert_eq!(big.choose(&all(48), &[21], 4), [20, 21, 22, 23]);
    assert_eq!(big.choose(&all(48), &[], 40).len(), 40);
}

/// All sets of a size, one by one.
fn naive(closeness: &Closeness, available: &[usize], must: &[usize], size: usize) -> Vec<usize> {
    let mut best: Option<(_, Vec<usize>)> = None;
    for bits in 0_u32..1 << available.len() {
        let set: Vec<usize> = (0..available.len()).filter(|i| bits & (1 << i) != 0).map(|i| available[i]).collect();
        if set.len() != size || !must.iter().all(|device| set.contains(device)) {
            continue;
        }
        let left: Vec<usize> = available.iter().copied().filter(|device| !set.contains(device)).collect();
        let on = |node: u32| left.iter().filter(|&&device| closeness.nodes[device] == Some(node)).count();
        let together: usize = (0..8).map(|node| on(node).pow(2)).sum();
        let key = (closeness.score(&set), together, closeness.score(&left), std::cmp::Reverse(set.clone()));
        if best.as_ref().is_none_or(|(top, _)| key > *top) {
            best = Some((key, set));
        }
    }
    best.unwrap().1
}

fn links() -> impl Strategy<Value = Link> {
    prop::sample::select(vec![
        Link::NvLink(1),
        Link::NvLink(2),
        Link::NvLink(12),
        Link::Switch,
        Link::Switches,
        Link::HostBridge,
        Link::Node,
        Link::System,
        Link::Unknown,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_choice_is_that_of_comparing_all_sets(
        nodes in prop::collection::vec(prop::option::weighted(0.9, 0_u32..3), 1..10),
        matrix in prop::collection::vec(links(), 100),
        available in any::<u32>(),
        must in any::<u32>(),
        size in any::<prop::sample::Index>(),
    ) {
        let count = nodes.len();
        let machine = machine(&nodes, |i, j| matrix[i.min(j) * 10 + i.max(j)]);
        let closeness = Closeness::of_gpus(&machine, &all(count));
        let available: Vec<usize> = (0..count).filter(|i| available & (1 << i) != 0).collect();
        prop_assume!(!available.is_empty());
        let size = size.index(available.len()) + 1;
        let must = available.iter().copied().filter(|i| must & (3 << (2 * i)) == 3 << (2 * i));
        let must: Vec<usize> = must.take(size).collect();
        let chosen = closeness.choose(&available, &must, size);
        prop_assert_eq!(&chosen, &naive(&closeness, &available, &must, size));
        let mut shuffled = available.clone();
        shuffled.reverse();
        prop_assert_eq!(closeness.choose(&shuffled, &must, size), chosen);
    }

    #[test]
    fn growing_never_leaves_the_field_and_has_the_size_asked_for(
        nodes in prop::collection::vec(prop::option::of(0_u32..8), 21..64),
        seed in any::<usize>(),
        size in 1_usize..64,
    ) {
        let count = nodes.len();
        let machine = machine(&nodes, |i, j| [Link::Switch, Link::NvLink(2), Link::System][(i * j + seed % 7) % 3]);
        let closeness = Closeness::of_gpus(&machine, &all(count));
        let chosen = closeness.choose(&all(count), &[seed % count], size);
        prop_assert_eq!(chosen.len(), size.min(count));
        prop_assert!(chosen.is_sorted() && chosen.windows(2).all(|pair| pair[0] != pair[1]));
        prop_assert!(size == 0 || chosen.contains(&(seed % count)));
    }
}
