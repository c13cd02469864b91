//! The environment that says how a container's ranks were placed: written by whoever places them, read by a rank that
//! binds itself and by whoever verifies it.
//!
//! Lists have one entry per rank, in rank order, separated by semicolons; the entry of an unbound rank is empty.

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::idset::{CpuSet, NodeSet};
use crate::plan::Plan;
use crate::request::{MAX_RANKS, MemPolicy};

/// The number of ranks.
pub const RANKS: &str = "OARLOCK_RANKS";
/// The CPU map asked for.
pub const CPU_MAP: &str = "OARLOCK_CPU_MAP";
/// The memory map asked for.
pub const MEM_MAP: &str = "OARLOCK_MEM_MAP";
/// `bind` or `preferred`; `bind` where it is not set.
pub const MEM_POLICY: &str = "OARLOCK_MEM_POLICY";
/// Each rank's CPUs.
pub const RANK_CPUS: &str = "OARLOCK_RANK_CPUS";
/// Each rank's memory nodes.
pub const RANK_MEMS: &str = "OARLOCK_RANK_MEMS";
/// The memory nodes of each rank's own GPUs, which stay allowed beside its memory nodes. Set only where there are any.
pub const RANK_GPU_MEMS: &str = "OARLOCK_RANK_GPU_MEMS";
/// Each rank's GPUs, by index in the machine.
pub const RANK_GPUS: &str = "OARLOCK_RANK_GPUS";

/// How the ranks of a container were placed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RankEnv {
    /// The CPU map asked for, in words; empty where it is not known.
    pub cpu_map: String,
    /// The memory map asked for, in words; empty where it is not known.
    pub mem_map: String,
    /// Whether the memory nodes are a wall.
    pub mem_policy: MemPolicy,
    /// The ranks, from 0; at least one.
    pub ranks: Vec<RankEntry>,
}

/// How one rank was placed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RankEntry {
    /// Its CPUs; `None` for an unbound rank.
    pub cpus: Option<CpuSet>,
    /// Its memory nodes; `None` where its memory is unbound.
    pub mems: Option<NodeSet>,
    /// The memory nodes of its own GPUs.
    #[serde(default, skip_serializing_if = "NodeSet::is_empty")]
    pub gpu_mems: NodeSet,
    /// The machine's indices of its GPUs.
    pub gpus: Vec<u32>,
}

/// A variable that does not have its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} {value:?}: {message}")]
pub struct RankEnvError {
    /// The variable.
    pub key: &'static str,
    /// Its value, cut to its first hundred characters.
    pub value: String,
    /// What is wrong, and where.
    pub message: String,
}

impl From<&Plan> for RankEnv {
    fn from(plan: &Plan) -> Self {
        let ranks = plan.ranks.iter().map(|rank| RankEntry {
            cpus: rank.cpus.clone(),
            mems: rank.mems.clone(),
            gpu_mems: rank.gpu_mems.clone(),
            gpus: rank.gpus.clone(),
        });
        Self {
            cpu_map: plan.cpu_map.clone(),
            mem_map: plan.mem_map.clone(),
            mem_policy: plan.mem_policy,
            ranks: ranks.collect(),
        }
    }
}

impl RankEntry {
    /// The nodes behind the rank's memory wall: its own and those of its GPUs. `None` where it has no wall.
    pub fn wall(&self, policy: MemPolicy) -> Option<NodeSet> {
        let mems = self.mems.as_ref().filter(|_| policy == MemPolicy::Bind)?;
        Some(mems.union(&self.gpu_mems))
    }
}

impl RankEnv {
    /// The variables and their values.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            (RANKS, self.ranks.len().to_string()),
            (CPU_MAP, self.cpu_map.clone()),
            (MEM_MAP, self.mem_map.clone()),
            (MEM_POLICY, self.mem_policy.to_string()),
            (RANK_CPUS, self.list(|rank| or_empty(rank.cpus.as_ref()))),
            (RANK_MEMS, self.list(|rank| or_empty(rank.mems.as_ref()))),
            (RANK_GPUS, self.list(|rank| rank.gpus.iter().map(u32::to_string).collect::<Vec<_>>().join(","))),
        ];
        if self.ranks.iter().any(|rank| !rank.gpu_mems.is_empty()) {
            variables.push((RANK_GPU_MEMS, self.list(|rank| rank.gpu_mems.to_string())));
        }
        variables
    }

    /// Reads the variables back; `None` where neither CPUs nor memory of ranks are set. Anybody may have written them: what
    /// does not have its form is an error.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, RankEnvError> {
        let (cpus, mems) = (entries(RANK_CPUS, &get)?, entries(RANK_MEMS, &get)?);
        let gpus = entries(RANK_GPUS, &get)?;
        let gpu_mems = entries(RANK_GPU_MEMS, &get)?;
        let Some(count) = cpus.as_ref().or(mems.as_ref()).map(Vec::len) else { return Ok(None) };
        if let Some(value) = get(RANKS)
            && value != count.to_string()
        {
            return Err(wrong(RANKS, &value, format!("the lists of the ranks have {count} entries")));
        }
        let mut ranks = vec![RankEntry::default(); count];
        fill(RANK_CPUS, cpus, &mut ranks, set_or_none, |rank, cpus| rank.cpus = cpus)?;
        fill(RANK_MEMS, mems, &mut ranks, set_or_none, |rank, mems| rank.mems = mems)?;
        fill(RANK_GPU_MEMS, gpu_mems, &mut ranks, set_or_none, |rank, mems| rank.gpu_mems = mems.unwrap_or_default())?;
        fill(RANK_GPUS, gpus, &mut ranks, gpu_list, |rank, gpus| rank.gpus = gpus)?;
        let mem_policy = match get(MEM_POLICY).as_deref() {
            None | Some("bind") => MemPolicy::Bind,
            Some("preferred") => MemPolicy::Preferred,
            Some(other) => return Err(wrong(MEM_POLICY, other, "is neither bind nor preferred")),
        };
        let map = |key| get(key).unwrap_or_default();
        Ok(Some(Self { cpu_map: map(CPU_MAP), mem_map: map(MEM_MAP), mem_policy, ranks }))
    }

    fn list(&self, entry: impl Fn(&RankEntry) -> String) -> String {
        self.ranks.iter().map(entry).collect::<Vec<_>>().join(";")
    }
}

fn or_empty(set: Option<&impl Display>) -> String {
    set.map(ToString::to_string).unwrap_or_default()
}

fn entries(key: &'static str, get: impl Fn(&str) -> Option<String>) -> Result<Option<Vec<String>>, RankEnvError> {
    let Some(value) = get(key) else { return Ok(None) };
    let entries: Vec<String> = value.split(';').map(|entry| entry.trim().to_owned()).collect();
    if entries.len() > MAX_RANKS as usize {
        return Err(wrong(key, &value, format!("{} entries are more than {MAX_RANKS} ranks", entries.len())));
    }
    Ok(Some(entries))
}

fn fill<T>(
    key: &'static str,
    entries: Option<Vec<String>>,
    ranks: &mut [RankEntry],
    parse: impl Fn(&str) -> Result<T, String>,
    put: impl Fn(&mut RankEntry, T),
) -> Result<(), RankEnvError> {
    let Some(entries) = entries else { return Ok(()) };
    let value = || entries.join(";");
    if entries.len() != ranks.len() {
        let message = format!("has {} entries where the ranks are {}", entries.len(), ranks.len());
        return Err(wrong(key, &value(), message));
    }
    for (index, (rank, entry)) in ranks.iter_mut().zip(&entries).enumerate() {
        let parsed = parse(entry);
        put(rank, parsed.map_err(|why| wrong(key, &value(), format!("entry {} (rank {index}): {why}", index + 1)))?);
    }
    Ok(())
}

fn set_or_none<T: FromStr<Err: Display>>(entry: &str) -> Result<Option<T>, String> {
    if entry.is_empty() {
        return Ok(None);
    }
    entry.parse().map(Some).map_err(|error: T::Err| error.to_string())
}

fn gpu_list(entry: &str) -> Result<Vec<u32>, String> {
    if entry.is_empty() {
        return Ok(Vec::new());
    }
    let number = |part: &str| part.parse().map_err(|_| format!("{part:?} is not a gpu number"));
    entry.split(',').map(number).collect()
}

fn wrong(key: &'static str, value: &str, message: impl Into<String>) -> RankEnvError {
    RankEnvError { key, value: value.chars().take(100).collect(), message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rank 1 is unbound, rank 2 has GPUs out of order, rank 3 memory of its GPU and no CPUs.
    fn four_ranks() -> RankEnv {
        let rank = |cpus: &str, mems: &str, gpu_mems: &str, gpus: &[u32]| RankEntry {
            cpus: set_or_none(cpus).unwrap(),
            mems: set_or_none(mems).unwrap(),
            gpu_mems: gpu_mems.parse().unwrap(),
            gpus: gpus.to_vec(),
        };
        RankEnv {
            cpu_map: "auto".to_owned(),
            mem_map: "0+2,1,1,3".to_owned(),
            mem_policy: MemPolicy::Preferred,
            ranks: vec![
                rank("0-3,8-11", "0,2", "", &[0]),
                RankEntry::default(),
                rank("4", "1", "", &[3, 1]),
                rank("", "3", "9", &[2]),
            ],
        }
    }

    fn read(variables: &[(&str, String)]) -> Result<Option<RankEnv>, RankEnvError> {
        RankEnv::read(|key| variables.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone()))
    }

    #[test]
    fn each_list_has_an_entry_per_rank_and_an_unbound_rank_an_empty_one() {
        let expected = [
            ("OARLOCK_RANKS", "4"),
            ("OARLOCK_CPU_MAP", "auto"),
            ("OARLOCK_MEM_MAP", "0+2,1,1,3"),
            ("OARLOCK_MEM_POLICY", "preferred"),
            ("OARLOCK_RANK_CPUS", "0-3,8-11;;4;"),
            ("OARLOCK_RANK_MEMS", "0,2;;1;3"),
            ("OARLOCK_RANK_GPUS", "0;;3,1;2"),
            ("OARLOCK_RANK_GPU_MEMS", ";;;9"),
        ];
        assert_eq!(four_ranks().variables(), expected.map(|(key, value)| (key, value.to_owned())));
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(read(&four_ranks().variables()), Ok(Some(four_ranks())));
        let one = RankEnv { ranks: vec![RankEntry::default()], ..four_ranks() };
        assert_eq!(read(&one.variables()), Ok(Some(one)));
    }

    #[test]
    fn without_lists_there_is_nothing_to_read_and_bind_is_what_an_agent_means_by_silence() {
        assert_eq!(read(&[("OARLOCK_RANKS", "4".to_owned()), ("OARLOCK_CPU_MAP", "auto".to_owned())]), Ok(None));
        let env = read(&[("OARLOCK_RANK_MEMS", "1;0".to_owned())]).unwrap().unwrap();
        assert_eq!(env.mem_policy, MemPolicy::Bind);
        assert_eq!(env.ranks[0].wall(env.mem_policy), Some(NodeSet::of(1)));
        assert_eq!(env.ranks[0].cpus, None);
    }

    #[test]
    fn the_wall_holds_the_gpus_own_memory_and_is_none_for_the_policy_preferred() {
        let env = four_ranks();
        assert_eq!(env.ranks[3].wall(MemPolicy::Bind), Some("3,9".parse().unwrap()));
        assert_eq!(env.ranks[3].wall(MemPolicy::Preferred), None);
        assert_eq!(env.ranks[1].wall(MemPolicy::Bind), None);
    }

    #[test]
    fn a_variable_without_its_form_is_an_error_that_names_the_place() {
        for (key, value, expected) in [
            (RANK_CPUS, "0-3;x;4;", "OARLOCK_RANK_CPUS \"0-3;x;4;\": entry 2 (rank 1): \"x\" at character 1"),
            (RANK_CPUS, "0-3;4", "OARLOCK_RANKS \"4\": the lists of the ranks have 2 entries"),
            (RANK_MEMS, "0;1", "OARLOCK_RANK_MEMS \"0;1\": has 2 entries where the ranks are 4"),
            (RANK_MEMS, ";;;4096", "entry 4 (rank 3): node number in \"4096\""),
            (RANK_GPUS, "0;;1,;2", "entry 3 (rank 2): \"\" is not a gpu number"),
            (MEM_POLICY, "both", "OARLOCK_MEM_POLICY \"both\": is neither bind nor preferred"),
            (RANKS, "5", "OARLOCK_RANKS \"5\": the lists of the ranks have 4 entries"),
        ] {
            let mut variables = four_ranks().variables();
            variables.iter_mut().find(|(name, _)| *name == key).unwrap().1 = value.to_owned();
            let error = read(&variables).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}\nlacks {expected}");
        }
    }

    #[test]
    fn an_endless_list_is_refused_and_not_repeated_in_the_error() {
        let error = read(&[(RANK_CPUS, ";".repeat(1 << 20))]).unwrap_err();
        assert!(error.to_string().len() < 200, "{error}");
    }
}
