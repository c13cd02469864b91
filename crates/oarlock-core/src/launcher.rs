//! Which local rank a process is, as its launcher says in the environment.

use crate::request::MAX_RANKS;

/// The variables that name the local rank, the first that is set counts: torchrun's, Open MPI's, Slurm's, and that of
/// Intel MPI and MPICH.
pub const LOCAL_RANK: [&str; 4] = ["LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", "MPI_LOCALRANKID"];

/// The variables that state the number of local ranks, of the same launchers in the same order.
pub const LOCAL_RANKS: [&str; 6] = [
    "LOCAL_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "SLURM_STEP_TASKS_PER_NODE",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_TASKS_PER_NODE",
    "MPI_LOCALNRANKS",
];

/// For each of [`LOCAL_RANK`], how many of [`LOCAL_RANKS`] are of the same launcher.
const SIZES_OF_EACH: [usize; 4] = [1, 1, 3, 1];

/// What a process inside a container says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// The variable that names its rank.
    pub key: &'static str,
    /// The rank. It may be past the container's last.
    pub rank: u32,
    /// The number of local ranks that its launcher states, where that is not the one expected.
    pub other_count: Option<u32>,
}

/// A variable that should hold a number and does not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} {value:?} is not {what}")]
pub struct NotANumber {
    /// The variable.
    pub key: &'static str,
    /// Its value, cut to its first hundred characters.
    pub value: String,
    /// What it should be.
    what: String,
}

/// The local rank, and the variable that names it; `None` where no launcher says.
pub fn local_rank(get: impl Fn(&str) -> Option<String>) -> Result<Option<(&'static str, u32)>, NotANumber> {
    let Some((key, value)) = first(LOCAL_RANK, get) else { return Ok(None) };
    match number(&value).filter(|&rank| rank < MAX_RANKS) {
        Some(rank) => Ok(Some((key, rank))),
        None => Err(not_a_number(key, &value, format!("a local rank: a number from 0 to {}", MAX_RANKS - 1))),
    }
}

/// The number of local ranks, and the variable that states it; `None` where no launcher says. Slurm's variables may hold a
/// list: where all hosts have as many ranks (`4(x2)`) it says so of this one too, else (`4,2`) it says nothing.
pub fn local_ranks(get: impl Fn(&str) -> Option<String>) -> Result<Option<(&'static str, u32)>, NotANumber> {
    let get = |key: &str| {
        let value = get(key)?;
        if !key.starts_with("SLURM") {
            return Some(value);
        }
        let each = value.split_once("(x").map_or(&*value, |(each, _)| each);
        (!value.contains(',') && number(each).is_some()).then(|| each.to_owned())
    };
    let Some((key, value)) = first(LOCAL_RANKS, get) else { return Ok(None) };
    match number(&value).filter(|ranks| (1..=MAX_RANKS).contains(ranks)) {
        Some(ranks) => Ok(Some((key, ranks))),
        None => Err(not_a_number(key, &value, format!("a number of local ranks from 1 to {MAX_RANKS}"))),
    }
}

/// Which of a container's `ranks` local ranks a process is, by its environment; `None` for one that is none: a helper, or a
/// launcher.
///
/// Launchers start each other, and then a process has the variables of several: the first that states as many ranks as there
/// are, or none, is believed. One that states a single rank where there are several has started another launcher, unless it
/// is torchrun, which has started a program for all GPUs.
pub fn rank_among(ranks: u32, get: impl Fn(&str) -> Option<String>) -> Result<Option<Named>, NotANumber> {
    let mut other = None;
    let mut sizes = LOCAL_RANKS.as_slice();
    for (key, count) in LOCAL_RANK.into_iter().zip(SIZES_OF_EACH) {
        let (own, rest) = sizes.split_at(count);
        sizes = rest;
        let Some((_, rank)) = local_rank(|name| get(name).filter(|_| name == key))? else { continue };
        let stated = local_ranks(|name| get(name).filter(|_| own.contains(&name)))?.map(|(_, stated)| stated);
        match stated.filter(|&stated| stated != ranks) {
            None => return Ok(Some(Named { key, rank, other_count: None })),
            Some(1) if key != LOCAL_RANK[0] => {}
            other_count => drop(other.get_or_insert(Named { key, rank, other_count })),
        }
    }
    Ok(other)
}

fn first<const N: usize>(
    keys: [&'static str; N],
    get: impl Fn(&str) -> Option<String>,
) -> Option<(&'static str, String)> {
    keys.into_iter().find_map(|key| Some((key, get(key)?)))
}

fn number(value: &str) -> Option<u32> {
    let value = value.trim();
    value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok())?
}

fn not_a_number(key: &'static str, value: &str, what: String) -> NotANumber {
    NotANumber { key, value: value.chars().take(100).collect(), what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        |key| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn the_first_launcher_that_speaks_is_believed() {
        let all = [
            ("MPI_LOCALRANKID", "4"),
            ("SLURM_LOCALID", "3"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "2"),
            ("LOCAL_RANK", "1"),
        ];
        for (set, expected) in (1..=4).zip([4, 3, 2, 1]) {
            assert_eq!(local_rank(env(&all[..set])).unwrap().map(|(_, rank)| rank), Some(expected));
        }
        assert_eq!(local_rank(env(&[("RANK", "7")])), Ok(None));
        assert_eq!(local_ranks(env(&[("WORLD_SIZE", "7")])), Ok(None));
        let sizes = [("MPI_LOCALNRANKS", "5"), ("OMPI_COMM_WORLD_LOCAL_SIZE", "6")];
        assert_eq!(local_ranks(env(&sizes)), Ok(Some(("OMPI_COMM_WORLD_LOCAL_SIZE", 6))));
    }

    #[test]
    fn what_is_no_rank_is_an_error_that_names_the_variable_and_the_rule() {
        for wrong in ["", "x", "-1", "+1", "1.0", "8192", "99999999999999999999"] {
            let error = local_rank(env(&[("LOCAL_RANK", wrong), ("SLURM_LOCALID", "3")])).unwrap_err().to_string();
            assert_eq!(error, format!("LOCAL_RANK {wrong:?} is not a local rank: a number from 0 to 8191"));
        }
        for wrong in ["0", "gpu", "8193"] {
            let error = local_ranks(env(&[("LOCAL_WORLD_SIZE", wrong)])).unwrap_err().to_string();
            assert_eq!(error, format!("LOCAL_WORLD_SIZE {wrong:?} is not a number of local ranks from 1 to 8192"));
        }
    }

    #[test]
    fn of_launchers_that_start_each_other_the_one_of_the_ranks_is_believed() {
        let named = |pairs: &[(&str, &str)]| rank_among(8, env(pairs)).unwrap();
        let rank = |key, rank| Some(Named { key, rank, other_count: None });
        let srun = [("SLURM_LOCALID", "0"), ("SLURM_NTASKS_PER_NODE", "1")];
        assert_eq!(named(&srun), None, "srun has started torchrun");
        let torchrun = [srun[0], srun[1], ("LOCAL_RANK", "5"), ("LOCAL_WORLD_SIZE", "8")];
        assert_eq!(named(&torchrun), rank("LOCAL_RANK", 5));
        assert_eq!(named(&[("SLURM_LOCALID", "3"), ("SLURM_NTASKS_PER_NODE", "8")]), rank("SLURM_LOCALID", 3));
        assert_eq!(named(&[("OMPI_COMM_WORLD_LOCAL_RANK", "2")]), rank("OMPI_COMM_WORLD_LOCAL_RANK", 2));
        assert_eq!(named(&[("LOCAL_RANK", "9")]), rank("LOCAL_RANK", 9), "the caller's matter");
        let mixed =
            [("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2"), ("MPI_LOCALRANKID", "6"), ("MPI_LOCALNRANKS", "8")];
        assert_eq!(named(&mixed), rank("MPI_LOCALRANKID", 6));
        assert_eq!(named(&[("RANK", "7")]), None);
    }

    #[test]
    fn another_number_of_ranks_than_expected_is_told() {
        let named = |pairs: &[(&str, &str)]| rank_among(8, env(pairs)).unwrap().unwrap();
        for (pairs, expected) in [
            ([("LOCAL_RANK", "3"), ("LOCAL_WORLD_SIZE", "4")], ("LOCAL_RANK", 3, 4)),
            ([("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1")], ("LOCAL_RANK", 0, 1)),
            ([("SLURM_LOCALID", "1"), ("SLURM_NTASKS_PER_NODE", "2")], ("SLURM_LOCALID", 1, 2)),
        ] {
            let (key, rank, count) = expected;
            assert_eq!(named(&pairs), Named { key, rank, other_count: Some(count) });
        }
        assert!(rank_among(8, env(&[("LOCAL_RANK", "99999999999")])).is_err());
        assert!(rank_among(8, env(&[("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "many")])).is_err());
    }

    #[test]
    fn slurms_list_of_tasks_counts_where_all_hosts_have_as_many() {
        assert_eq!(
            local_ranks(env(&[("SLURM_TASKS_PER_NODE", "4,2(x2)"), ("MPI_LOCALNRANKS", "2")])),
            Ok(Some(("MPI_LOCALNRANKS", 2)))
        );
        assert_eq!(
            local_ranks(env(&[("SLURM_STEP_TASKS_PER_NODE", "2(x3)"), ("SLURM_TASKS_PER_NODE", "8")])),
            Ok(Some(("SLURM_STEP_TASKS_PER_NODE", 2)))
        );
        assert_eq!(local_ranks(env(&[("SLURM_NTASKS_PER_NODE", "4")])), Ok(Some(("SLURM_NTASKS_PER_NODE", 4))));
    }
}
