//! Starting the ranks, each bound before it executes anything.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use oarlock_core::request::OnFailure;
use oarlock_kernel::placement::{Before, Placement};
use oarlock_kernel::spawn;

use crate::failure::Failure;
use crate::job::Job;
use crate::output::warn;

/// The ranks that were started, and why not all of them, where that is so.
pub(super) struct Started {
    pub(super) ranks: Vec<Child>,
    pub(super) failure: Option<Failure>,
}

/// What each rank is really bound to: this thread tries every placement before anything is started, so that what the
/// kernel does not give is said once, or refused.
pub(super) fn placements(job: &Job, on_failure: OnFailure) -> Result<Vec<Placement>, Failure> {
    let before = Before::of_current_thread().map_err(anyhow::Error::new)?;
    let mut memory_denied = None;
    let mut placements = Vec::new();
    for rank in 0..job.ranks() {
        let mut placement = job.placement(rank);
        let shortfall = placement.bind_current_thread();
        before.restore().map_err(anyhow::Error::new)?;
        if let Some(error) = shortfall.cpus {
            let error = anyhow::Error::new(error).context(format!("rank {rank} is not bound to its cpus"));
            if on_failure == OnFailure::Refuse {
                return Err(Failure::Failed(error));
            }
            warn(format_args!("{error:#}"));
            placement.cpus = None;
        }
        if let Some(error) = shortfall.mems {
            memory_denied = memory_denied.or_else(|| Some(anyhow::Error::new(error).context("memory is not bound")));
            placement.mems = None;
        }
        placements.push(placement);
    }
    match memory_denied {
        Some(error) if on_failure == OnFailure::Refuse => return Err(Failure::Failed(error)),
        Some(error) => warn(format_args!("{error:#}")),
        None => {}
    }
    Ok(placements)
}

/// Starts the ranks. A child inherits the binding of the thread that starts it: this thread takes each rank's in turn, so
/// that a rank has no page and no thread from before. The kernel kills the ranks when this thread ends, and it is the
/// main thread.
pub(super) fn start(
    job: &Job,
    placements: &[Placement],
    master_port: &str,
    command: &[OsString],
) -> Result<Started, Failure> {
    let before = Before::of_current_thread().map_err(anyhow::Error::new)?;
    let mut started = Started { ranks: Vec::new(), failure: None };
    for (rank, placement) in placements.iter().enumerate() {
        let mut child = Command::new(&command[0]);
        child.args(&command[1..]).envs(job.environment(rank)).process_group(0);
        child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for key in ["RANK", "LOCAL_RANK"] {
            child.env(key, rank.to_string());
        }
        for key in ["WORLD_SIZE", "LOCAL_WORLD_SIZE"] {
            child.env(key, placements.len().to_string());
        }
        child.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", master_port);
        spawn::kill_with_parent(&mut child);
        // It was tried before: what the kernel takes back in this moment, verify shows.
        drop(placement.bind_current_thread());
        let spawned = child.spawn();
        let restored = before.restore();
        match spawned {
            Ok(child) => started.ranks.push(child),
            Err(error) => {
                started.failure = Some(Failure::command(&command[0], error));
                break;
            }
        }
        if let Err(error) = restored {
            started.failure = Some(Failure::Failed(error.into()));
            break;
        }
    }
    Ok(started)
}
