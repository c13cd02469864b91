//! A container whose ranks are bound, and which of its processes is which rank.

use oarlock_core::launcher::{self, NotANumber};
use oarlock_core::rankenv::{RankEntry, RankEnv};
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
}

/// What a process of a ward is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// This rank.
    Rank(u32),
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
        match launcher::rank_among(planned, get) {
            Err(error) => Finding::Odd(error.into()),
            Ok(None) => Finding::NoRank,
            Ok(Some(named)) => match named.other_count {
                Some(stated) => Finding::Odd(Oddity::OtherCount { stated, planned }),
                None if named.rank < planned => Finding::Rank(named.rank),
                None => Finding::Odd(Oddity::Past { key: named.key, rank: named.rank, planned }),
            },
        }
    }

    /// What a rank is held to; `None` for one that stays unbound.
    pub(crate) fn wall(&self, rank: u32) -> Option<Wall> {
        let entry: &RankEntry = self.ranks.ranks.get(rank as usize)?;
        let wall = Wall { cpus: entry.cpus.clone(), mems: entry.wall(self.ranks.mem_policy) };
        (wall.cpus.is_some() || wall.mems.is_some()).then_some(wall)
    }
}

#[cfg(test)]
mod tests {
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
        Ward { id: "c".to_owned(), cgroup: "/c".to_owned(), init: Some(10), ranks }
    }

    fn find(ranks: usize, pid: u32, env: &[(&str, &str)]) -> Finding {
        ward(ranks).find(pid, |key| env.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_process_is_the_rank_that_its_launcher_named_and_the_launcher_is_none() {
        assert_eq!(find(8, 11, &[("LOCAL_RANK", "7"), ("LOCAL_WORLD_SIZE", "8")]), Finding::Rank(7));
        assert_eq!(find(8, 11, &[("RANK", "7"), ("WORLD_SIZE", "8")]), Finding::NoRank);
        assert_eq!(find(8, 11, &[("SLURM_LOCALID", "0"), ("SLURM_NTASKS_PER_NODE", "1")]), Finding::NoRank);
    }

    #[test]
    fn the_first_process_is_a_rank_only_where_there_is_no_other() {
        assert_eq!(find(2, 10, &[("LOCAL_RANK", "0")]), Finding::NoRank);
        assert_eq!(find(1, 10, &[("LOCAL_RANK", "0")]), Finding::Rank(0));
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
