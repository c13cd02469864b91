//! Looking at one process: everything that is read, nothing that is judged.

use std::fmt::Display;

use oarlock_core::launcher;
use oarlock_core::rankenv::{RankEntry, RankEnv};
use oarlock_core::request::MemPolicy;
use oarlock_kernel::numa_maps::{NumaMaps, Policy};
use oarlock_kernel::proc::Environ;
use oarlock_kernel::status::Status;
use oarlock_kernel::{Live, Proc, Process, ReadError};

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

/// Looks at process `pid`.
pub(super) fn look(proc: &Proc, pid: u32) -> Observed {
    let process = match proc.process(pid) {
        Ok(Some(process)) => process,
        Ok(None) => return Observed::Vanished { pid },
        Err(error) => return Observed::Unreadable { pid, why: words(&error) },
    };
    match see(&process) {
        Ok(Live::Here(seen)) => Observed::Process(Box::new(seen)),
        Ok(Live::Vanished) => Observed::Vanished { pid },
        Err(error) => Observed::Unreadable { pid, why: words(&error) },
    }
}

fn see(process: &Process) -> Result<Live<Seen>, ReadError> {
    let Live::Here(status) = process.status()? else { return Ok(Live::Vanished) };
    if status.is_zombie() {
        return Ok(Live::Vanished);
    }
    let Live::Here(environ) = process.environ()? else { return Ok(Live::Vanished) };
    let planned = planned(&environ);
    let wall = matches!(&planned, Ok(Some(planned)) if planned.entry.wall(planned.mem_policy).is_some());
    let Live::Here(tids) = process.threads()? else { return Ok(Live::Vanished) };
    let mut threads = Vec::new();
    for tid in tids {
        // A thread that has ended meanwhile has nothing that could differ.
        let Live::Here(status) = process.thread(tid)? else { continue };
        let ask = wall || tid == process.pid();
        let policy = if ask { process.thread_policy(tid)?.here().flatten() } else { None };
        threads.push(Thread { status, policy });
    }
    let pages = match process.numa_maps() {
        Ok(Live::Here(pages)) => Ok(pages),
        Ok(Live::Vanished) => return Ok(Live::Vanished),
        Err(error) => Err(words(&error)),
    };
    let (parent, name) = (status.parent, status.name);
    Ok(Live::Here(Seen { pid: process.pid(), parent, name, planned, threads, pages }))
}

/// What the environment says. Whoever wrote it may have written anything.
fn planned(environ: &Environ) -> Result<Option<Planned>, String> {
    let get = |key: &str| environ.get(key).map(|value| String::from_utf8_lossy(value).into_owned());
    let said = |error: &dyn Display| format!("its environment makes no sense: {error}");
    let Some((key, rank)) = launcher::local_rank(get).map_err(|error| said(&error))? else { return Ok(None) };
    let Some(env) = RankEnv::read(get).map_err(|error| said(&error))? else { return Ok(None) };
    match env.ranks.get(rank as usize) {
        Some(entry) => Ok(Some(Planned { rank, entry: entry.clone(), mem_policy: env.mem_policy })),
        None => Err(said(&format_args!("{key} {rank} is out of range: {} ranks were placed", env.ranks.len()))),
    }
}

/// The error and its causes on one line.
fn words(error: &ReadError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
