//! `oarlock unpin`: takes away again what Oarlock put around a container and its ranks.

use std::process::ExitCode;
use std::thread;

use anyhow::Context as _;
use clap::Args;
use oarlock_core::CpuSet;
use oarlock_core::idset::{Cpu, Kind as _};
use oarlock_core::launcher;
use oarlock_core::request::MAX_RANKS;
use oarlock_kernel::ledger::HEEDED_EVERY;
use oarlock_kernel::rank_cgroup::RankCgroups;
use oarlock_kernel::{Live, affinity};

use crate::failure::{Failure, one_line};
use crate::host::{Container, Host, HostFlags, Which};
use crate::output::{note, print};

/// An agent that still takes marks away after so many has a fault of its own.
const MARKED_AGAIN: u32 = 10;

/// Takes every rank cgroup away again and restores the cpuset that the container had
#[derive(Debug, Args)]
#[command(
    after_help = "The containers stay in the ledger, marked as unpinned, so that the agent leaves them alone; those that have \
                  ended leave it. Where an agent runs, it tells the runtime too."
)]
pub(crate) struct Unpin {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    host: HostFlags,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// A managed container, by its id or the beginning of it
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// All managed containers of this host
    #[arg(long)]
    all: bool,
}

impl Unpin {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let host = self.host.open()?;
        let found = host.find(&self.what.container.map_or(Which::All, Which::Container))?;
        mark(&host, &found.containers)?;
        // As an agent left them that had not seen the mark.
        let now = host.find(&Which::All)?.containers;
        let mut failures = 0;
        for container in &found.containers {
            let container = now.iter().find(|now| now.entry.id == container.entry.id).unwrap_or(container);
            match unpin(&host, container) {
                Ok(done) => print(&one_line(&format!("{}: {done}", container.name())))?,
                Err(error) => {
                    failures += 1;
                    note(&one_line(&format!("{}: {error:#}", container.name())));
                }
            }
        }
        for problem in &found.problems {
            note(&one_line(problem));
        }
        Ok(if failures == 0 && found.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

/// First of all, so that an agent does not do again what is undone here. It may have been about to write an entry, and then
/// takes the mark away once.
fn mark(host: &Host, containers: &[Container]) -> anyhow::Result<()> {
    for _ in 0..MARKED_AGAIN {
        let mut some_are_new = false;
        for container in containers {
            some_are_new |= host.mark_unpinned(&container.entry.id)?;
        }
        if !some_are_new {
            break;
        }
        thread::sleep(3 * HEEDED_EVERY);
    }
    Ok(())
}

/// Undoes what was done, and says what that was. A container that ends meanwhile has nothing left to undo.
fn unpin(host: &Host, container: &Container) -> anyhow::Result<String> {
    let cgroup = container.cgroup(&host.proc);
    let ranks = match (&host.hierarchy, &cgroup) {
        (Some(hierarchy), Some(cgroup)) => hierarchy.ranks_of(cgroup)?,
        _ => None,
    };
    if ranks.is_none() && container.members.is_empty() {
        host.forget(&container.entry.id)?;
        return Ok("has ended".to_owned());
    }
    let mut done = Vec::new();
    if let Some(ranks) = &ranks {
        let held = let_go(ranks)?;
        if held > 0 {
            done.push(format!("{held} rank cgroups removed"));
        }
    }
    let widened = widen(host, container)?;
    if widened > 0 {
        done.push(format!("{widened} threads freed"));
    }
    if let Some(cgroup) = &cgroup
        && restore(host, container, cgroup)?
    {
        done.push("cpuset restored".to_owned());
    }
    Ok(if done.is_empty() { "nothing was held".to_owned() } else { done.join(", ") })
}

/// How many rank cgroups were removed. An agent may have been about to make one.
fn let_go(ranks: &RankCgroups<'_>) -> anyhow::Result<usize> {
    let mut held = 0;
    loop {
        match ranks.let_go()?.len() {
            0 => return Ok(held),
            some if held + some > 2 * MAX_RANKS as usize => {
                anyhow::bail!("rank cgroups are made again as fast as they are removed")
            }
            some => held += some,
        }
    }
}

/// Frees the threads that were bound by affinity to exactly what was planned for their rank; how many those were.
fn widen(host: &Host, container: &Container) -> anyhow::Result<usize> {
    let all: CpuSet = (0..Cpu::LIMIT).collect();
    let mut widened = 0;
    for member in container.members.iter().filter(|member| member.held.is_none()) {
        let Some(process) = host.proc.process(member.pid)? else { continue };
        let Live::Here(environ) = process.environ()? else { continue };
        let get = |key: &str| environ.get(key).map(|value| String::from_utf8_lossy(value).into_owned());
        let Ok(Some((_, rank))) = launcher::local_rank(get) else { continue };
        let planned = container.entry.ranks.ranks.get(rank as usize).and_then(|rank| rank.cpus.as_ref());
        let Live::Here(tids) = process.threads()? else { continue };
        for tid in tids {
            if planned.is_none() || affinity::of_thread(tid)?.here().as_ref() != planned {
                continue;
            }
            match affinity::set_thread(tid, &all) {
                // All that its cpuset has: a part of all there could be.
                Ok(Live::Here(())) | Err(affinity::AffinityError::Partly { .. }) => widened += 1,
                Ok(Live::Vanished) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(widened)
}

/// Gives the container the cpuset that it had before, where it still has the planned one: whether something was written.
fn restore(host: &Host, container: &Container, cgroup: &str) -> anyhow::Result<bool> {
    let Some(hierarchy) = &host.hierarchy else { return Ok(false) };
    let (given, before) = (&container.entry.container, &container.entry.before);
    let mut written = false;
    for path in container.cgroups(cgroup) {
        let Some(cgroup) = hierarchy.cgroup(path)? else { continue };
        if !given.cpus.is_empty() && cgroup.cpus()?.as_ref() == Some(&given.cpus) {
            hierarchy
                .set_cpus(&cgroup, &before.cpus.clone().unwrap_or_default())
                .context("its cpus are not restored")?;
            written = true;
        }
        let mems = given.mems.union(&given.gpu_mems);
        if !mems.is_empty() && cgroup.mems()?.as_ref() == Some(&mems) {
            hierarchy
                .set_mems(&cgroup, &before.mems.clone().unwrap_or_default())
                .context("its nodes are not restored")?;
            written = true;
        }
    }
    Ok(written)
}
