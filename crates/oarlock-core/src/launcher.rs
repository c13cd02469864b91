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
