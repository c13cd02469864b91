//! Ranks that their environment does not name: function entry points set `LOCAL_RANK` after the exec, where `/proc` does not
//! show it. They are known by the GPU that they use, else by the order in which they were started. In doubt nobody is a rank.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_core::rankenv::RankEntry;

/// The last argument of the workers that Python's `multiprocessing` starts anew (`multiprocessing/spawn.py`). Those that it
/// forks look like their parent, as its helpers do, and so are not told apart.
const SPAWNED: &[u8] = b"--multiprocessing-fork";

/// A process that is no rank by its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unnamed {
    pub(super) pid: u32,
    pub(super) parent: u32,
    /// In clock ticks since the boot.
    pub(super) started: u64,
    pub(super) arguments: Vec<Vec<u8>>,
}

/// The rank and the process of each rank whose very GPUs one process uses, and no other process does. `using` is by process
/// id, GPUs by index.
pub(super) fn by_gpu(ranks: &[RankEntry], using: &BTreeMap<u32, BTreeSet<u32>>) -> Vec<(u32, u32)> {
    let mut processes: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (&pid, gpus) in using {
        let is_its =
            |entry: &RankEntry| !gpus.is_empty() && entry.gpus.iter().copied().collect::<BTreeSet<_>>() == *gpus;
        let mut its = (0..).zip(ranks).filter(|(_, entry)| is_its(entry)).map(|(rank, _)| rank);
        if let (Some(rank), None) = (its.next(), its.next()) {
            processes.entry(rank).or_default().push(pid);
        }
    }
    processes.into_iter().filter_map(|(rank, pids)| Some((rank, *pids.first().filter(|_| pids.len() == 1)?))).collect()
}

/// The processes of all ranks, in their order: where one process has started exactly as many workers as ranks were planned,
/// all of one program, and no other process has. Else none.
pub(super) fn by_order(unnamed: &[Unnamed], planned: usize) -> Vec<u32> {
    let mut workers: BTreeMap<u32, Vec<&Unnamed>> = BTreeMap::new();
    for process in unnamed.iter().filter(|process| process.arguments.last().is_some_and(|last| last == SPAWNED)) {
        workers.entry(process.parent).or_default().push(process);
    }
    let mut groups = workers.into_values().filter(|group| group.len() == planned);
    let (Some(mut group), None, 2..) = (groups.next(), groups.next(), planned) else { return Vec::new() };
    let program = |process: &Unnamed| process.arguments.first().cloned();
    let are_alike = group.iter().all(|process| program(process) == program(group[0]));
    // A worker that has started workers is a launcher itself.
    let is_parent = |pid: u32| {
        unnamed.iter().any(|other| other.parent == pid && other.arguments.last().is_some_and(|last| last == SPAWNED))
    };
    if !are_alike || group.iter().any(|process| is_parent(process.pid)) {
        return Vec::new();
    }
    group.sort_by_key(|process| (process.started, process.pid));
    group.into_iter().map(|process| process.pid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks(gpus: &[&[u32]]) -> Vec<RankEntry> {
        gpus.iter().map(|gpus| RankEntry { gpus: gpus.to_vec(), ..RankEntry::default() }).collect()
    }

    fn using(pairs: &[(u32, &[u32])]) -> BTreeMap<u32, BTreeSet<u32>> {
        pairs.iter().map(|(pid, gpus)| (*pid, gpus.iter().copied().collect())).collect()
    }

    #[test]
    fn a_process_is_the_rank_whose_gpus_it_alone_uses() {
        let four = ranks(&[&[7], &[5], &[4], &[6]]);
        assert_eq!(by_gpu(&four, &using(&[(20, &[5]), (21, &[7])])), [(0, 21), (1, 20)]);
        // A helper beside the rank, a process on two GPUs, one on a GPU that is no rank's, one on none.
        assert_eq!(by_gpu(&four, &using(&[(20, &[5]), (21, &[5]), (22, &[4, 6]), (23, &[0]), (24, &[])])), []);
        let two = ranks(&[&[3, 1], &[0, 2]]);
        assert_eq!(by_gpu(&two, &using(&[(20, &[0, 2]), (21, &[1])])), [(1, 20)]);
        assert_eq!(by_gpu(&ranks(&[&[1], &[1]]), &using(&[(20, &[1])])), [], "ranks that share a gpu");
        assert_eq!(by_gpu(&ranks(&[&[], &[]]), &using(&[(20, &[])])), []);
    }

    fn process(pid: u32, parent: u32, started: u64, arguments: &str) -> Unnamed {
        let arguments = arguments.split(' ').map(|argument| argument.as_bytes().to_vec()).collect();
        Unnamed { pid, parent, started, arguments }
    }

    const WORKER: &str = "python -c spawn_main() --multiprocessing-fork";

    #[test]
    fn workers_are_ranks_in_the_order_of_their_start_where_they_are_as_many() {
        let mut all = vec![
            process(10, 1, 5, "python train.py"),
            process(40, 10, 30, WORKER),
            process(12, 10, 31, WORKER),
            process(41, 10, 30, WORKER),
            process(42, 10, 6, "python -c resource_tracker"),
            process(43, 40, 50, "python -c dataloader"),
        ];
        assert_eq!(by_order(&all, 3), [40, 41, 12], "process ids wrap around");
        assert_eq!(by_order(&all, 2), [0; 0]);
        assert_eq!(by_order(&all[..2], 1), [0; 0], "of one rank there is no order");
        all.push(process(44, 10, 60, WORKER));
        assert_eq!(by_order(&all, 3), [0; 0], "one too many");
    }

    #[test]
    fn in_doubt_no_worker_is_a_rank() {
        let pair = |parent, first| [process(first, parent, 30, WORKER), process(first + 1, parent, 31, WORKER)];
        let two_groups = [pair(10, 20), pair(11, 30)].concat();
        assert_eq!(by_order(&two_groups, 2), [0; 0]);
        let nested = [&pair(10, 20)[..], &[process(40, 21, 50, WORKER)]].concat();
        assert_eq!(by_order(&nested, 2), [0; 0]);
        let mut unlike = pair(10, 20);
        unlike[1].arguments[0] = b"/usr/bin/other".to_vec();
        assert_eq!(by_order(&unlike, 2), [0; 0]);
        let mut forked = pair(10, 20);
        for process in &mut forked {
            process.arguments.pop();
        }
        assert_eq!(by_order(&forked, 2), [0; 0], "helpers of a training are forked too");
        let mut empty = pair(10, 20);
        for process in &mut empty {
            process.arguments.clear();
        }
        assert_eq!(by_order(&empty, 2), [0; 0]);
    }
}
