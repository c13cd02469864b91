//! Looking at one process: everything that is read, nothing that is judged.

use std::fmt::Display;

use oarlock_core::NodeSet;
use oarlock_core::launcher;
use oarlock_core::rankenv::{RankEntry, RankEnv};
use oarlock_core::request::MemPolicy;
use oarlock_kernel::numa_maps::{NumaMaps, Policy};
use oarlock_kernel::proc::Environ;
use oarlock_kernel::status::Status;
use oarlock_kernel::{Live, Proc, Process, ReadError, affinity};

use crate::host::chain;

/// A process as it was seen.
#[derive(Debug)]
pub(super) enum Observed {
    Process(Box<Seen>),
    /// It ended before it was seen whole.
    Vanished {
        pid: u32,
    },
    /// What of it could not be read, and why.
    Unreadable {
        pid: u32,
        why: String,
    },
}

#[derive(Debug)]
pub(super) struct Seen {
    pub(super) pid: u32,
    pub(super) parent: u32,
    pub(super) name: String,
    /// What its environment says was planned for it, or why that makes no sense.
    pub(super) planned: Result<Option<Planned>, String>,
    /// Its threads, by id: the main thread among them, unless that has ended before the others.
    pub(super) threads: Vec<Thread>,
    /// Its pages; `None` where it has no memory or the kernel does not say.
    pub(super) pages: Result<Option<NumaMaps>, String>,
    /// How many of the pages outside a planned memory wall hold its arguments and environment.
    pub(super) strings_outside: u64,
}

#[derive(Debug)]
pub(super) struct Thread {
    pub(super) status: Status,
    /// The memory policy; asked for where a memory wall was planned, and of the main thread.
    pub(super) policy: Option<Policy>,
}

/// What was planned for a rank.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub(super) rank: u32,
    pub(super) entry: RankEntry,
    pub(super) mem_policy: MemPolicy,
}

impl Planned {
    /// The nodes that its memory may be on, where it is held to some.
    pub(super) fn wall(&self) -> Option<NodeSet> {
        self.entry.wall(self.mem_policy)
    }
}

/// Who says what was planned for a process.
#[derive(Debug, Clone, Copy)]
pub(super) enum Authority<'a> {
    /// Its own environment.
    Environment,
    /// The ledger, and the rank cgroup that the process is in.
    Ledger { ranks: &'a RankEnv, held: Option<u32> },
}

/// Looks at process `pid`.
pub(super) fn look(proc: &Proc, pid: u32, authority: Authority<'_>) -> Observed {
    let process = match proc.process(pid) {
        Ok(Some(process)) => process,
        Ok(None) => return Observed::Vanished { pid },
        Err(error) => return Observed::Unreadable { pid, why: chain(&error) },
    };
    match see(&process, authority) {
        Ok(Live::Here(seen)) => Observed::Process(Box::new(seen)),
        Ok(Live::Vanished) => Observed::Vanished { pid },
        Err(error) => Observed::Unreadable { pid, why: chain(&error) },
    }
}

fn see(process: &Process, authority: Authority<'_>) -> Result<Live<Seen>, ReadError> {
    let Live::Here(status) = process.status()? else { return Ok(Live::Vanished) };
    if status.is_zombie() {
        return Ok(Live::Vanished);
    }
    // To look is not to move anything.
    let read = || process.environ();
    let environ = status.cpus_allowed.as_ref().map_or_else(read, |cpus| affinity::on(cpus, read))?;
    let Live::Here(environ) = environ else { return Ok(Live::Vanished) };
    let planned = planned(&environ, authority);
    let wall = planned.as_ref().ok().and_then(|planned| planned.as_ref()?.wall());
    let Live::Here(tids) = process.threads()? else { return Ok(Live::Vanished) };
    let mut threads = Vec::new();
    for tid in tids {
        // A thread that has ended meanwhile has nothing that could differ.
        let Live::Here(status) = process.thread(tid)? else { continue };
        let ask = wall.is_some() || tid == process.pid();
        let policy = if ask { process.thread_policy(tid)?.here().flatten() } else { None };
        threads.push(Thread { status, policy });
    }
    let pages = match process.numa_maps() {
        Ok(Live::Here(pages)) => Ok(pages),
        Ok(Live::Vanished) => return Ok(Live::Vanished),
        Err(error) => Err(chain(&error)),
    };
    // What the kernel does not tell apart counts in full.
    let strings_outside = wall.and_then(|wall| process.strings_outside(&wall).ok()?.here()).unwrap_or(0);
    let (parent, name) = (status.parent, status.name);
    Ok(Live::Here(Seen { pid: process.pid(), parent, name, planned, threads, pages, strings_outside }))
}

/// What was planned. Whoever wrote the environment may have written anything.
fn planned(environ: &Environ, authority: Authority<'_>) -> Result<Option<Planned>, String> {
    let get = |key: &str| environ.get(key).map(|value| String::from_utf8_lossy(value).into_owned());
    let said = |error: &dyn Display| format!("its environment makes no sense: {error}");
    let own = launcher::local_rank(get).map_err(|error| said(&error))?;
    match authority {
        Authority::Environment => {
            let Some((key, rank)) = own else { return Ok(None) };
            let Some(env) = RankEnv::read(get).map_err(|error| said(&error))? else { return Ok(None) };
            entry(&env, rank, key)
        }
        Authority::Ledger { ranks, held } => match (held, own) {
            (None, None) => Ok(None),
            (Some(held), Some((key, own))) if held != own => {
                Err(format!("it is held as rank {held}, and its environment says {key}={own}"))
            }
            (_, Some((key, rank))) => entry(ranks, rank, key),
            (Some(rank), None) => entry(ranks, rank, "its rank cgroup"),
        },
    }
}

/// What was planned for the rank that `key` names.
fn entry(env: &RankEnv, rank: u32, key: &str) -> Result<Option<Planned>, String> {
    let Some(entry) = env.ranks.get(rank as usize) else {
        let count = env.ranks.len();
        return Err(format!("its environment makes no sense: {key} {rank} is out of range: {count} ranks were placed"));
    };
    Ok(Some(Planned { rank, entry: entry.clone(), mem_policy: env.mem_policy }))
}
