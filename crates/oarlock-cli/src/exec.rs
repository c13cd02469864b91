//! `oarlock exec`: binds this rank, then becomes the command. A trampoline under any launcher.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use clap::Args;
use oarlock_core::Request;
use oarlock_core::launcher;
use oarlock_core::request::OnFailure;

use crate::failure::Failure;
use crate::flags::MapFlags;
use crate::job::{Job, local_rank, variable};
use crate::output::warn;
use crate::source::NvmlFlags;

/// Binds this rank (`LOCAL_RANK`) to its CPUs and memory, then executes the command in its place
#[derive(Debug, Args)]
#[command(
    after_help = "Example: torchrun --no-python --nproc-per-node 8 oarlock exec --cpu-map auto --mem-map auto -- python main.py\n\n\
                  Where OARLOCK_RANK_CPUS or OARLOCK_RANK_MEMS is set, as the agent does, the rank is bound to its entries there."
)]
pub(crate) struct Exec {
    #[command(flatten)]
    maps: MapFlags,
    #[command(flatten)]
    nvml: NvmlFlags,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Exec {
    /// Returns only when the command could not be executed.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let Self { maps, nvml, command } = self;
        let mut request = maps.request()?;
        let on_failure = request.on_failure;
        let (key, rank) = local_rank()?;
        let in_range = |ranks: usize, who: &str| {
            if (rank as usize) < ranks {
                return Ok(rank as usize);
            }
            Err(Failure::usage(format!(
                "{key} {rank} is out of range: ranks are numbered from 0, and {who} has {ranks}"
            )))
        };
        let job = if let Some(job) = Job::placed()? {
            in_range(job.ranks(), "OARLOCK_RANK_CPUS")?;
            job
        } else {
            if let Some((key, ranks)) = launcher::local_ranks(variable).map_err(|error| Failure::Usage(error.into()))? {
                in_range(ranks as usize, key)?;
                request.ranks = Some(ranks);
            } else {
                let [pet, plain] = ["PET_NPROC_PER_NODE", "NPROC_PER_NODE"].map(variable);
                request.ranks = Request::ranks_from_env(|key| match key {
                    "PET_NPROC_PER_NODE" => pet.as_deref(),
                    _ => plain.as_deref(),
                });
            }
            Job::planned(request, &nvml)?
        };
        let rank = in_range(job.ranks(), "the plan")?;
        bind(&job, rank, on_failure)?;
        let error = Command::new(&command[0]).args(&command[1..]).envs(job.environment(rank)).exec();
        Err(Failure::command(&command[0], error))
    }
}

/// Binds this thread, the only one, as rank `rank`. What concerns all ranks is said by one of them.
fn bind(job: &Job, rank: usize, on_failure: OnFailure) -> Result<(), Failure> {
    if rank == 0 {
        job.warnings.iter().for_each(warn);
    }
    let shortfall = job.placement(rank).bind_current_thread();
    if let Some(error) = shortfall.cpus {
        let error = anyhow::Error::new(error).context(format!("rank {rank} is not bound to its cpus"));
        if on_failure == OnFailure::Refuse {
            return Err(Failure::Failed(error));
        }
        warn(format_args!("{error:#}"));
    }
    if let Some(error) = shortfall.mems {
        let error = anyhow::Error::new(error).context("memory is not bound");
        if on_failure == OnFailure::Refuse {
            return Err(Failure::Failed(error));
        }
        if job.first_with_memory() == Some(rank) {
            warn(format_args!("{error:#}"));
        }
    }
    Ok(())
}
