//! A container whose ranks are bound, and which of its processes is which rank.

use oarlock_core::launcher::{self, NotANumber};
use oarlock_core::machine::Gpu;
use oarlock_core::pci::PciAddress;
use oarlock_core::rankenv::{RankEntry, RankEnv};
use oarlock_core::request::GpuRef;
use oarlock_core::visible;
use oarlock_kernel::rank_cgroup::Wall;

/// A container whose ranks are bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ward {
    /// The container's id.
    pub(crate) id: String,
    /// The cgroup of its first process, as `/proc/PID/cgroup` names it.
    pub(crate) cgroup: String,
    /// Its first process, where it is known.
    pub(crate) init: Option<u32>,
    /// The places of its ranks.
    pub(crate) ranks: RankEnv,
    /// The GPUs that it holds, as the machine has them.
    pub(crate) gpus: Vec<Gpu>,
}

/// The variables of a process that are looked at.
pub(super) fn asked() -> Vec<&'static str> {
    [launcher::LOCAL_RANK.as_slice(), &launcher::LOCAL_RANKS, &visible::VISIBLE_DEVICES].concat()
}

/// What a process of a ward is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// This rank, whose place is that of the rank in `place`: its own, unless it chose another's GPUs.
    Rank { rank: u32, place: u32 },
    /// A launcher or a helper.
    NoRank,
    /// It calls itself a rank, and is none that was planned.
    Odd(Oddity),
}

/// Why a process that calls itself a rank has no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Oddity {
    /// The plan is for another number of ranks.
    #[error("the launcher states {stated} local ranks where {planned} were planned")]
    OtherCount { stated: u32, planned: u32 },
    /// Its number is past the last.
    #[error("{key} is {rank} where {planned} ranks were planned")]
    Past { key: &'static str, rank: u32, planned: u32 },
    /// Its number is none.
    #[error(transparent)]
    NoNumber(#[from] NotANumber),
}

impl Ward {
    /// What the process is that has this environment. Anybody may have written it.
    pub(crate) fn find(&self, pid: u32, get: impl Fn(&str) -> Option<String>) -> Finding {
        let planned = self.ranks.ranks.len() as u32;
        // Of several ranks none is the first process: an environment that names one there is the whole container's.
        if planned > 1 && self.init == Some(pid) {
            return Finding::NoRank;
        }
        match launcher::rank_among(planned, &get) {
            Err(error) => Finding::Odd(error.into()),
            Ok(None) => Finding::NoRank,
            Ok(Some(named)) => match named.other_count {
                Some(stated) => Finding::Odd(Oddity::OtherCount { stated, planned }),
                None if named.rank < planned => {
                    Finding::Rank { rank: named.rank, place: self.place(named.rank, &get).unwrap_or(named.rank) }
                }
                None => Finding::Odd(Oddity::Past { key: named.key, rank: named.rank, planned }),
            },
        }
    }

    /// The rank whose GPUs this one has chosen for itself. With `auto` its place is next to these.
    fn place(&self, rank: u32, get: impl Fn(&str) -> Option<String>) -> Option<u32> {
        let own = &self.ranks.ranks.get(rank as usize)?.gpus;
        let list = visible::VISIBLE_DEVICES.iter().find_map(|key| get(key))?;
        let index = |gpu: GpuRef| match gpu {
            GpuRef::Index(index) => Some(index),
            GpuRef::Address(_) | GpuRef::Uuid(_) => None,
        };
        let chosen: Vec<u32> =
            visible::among(self.gpus.iter().collect(), &list).into_iter().filter_map(index).collect();
        // A list of more GPUs than the rank drives is for all ranks.
        if self.ranks.cpu_map != "auto" || chosen.is_empty() || chosen.len() != own.len() || chosen == *own {
            return None;
        }
        (0..).zip(&self.ranks.ranks).find(|(_, entry)| entry.gpus == chosen).map(|(place, _)| place)
    }

    /// The index of its GPU at this address.
    pub(super) fn gpu_at(&self, address: PciAddress) -> Option<u32> {
        self.gpus.iter().find(|gpu| gpu.pci == Some(address)).map(|gpu| gpu.index)
    }

    /// What a rank with this place is held to; `None` where it stays unbound.
    pub(crate) fn wall(&self, place: u32) -> Option<Wall> {
        let entry: &RankEntry = self.ranks.ranks.get(place as usize)?;
        let wall = Wall { cpus: entry.cpus.clone(), mems: entry.wall(self.ranks.mem_policy) };
        (wall.cpus.is_some() || wall.mems.is_some()).then_some(wall)
    }
}

#[cfg(test)]
mod tests {
    use oarlock_core::locality::Locality;
    use oarlock_core::request::MemPolicy;

    use super::*;

    fn ward(ranks: usize) -> Ward {
        let entry = RankEntry { cpus: "2-3".parse().ok(), mems: "1".parse().ok(), ..RankEntry::default() };
        let ranks = RankEnv {
            cpu_map: "auto".to_owned(),
            mem_map: "auto".to_owned(),
            mem_policy: MemPolicy::Bind,
            ranks: vec![entry; ranks],
        };
        Ward { id: "c".to_owned(), cgroup: "/c".to_owned(), init: Some(10), ranks, gpus: Vec::new() }
    }

    fn find(ranks: usize, pid: u32, env: &[(&str, &str)]) -> Finding {
        ward(ranks).find(pid, |key| env.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_process_is_the_rank_that_its_launcher_named_and_the_launcher_is_none() {
        assert_eq!(find(8, 11, &[("LOCAL_RANK", "7"), ("LOCAL_WORLD_SIZE", "8")]), Finding::Rank { rank: 7, place: 7 });
        assert_eq!(find(8, 11, &[("RANK", "7"), ("WORLD_SIZE", "8")]), Finding::NoRank);
        assert_eq!(find(8, 11, &[("SLURM_LOCALID", "0"), ("SLURM_NTASKS_PER_NODE", "1")]), Finding::NoRank);
    }

    #[test]
    fn the_first_process_is_a_rank_only_where_there_is_no_other() {
        assert_eq!(find(2, 10, &[("LOCAL_RANK", "0")]), Finding::NoRank);
        assert_eq!(find(1, 10, &[("LOCAL_RANK", "0")]), Finding::Rank { rank: 0, place: 0 });
    }

    #[test]
    fn a_rank_that_chose_another_gpu_has_the_place_next_to_it() {
        let gpu = |index: u32| Gpu {
            index,
            pci: format!("0000:0{index}:00.0").parse().ok(),
            uuid: Some(format!("GPU-{index}")),
            model: None,
            locality: Locality::Unknown { why: String::new() },
            local_cpus: None,
            memory_node: None,
        };
        let mut ward = ward(4);
        // The container holds GPUs 3 to 6; a process counts them from 0.
        ward.gpus = (3..7).map(gpu).collect();
        for (entry, index) in ward.ranks.ranks.iter_mut().zip(3..) {
            entry.gpus = vec![index];
        }
        let place = |ward: &Ward, list: &str| {
            let env = [("LOCAL_RANK", "1"), ("CUDA_VISIBLE_DEVICES", list)];
            match ward.find(11, |key| env.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned())) {
                Finding::Rank { rank: 1, place } => place,
                other => panic!("{other:?}"),
            }
        };
        for (list, expected) in
            [("3", 3), ("GPU-5", 2), ("1", 1), ("0,1,2,3", 1), ("", 1), ("9", 1), ("0,1", 1), ("GPU-9", 1)]
        {
            assert_eq!(place(&ward, list), expected, "{list:?}");
        }
        ward.ranks.cpu_map = "0,0,1,1".to_owned();
        assert_eq!(place(&ward, "3"), 1, "a list of the pod's is by rank");
    }

    #[test]
    fn ranks_that_were_not_planned_are_told_why() {
        let words = |env: &[(&str, &str)]| match find(2, 11, env) {
            Finding::Odd(oddity) => oddity.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(words(&[("LOCAL_RANK", "2")]), "LOCAL_RANK is 2 where 2 ranks were planned");
        let count = [("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "4")];
        assert_eq!(words(&count), "the launcher states 4 local ranks where 2 were planned");
        assert!(words(&[("LOCAL_RANK", "99999999999")]).starts_with("LOCAL_RANK \"99999999999\" is not a local rank"));
    }

    #[test]
    fn a_wall_is_what_the_plan_binds() {
        let mut ward = ward(3);
        ward.ranks.ranks[1] = RankEntry::default();
        let wall = Wall { cpus: "2-3".parse().ok(), mems: "1".parse().ok() };
        assert_eq!((ward.wall(0), ward.wall(1), ward.wall(3)), (Some(wall.clone()), None, None));
        ward.ranks.mem_policy = MemPolicy::Preferred;
        assert_eq!(ward.wall(2), Some(Wall { mems: None, ..wall }));
    }
}
