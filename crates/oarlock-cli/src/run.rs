//! `oarlock run`: plans the ranks of a job on this host, starts them bound, and sees them to their end.
//!
//! Nothing stays behind, whatever the ranks have started. Only where this process itself is killed (`SIGKILL`) can it not
//! see to that: then the kernel kills the ranks, and what they have started loses its output and is left to itself.

mod output;
mod remains;
mod start;
mod supervise;

use std::ffi::OsString;
use std::net::TcpListener;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use oarlock_core::request::MAX_RANKS;

use crate::failure::Failure;
use crate::flags::MapFlags;
use crate::job::{Job, variable};
use crate::output::warn;
use crate::source::NvmlFlags;
use start::Started;

/// Runs N ranks of a job on this host, each bound to its CPUs and memory
#[derive(Debug, Args)]
#[command(
    after_help = "Each rank has RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT set, its output \
                  prefixed with its rank, and no standard input. Signals are passed on to all ranks. When one fails, the \
                  others are ended; the exit status is that of the first failure."
)]
pub(crate) struct Run {
    /// The number of ranks: without it, as many as GPUs, else 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RANKS)))]
    nproc_per_node: Option<u32>,
    #[command(flatten)]
    maps: MapFlags,
    #[command(flatten)]
    nvml: NvmlFlags,
    /// Seconds between asking ranks to end (SIGTERM) and ending them (SIGKILL)
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    grace_period: u16,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Run {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let Self { nproc_per_node, maps, nvml, grace_period, command } = self;
        let mut request = maps.request()?;
        request.ranks = nproc_per_node;
        let on_failure = request.on_failure;
        // What is asked for here counts before what an agent has planned for the container.
        let placed = if maps.asks_for_a_map() { None } else { Job::placed()? };
        let job = match placed {
            Some(job) => match nproc_per_node {
                Some(ranks) if ranks as usize != job.ranks() => {
                    return Err(Failure::usage(format!(
                        "--nproc-per-node {ranks}: OARLOCK_RANK_CPUS places {} ranks",
                        job.ranks()
                    )));
                }
                _ => job,
            },
            None => Job::planned(request, &nvml)?,
        };
        job.warnings.iter().for_each(warn);
        let placements = start::placements(&job, on_failure)?;
        let master_port = master_port()?;
        let supervisor = supervise::Supervisor::prepare(Duration::from_secs(grace_period.into()))?;
        let Started { ranks, failure } = start::start(&job, &placements, &master_port, &command)?;
        let status = supervisor.see_to_the_end(ranks, failure.is_some());
        match failure {
            Some(failure) => Err(failure),
            None => Ok(ExitCode::from(status)),
        }
    }
}

/// The port where the ranks meet: the environment's, else one that is free now.
fn master_port() -> Result<String, Failure> {
    if let Some(port) = variable("MASTER_PORT").filter(|port| !port.is_empty()) {
        return Ok(port);
    }
    let free = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    Ok(free.context("failed to find a free port on 127.0.0.1")?.port().to_string())
}
