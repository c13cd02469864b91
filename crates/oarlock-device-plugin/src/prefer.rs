//! Which devices to prefer: the answer to `GetPreferredAllocation`.
//!
//! A set of devices is as good as its pairs. The score of a pair is
//!
//! | the two devices | score |
//! |---|---|
//! | are joined by n NVLinks | 100 n |
//! | are slices of one GPU | 60 |
//! | share a PCIe switch; several switches; a host bridge; a node's bridges; the interconnect | 50; 40; 30; 20; 10 |
//! | are on one NUMA node | 25 more |
//!
//! Among the sets of the highest score the one is taken that leaves most for the next job: the most devices together on a
//! node, then the highest score of what is left, then the lowest positions. So the answer never depends on the order in
//! which kubelet lists devices, and a machine whose GPUs are all joined alike gives out whole nodes one after the other.
//!
//! Up to [`EXACT`] available devices the best set is found by comparing all of them (in two halves, whose scores are
//! prepared once); above that by growing a set from each device and exchanging members while that helps.

use std::cmp::Reverse;

use oarlock_core::Machine;
use oarlock_core::link::Link;

/// Up to this many available devices the search is exhaustive.
pub const EXACT: usize = 20;

const NVLINK: u32 = 100;
const SAME_GPU: u32 = 60;
const SAME_NODE: u32 = 25;
/// No pair of devices has more NVLinks between them; what a source says beyond that is a slip.
const MOST_NVLINKS: u32 = 64;

/// How close the devices of one resource are to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closeness {
    /// The score of each pair, by position; 0 on the diagonal.
    pairs: Vec<Vec<u32>>,
    /// The NUMA node of each device; devices without one are on none together.
    nodes: Vec<Option<u32>>,
}

impl Closeness {
    /// Devices that are GPUs, or slices of them: `gpus[i]` is the position among the machine's GPUs of device i.
    pub fn of_gpus(machine: &Machine, gpus: &[usize]) -> Self {
        let node = |gpu: usize| machine.gpus.get(gpu).and_then(|gpu| gpu.locality.node());
        let link = |one: usize, other: usize| {
            let row = machine.links.as_ref().and_then(|links| links.get(one));
            row.and_then(|row| row.get(other)).copied().unwrap_or(Link::Unknown)
        };
        let score = |one: usize, other: usize| {
            let near = if node(one).is_some() && node(one) == node(other) { SAME_NODE } else { 0 };
            near + if one == other { SAME_GPU } else { of_link(link(one, other)) }
        };
        let count = gpus.len();
        let pair = |i: usize, j: usize| if i == j { 0 } else { score(gpus[i], gpus[j]).max(score(gpus[j], gpus[i])) };
        Self {
            pairs: (0..count).map(|i| (0..count).map(|j| pair(i, j)).collect()).collect(),
            nodes: gpus.iter().map(|&gpu| node(gpu)).collect(),
        }
    }

    /// Devices that are NUMA nodes, or slots of them: `nodes[i]` is the node of device i. Near nodes score what their
    /// distance is short of the largest that ACPI knows.
    pub fn of_nodes(machine: &Machine, nodes: &[u32]) -> Self {
        let near = |from, to| machine.distance(from, to).map_or(0, |distance| 255_u32.saturating_sub(distance));
        let score = |one: u32, other: u32| if one == other { 255 + SAME_NODE } else { near(one, other) };
        let count = nodes.len();
        let pair =
            |i: usize, j: usize| if i == j { 0 } else { score(nodes[i], nodes[j]).max(score(nodes[j], nodes[i])) };
        Self {
            pairs: (0..count).map(|i| (0..count).map(|j| pair(i, j)).collect()).collect(),
            nodes: nodes.iter().copied().map(Some).collect(),
        }
    }

    /// The score of a set of devices: the sum over its pairs.
    pub fn score(&self, set: &[usize]) -> u32 {
        let pairs = set.iter().enumerate().flat_map(|(at, &i)| set[at + 1..].iter().map(move |&j| (i, j)));
        pairs.map(|(i, j)| self.pairs[i][j]).sum()
    }

    /// `size` of the `available` devices, `must_include` among them, as positions in ascending order. Positions that are
    /// not of this resource are dropped; where too few are left, all of them are the answer.
    pub fn choose(&self, available: &[usize], must_include: &[usize], size: usize) -> Vec<usize> {
        let known = |list: &[usize]| {
            let mut list: Vec<usize> = list.iter().copied().filter(|&at| at < self.nodes.len()).collect();
            list.sort_unstable();
            list.dedup();
            list
        };
        let must = known(must_include);
        let mut field = known(&[available, &must].concat());
        if must.len() >= size {
            return must.into_iter().take(size).collect();
        }
        if field.len() > size {
            field = if field.len() <= EXACT {
                exact(&Field::new(self, &field, &must), size)
            } else {
                grown(self, &field, &must, size)
            };
        }
        field
    }
}

fn of_link(link: Link) -> u32 {
    match link {
        Link::NvLink(count) => NVLINK * count.min(MOST_NVLINKS),
        Link::Switch => 50,
        Link::Switches => 40,
        Link::HostBridge => 30,
        Link::Node => 20,
        Link::System => 10,
        Link::Unknown => 0,
    }
}

/// The available devices, renumbered from 0, with sets of them as bits.
struct Field<'a> {
    closeness: &'a Closeness,
    /// The position of each in the resource.
    positions: &'a [usize],
    must: u32,
    /// What each scores together with all others here.
    sums: Vec<u32>,
    /// The devices of each node.
    nodes: Vec<u32>,
}

impl<'a> Field<'a> {
    fn new(closeness: &'a Closeness, positions: &'a [usize], must: &[usize]) -> Self {
        let bits = |list: &mut dyn Iterator<Item = usize>| list.fold(0, |bits, at| bits | 1 << at);
        let mut ids: Vec<u32> = positions.iter().filter_map(|&at| closeness.nodes[at]).collect();
        ids.sort_unstable();
        ids.dedup();
        let on = |id: u32| bits(&mut (0..positions.len()).filter(|&i| closeness.nodes[positions[i]] == Some(id)));
        Self {
            nodes: ids.into_iter().map(on).collect(),
            must: bits(&mut (0..positions.len()).filter(|&i| must.contains(&positions[i]))),
            sums: positions.iter().map(|&i| positions.iter().map(|&j| closeness.pairs[i][j]).sum()).collect(),
            closeness,
            positions,
        }
    }

    fn pair(&self, i: usize, j: usize) -> u32 {
        self.closeness.pairs[self.positions[i]][self.positions[j]]
    }

    /// What decides among sets of one score, the greater the better: the devices left together on nodes, then the score
    /// of what is left (which falls as the chosen ones' sums rise), then the lower positions.
    fn rank(&self, set: u32) -> (u32, Reverse<u32>, u32) {
        let together = self.nodes.iter().map(|node| (node & !set).count_ones().pow(2)).sum();
        let sums = bits(set).map(|i| self.sums[i]).sum();
        // Of two sets, the one with the lowest position that the other lacks reads higher from the far end.
        (together, Reverse(sums), set.reverse_bits())
    }
}

/// Half of the field: for each subset its score, and its devices' scores with each device of the other half summed up.
fn exact(field: &Field<'_>, size: usize) -> Vec<usize> {
    let count = field.positions.len();
    let low_count = count / 2;
    let high_count = count - low_count;
    let inner = |first: usize, width: usize| -> Vec<u32> {
        let mut scores = vec![0; 1 << width];
        for set in 1..scores.len() {
            let last = set.ilog2() as usize;
            let rest = set & !(1 << last);
            scores[set] = scores[rest] + bits(rest as u32).map(|i| field.pair(first + i, first + last)).sum::<u32>();
        }
        scores
    };
    let (low, high) = (inner(0, low_count), inner(low_count, high_count));
    // across[i][set]: device i of the low half with the set of the high half.
    let across: Vec<Vec<u32>> = (0..low_count)
        .map(|i| {
            let mut scores = vec![0; 1 << high_count];
            for set in 1..scores.len() {
                let last = set.ilog2() as usize;
                scores[set] = scores[set & !(1 << last)] + field.pair(i, low_count + last);
            }
            scores
        })
        .collect();
    // The high halves of each size that hold what must be in.
    let must_high = field.must >> low_count;
    let mut by_size = vec![Vec::new(); high_count + 1];
    for set in (0..1_u32 << high_count).filter(|set| set & must_high == must_high) {
        by_size[set.count_ones() as usize].push(set);
    }

    let must_low = field.must & ((1 << low_count) - 1);
    let mut best: Option<(u32, u32)> = None;
    let mut totals = vec![0; 1 << high_count];
    for (set, inside) in (0_u32..).zip(&low).filter(|(set, _)| set & must_low == must_low) {
        let Some(others) = size.checked_sub(set.count_ones() as usize).and_then(|rest| by_size.get(rest)) else {
            continue;
        };
        totals.copy_from_slice(&high);
        for i in bits(set) {
            for (total, more) in totals.iter_mut().zip(&across[i]) {
                *total += more;
            }
        }
        for &other in others {
            let score = inside + totals[other as usize];
            let whole = set | other << low_count;
            let better = best
                .is_none_or(|(top, chosen)| score > top || (score == top && field.rank(whole) > field.rank(chosen)));
            if better {
                best = Some((score, whole));
            }
        }
    }
    best.map(|(_, set)| bits(set).map(|i| field.positions[i]).collect()).unwrap_or_default()
}

/// Grows a set from each available device, always by the closest next one, then exchanges members while that helps; the
/// best of these sets.
fn grown(closeness: &Closeness, available: &[usize], must: &[usize], size: usize) -> Vec<usize> {
    let gain =
        |set: &[usize], device: usize| -> u32 { set.iter().map(|&member| closeness.pairs[device][member]).sum() };
    let mut best: Option<(u32, Vec<usize>)> = None;
    for &seed in available {
        let mut set = must.to_vec();
        if !set.contains(&seed) {
            set.push(seed);
        }
        while set.len() < size {
            let next = available.iter().copied().filter(|device| !set.contains(device));
            let Some(next) = next.max_by_key(|&device| (gain(&set, device), Reverse(device))) else { break };
            set.push(next);
        }
        exchange(available, must.len(), &mut set, gain);
        set.sort_unstable();
        let score = closeness.score(&set);
        if best.as_ref().is_none_or(|(top, chosen)| (score, Reverse(&set)) > (*top, Reverse(chosen))) {
            best = Some((score, set));
        }
    }
    best.map(|(_, set)| set).unwrap_or_default()
}

/// Replaces members after the first `fixed` by outsiders while that raises the score, a bounded number of times.
fn exchange(available: &[usize], fixed: usize, set: &mut [usize], gain: impl Fn(&[usize], usize) -> u32) {
    for _ in 0..set.len() {
        let mut changed = false;
        for at in fixed..set.len() {
            let without: Vec<usize> = set.iter().copied().filter(|&member| member != set[at]).collect();
            let outside = available.iter().copied().filter(|device| !set.contains(device));
            let Some(other) = outside.max_by_key(|&device| (gain(&without, device), Reverse(device))) else {
                return;
            };
            if gain(&without, other) > gain(&without, set[at]) {
                set[at] = other;
                changed = true;
            }
        }
        if !changed {
            return;
        }
    }
}

/// The positions of the set bits, ascending.
fn bits(set: u32) -> impl Iterator<Item = usize> {
    let mut rest = set;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let bit = rest.trailing_zeros();
        rest &= rest - 1;
        Some(bit as usize)
    })
}

#[cfg(test)]
mod tests;
