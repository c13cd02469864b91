//! Why a rank is not held.

use std::io;
use std::path::PathBuf;

use oarlock_core::request::MAX_RANKS;

use super::let_go::MOST_MOVES;
use crate::cgroup::{CpusetError, WriteError};
use crate::folder::ReadError;

/// Why a rank is not held.
#[derive(Debug, thiserror::Error)]
pub enum RankCgroupError {
    /// This container's cgroup cannot have rank cgroups: its ranks can be bound by affinity alone. Nothing was changed.
    #[error("\"{}\" cannot hold ranks: {why}", path.display())]
    CannotHold {
        /// The container's cgroup.
        path: PathBuf,
        /// The reason, in words.
        why: String,
        /// What the kernel said, where it was asked.
        source: Option<io::Error>,
    },
    /// The kernel gives something else than the wall: the container has none of the CPUs, or none of the nodes.
    #[error("\"{}\" is given {got} where {wanted} was asked for: the container has none of these", path.display())]
    NotGiven {
        /// `cpuset.cpus` or `cpuset.mems` of the rank cgroup.
        path: PathBuf,
        /// What was asked for, in the kernel's list form.
        wanted: String,
        /// What is in effect.
        got: String,
    },
    /// The process is of another container.
    #[error("process {pid} is in \"{cgroup}\" and not in \"{}\"", container.display())]
    OfAnother {
        /// The process.
        pid: u32,
        /// Where it is.
        cgroup: String,
        /// The container's cgroup.
        container: PathBuf,
    },
    /// Processes of the rank cgroup come faster than they can be moved.
    #[error("\"{}\" still holds processes after {MOST_MOVES} were moved", path.display())]
    Unending {
        /// The rank cgroup.
        path: PathBuf,
    },
    /// A rank's number is below 8,192.
    #[error("rank {rank} is out of range: a local rank is a number from 0 to {}", MAX_RANKS - 1)]
    OutOfRange {
        /// The number.
        rank: u32,
    },
    /// A file could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<CpusetError> for RankCgroupError {
    fn from(error: CpusetError) -> Self {
        match error {
            CpusetError::Read(error) => error.into(),
            CpusetError::Write(error) => error.into(),
        }
    }
}
