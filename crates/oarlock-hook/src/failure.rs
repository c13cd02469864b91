//! Why a container is not placed.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use oarlock_core::Refusal;
use oarlock_kernel::ReadError;
use oarlock_kernel::cgroup::CpusetError;
use oarlock_kernel::ledger::LedgerError;

/// Why a container is not placed. None of these breaks a container that did not ask for `on-failure: refuse`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Input that is longer than any runtime's.
    #[error("{what} is longer than {limit} bytes, the most that is read")]
    TooLong { what: String, limit: u64 },
    /// Input that is no JSON of its kind.
    #[error("{what} is not {expected}")]
    Malformed { what: String, expected: &'static str, source: serde_json::Error },
    /// A path that a runtime does not give.
    #[error("\"{}\" is no bundle: {rule}", path.display())]
    NoBundle { path: PathBuf, rule: &'static str },
    /// A file or stream that cannot be read.
    #[error("failed to read {what}")]
    Read { what: String, source: io::Error },
    /// A file that cannot be written.
    #[error("failed to write \"{}\"", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// Only root may write the cgroup tree.
    #[error("rootless: {why}, and the cgroup tree can be written by the host's root only")]
    Rootless { why: &'static str },
    /// Cgroup v1, alone or beside v2.
    #[error("\"{}\" is no cgroup v2 tree: memory has no wall on a host with cgroup v1, and nothing is placed there", path.display())]
    NoCgroup2 { path: PathBuf },
    /// No process, or that of another container.
    #[error("process {pid} is not the container's: {why}")]
    NotItsProcess { pid: i32, why: String },
    /// The container's cgroup cannot have a cpuset.
    #[error("\"{}\" cannot be given {what}: the controller cpuset is not enabled there", path.display())]
    NoController { path: PathBuf, what: &'static str },
    /// A configuration that cannot be edited.
    #[error("the configuration cannot be edited: {field} is not {expected}")]
    NotEditable { field: &'static str, expected: &'static str },
    /// The request cannot be met.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The machine is not known.
    #[error("the machine is not known")]
    Machine(#[from] oarlock_discovery::DiscoveryError),
    /// A kernel file.
    #[error(transparent)]
    Kernel(#[from] ReadError),
    /// The cgroup's cpuset.
    #[error(transparent)]
    Cpuset(#[from] CpusetError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A fault of this program.
    #[error("a fault of this program's own: {0}")]
    Panic(String),
}

impl Failure {
    /// The error and its causes, as one line has them.
    pub(crate) fn line(&self) -> String {
        let mut parts = vec![self.to_string()];
        let mut cause = self.source();
        while let Some(error) = cause {
            parts.push(error.to_string());
            cause = error.source();
        }
        // What is transparent says the same as what is in it.
        parts.dedup();
        parts.join(": ")
    }
}

/// How long the ledger is waited for. The agent holds it for milliseconds.
pub(crate) const LEDGER_PATIENCE: Duration = Duration::from_millis(500);
