//! Looking at the processes of one container.

use oarlock_core::launcher;
use oarlock_core::rankenv::RankEntry;
use oarlock_core::request::MemPolicy;
use oarlock_kernel::{Live, Proc, Process, ReadError};

use super::{ContainerStatus, HeldBy, RankStatus};
use crate::host::{Container, Member};

/// The container as it is now. Processes that end meanwhile, or cannot be read, are left out.
pub(super) fn look(proc: &Proc, container: &Container) -> ContainerStatus {
    let entry = &container.entry;
    let mut ranks: Vec<RankStatus> =
        (0..).zip(&entry.ranks.ranks).map(|(rank, entry)| without_process(rank, entry)).collect();
    for member in &container.members {
        let Ok(Some(process)) = proc.process(member.pid) else { continue };
        let Ok(Some(rank)) = rank_of(&process, member) else { continue };
        let Some((status, planned)) = ranks.get_mut(rank as usize).zip(entry.ranks.ranks.get(rank as usize)) else {
            continue;
        };
        // What cannot be read is not known to be bound.
        drop(add(status, member, &process, planned, entry.ranks.mem_policy));
    }
    ContainerStatus {
        id: entry.id.clone(),
        name: entry.name.clone(),
        namespace: entry.pod.namespace.clone(),
        pod: entry.pod.name.clone(),
        uid: entry.pod.uid.clone(),
        source: entry.source,
        cgroup: container.cgroup(proc),
        unpinned: entry.unpinned,
        cpus: entry.container.cpus.clone(),
        mems: entry.container.mems.clone(),
        gpu_mems: entry.container.gpu_mems.clone(),
        exclusive: entry.exclusive.clone(),
        processes: container.members.len(),
        ranks_with_process: ranks.iter().filter(|rank| !rank.processes.is_empty()).count(),
        ranks_bound: ranks.iter().filter(|rank| rank.is_bound()).count(),
        ranks,
        reasons: entry.reasons.clone(),
        warnings: entry.warnings.clone(),
    }
}

fn without_process(rank: u32, entry: &RankEntry) -> RankStatus {
    RankStatus {
        rank,
        gpus: entry.gpus.clone(),
        cpus: entry.cpus.clone(),
        mems: entry.mems.clone(),
        gpu_mems: entry.gpu_mems.clone(),
        processes: Vec::new(),
        cpus_bound: None,
        mems_bound: None,
        held_by: None,
    }
}

/// The rank that a process is held as, or says to be.
fn rank_of(process: &Process, member: &Member) -> Result<Option<u32>, ReadError> {
    if member.held.is_some() {
        return Ok(member.held);
    }
    let Live::Here(environ) = process.environ()? else { return Ok(None) };
    let get = |key: &str| environ.get(key).map(|value| String::from_utf8_lossy(value).into_owned());
    // Whoever says nonsense is no rank.
    Ok(launcher::local_rank(get).ok().flatten().map(|(_, rank)| rank))
}

fn add(
    rank: &mut RankStatus,
    member: &Member,
    process: &Process,
    planned: &RankEntry,
    policy: MemPolicy,
) -> Result<(), ReadError> {
    let Live::Here(tids) = process.threads()? else { return Ok(()) };
    let wall = planned.wall(policy);
    let (mut cpus, mut mems) = (None, None);
    let narrow = |bound: &mut Option<bool>, within: bool| *bound = Some(bound.unwrap_or(true) && within);
    for tid in tids {
        let Live::Here(thread) = process.thread(tid)? else { continue };
        if thread.is_zombie() {
            continue;
        }
        if let (Some(planned), Some(has)) = (&planned.cpus, &thread.cpus_allowed) {
            narrow(&mut cpus, has.is_subset(planned));
        }
        if let (Some(wall), Some(has)) = (&wall, &thread.mems_allowed) {
            narrow(&mut mems, has.is_subset(wall));
        }
    }
    let both = |one: Option<bool>, other: Option<bool>| one.map_or(other, |one| Some(one && other.unwrap_or(true)));
    rank.cpus_bound = both(rank.cpus_bound, cpus);
    rank.mems_bound = both(rank.mems_bound, mems);
    let held_by = match member.held {
        Some(_) => Some(HeldBy::Cgroup),
        None => (cpus == Some(true)).then_some(HeldBy::Affinity),
    };
    // As weak as its weakest process.
    rank.held_by = match (rank.processes.is_empty(), rank.held_by) {
        (true, _) => held_by,
        (false, before) if before == held_by => held_by,
        (false, Some(_)) if held_by.is_some() => Some(HeldBy::Affinity),
        (false, _) => None,
    };
    rank.processes.push(member.pid);
    Ok(())
}
