//! Ranks found and held: what the binder's thread does, a step at a time.

mod check;
mod unnamed;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

use oarlock_core::CpuSet;
use oarlock_kernel::cgroup::Hierarchy;
use oarlock_kernel::rank_cgroup::{RankCgroupError, Wall, rank_at};
use oarlock_kernel::{Live, Proc, Process, ReadError, affinity};
use tokio::sync::mpsc::UnboundedSender;

use super::memory;
use super::numactl;
use super::ward::{Finding, Oddity, Ward, asked};

/// How long one look over a container's processes may take; what is left is looked at the next time.
const LONGEST_SWEEP: Duration = Duration::from_millis(50);
/// Different things that are said of one container; a hostile one has no end of them.
const MOST_SAID: usize = 16;
/// No number and no list of GPUs is longer; a variable may hold megabytes.
const LONGEST_VALUE: usize = 1 << 16;

/// What the binder has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// A rank is held.
    Bound { id: String, rank: u32, place: u32, pid: u32, known_by: KnownBy, how: How, took: Option<Duration> },
    /// A rank's process has ended.
    Ended { id: String, rank: u32 },
    /// A container is no longer looked after.
    Gone { id: String },
    /// A rank is not held, and why; once for each reason.
    Unbound { id: String, why: String },
    /// The launcher starts another number of ranks than was planned.
    OtherCount { id: String, stated: u32 },
    /// Somebody else changed the wall of a rank, which was put back.
    Drifted { id: String, rank: u32, what: String },
    /// A rank bound itself to a part of its place. It is not fought.
    BoundItself { id: String, rank: u32, cpus: CpuSet },
    /// The launcher binds its ranks itself, in this mode of its own. Once for each mode.
    LauncherBinds { id: String, mode: &'static str },
    /// The container does not have what was planned: kubelet or somebody else gave it another cpuset.
    Outside { id: String },
}

/// How it is known that a process is the rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KnownBy {
    /// By what its launcher wrote into its environment.
    Environment,
    /// By the GPUs that it uses, as NVML says.
    Gpu,
    /// By the order in which the ranks were started.
    Order,
}

/// How a rank is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum How {
    /// By a cgroup of its own: CPUs and memory, whatever it does.
    Cgroup,
    /// By a cgroup of its own that holds its CPUs. Its memory stays where it was.
    CgroupOfCpus,
    /// By the affinity of its threads: its memory is not enforced.
    Affinity,
}

/// A ward, and what is known of its processes.
#[derive(Debug)]
struct State {
    ward: Ward,
    /// The process of each rank that is held, and whose place it has.
    bound: BTreeMap<u32, Bound>,
    /// Processes that were looked at and are no ranks.
    others: BTreeSet<u32>,
    said: BTreeSet<String>,
    /// Since when it is looked after.
    since: Instant,
    /// Whether a process has called itself a rank, planned or not: then those that do not are none.
    is_named: bool,
    /// Those among `others` whose order was looked at.
    ordered: BTreeSet<u32>,
    /// How many ranks were found by their exec since the last sweep.
    heard: usize,
    /// Whether the last sweep was cut short: the next one goes on where it ended.
    is_cut: bool,
    /// Whether its ranks are held by affinity, since it cannot have rank cgroups.
    by_affinity: bool,
}

/// A rank that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound {
    pid: u32,
    place: u32,
    /// Whether its memory stays where it is.
    stays: bool,
    /// How often pages are still sent after it.
    gatherings: u8,
}

/// The binder without its thread.
#[derive(Debug)]
pub(crate) struct Binding {
    proc: Proc,
    hierarchy: Option<Hierarchy>,
    wards: BTreeMap<String, State>,
    /// The ward of each cgroup.
    at: HashMap<String, String>,
    /// Whether NVML has told which processes use the GPUs.
    nvml_tells: bool,
    tell: UnboundedSender<Told>,
}

impl Binding {
    /// Opens `/proc` and the cgroup tree below `host_root`. Without cgroup v2 ranks are held by affinity.
    pub(crate) fn open(host_root: &Path, tell: UnboundedSender<Told>) -> Result<Self, ReadError> {
        let mut proc = Proc::open(&host_root.join("proc"))?;
        let hierarchy = match Hierarchy::open(&host_root.join("sys/fs/cgroup")) {
            Ok(hierarchy) => hierarchy,
            Err(error) => {
                tracing::warn!("no cgroup v2 tree, so that ranks are held by affinity only: {error}");
                None
            }
        };
        if let Some(tree) = &hierarchy {
            proc = proc.with_whole_paths(tree)?;
        }
        Ok(Self { proc, hierarchy, wards: BTreeMap::new(), at: HashMap::new(), nvml_tells: false, tell })
    }

    /// Holds the ranks of this container from now on, or holds them to another plan.
    pub(crate) fn keep(&mut self, ward: Ward) {
        let id = ward.id.clone();
        self.drop_ward(&id);
        self.at.insert(ward.cgroup.clone(), id.clone());
        let state = State {
            ward,
            bound: BTreeMap::new(),
            others: BTreeSet::new(),
            said: BTreeSet::new(),
            since: Instant::now(),
            is_named: false,
            ordered: BTreeSet::new(),
            heard: 0,
            is_cut: false,
            by_affinity: self.hierarchy.is_none(),
        };
        self.wards.insert(id.clone(), state);
        self.sweep(&id);
        self.check(&id);
    }

    /// The container is gone, or is no longer to be held.
    pub(crate) fn forget(&mut self, id: &str) {
        if self.drop_ward(id) {
            let _ = self.tell.send(Told::Gone { id: id.to_owned() });
        }
    }

    fn drop_ward(&mut self, id: &str) -> bool {
        let state = self.wards.remove(id);
        state.is_some_and(|state| self.at.remove(&state.ward.cgroup).is_some())
    }

    /// A process has executed a program, so long ago.
    pub(crate) fn executed(&mut self, pid: u32, age: impl Fn() -> Option<Duration>) {
        if self.wards.is_empty() {
            return;
        }
        let Some(process) = self.process(pid) else { return };
        let Some(place) = place_of(&process) else { return };
        let Some(id) = self.ward_at(&place) else { return };
        // To move a process the kernel stops all others that fork or end. No job has so many new ranks at once.
        if self.wards.get(&id).is_some_and(|state| state.heard > 2 * state.ward.ranks.ranks.len() + 8) {
            return;
        }
        self.look(&id, &process, &place, &age);
    }

    /// Looks at all processes of all wards. `all`: also at those that were no ranks the last time.
    pub(crate) fn sweep_all(&mut self, all: bool) {
        for id in self.wards.keys().cloned().collect::<Vec<_>>() {
            if all && let Some(state) = self.wards.get_mut(&id).filter(|state| !state.is_cut) {
                state.others.clear();
            }
            self.sweep(&id);
        }
    }

    /// Looks at the processes of one ward.
    fn sweep(&mut self, id: &str) {
        let Some(cgroup) = self.wards.get(id).map(|state| state.ward.cgroup.clone()) else { return };
        let Some(pids) = self.processes_in(&cgroup) else { return };
        let began = Instant::now();
        let mut is_cut = false;
        for &pid in &pids {
            let Some(state) = self.wards.get(id) else { return };
            if state.others.contains(&pid) || state.bound.values().any(|bound| bound.pid == pid) {
                continue;
            }
            if began.elapsed() > LONGEST_SWEEP {
                is_cut = true;
                break;
            }
            if let Some(process) = self.process(pid)
                && let Some(place) = place_of(&process)
                && is_below(&place, &cgroup)
            {
                self.look(id, &process, &place, &|| None);
            }
        }
        let Some(state) = self.wards.get_mut(id) else { return };
        (state.is_cut, state.heard) = (is_cut, 0);
        let here: BTreeSet<u32> = pids.into_iter().collect();
        state.others.retain(|pid| here.contains(pid));
        let ended: Vec<u32> =
            state.bound.iter().filter(|(_, bound)| !here.contains(&bound.pid)).map(|(&rank, _)| rank).collect();
        for rank in ended {
            state.bound.remove(&rank);
            let _ = self.tell.send(Told::Ended { id: id.to_owned(), rank });
        }
        for bound in state.bound.values_mut().filter(|bound| bound.gatherings > 0) {
            bound.gatherings -= 1;
            let mems = state.ward.wall(bound.place).and_then(|wall| wall.mems);
            if let (Some(hierarchy), Some(mems)) = (&self.hierarchy, mems)
                && let Ok(Some(process)) = self.proc.process(bound.pid)
            {
                memory::gather(hierarchy, &cgroup, &mems, &process);
            }
        }
    }

    /// The processes below a container's cgroup. Of one with sub-cgroups of its own, those in them too.
    fn processes_in(&self, cgroup: &str) -> Option<Vec<u32>> {
        let Some(hierarchy) = &self.hierarchy else {
            let is_here = |pid: &u32| {
                self.process(*pid).and_then(|process| place_of(&process)).is_some_and(|place| is_below(&place, cgroup))
            };
            return Some(self.proc.pids().ok()?.into_iter().filter(is_here).collect());
        };
        match hierarchy.cgroup(cgroup).and_then(|cgroup| cgroup.map_or(Ok(None), |cgroup| cgroup.processes_below())) {
            Ok(pids) => pids,
            Err(error) => {
                tracing::debug!("cannot list the processes of a container: {error}");
                None
            }
        }
    }

    fn process(&self, pid: u32) -> Option<Process> {
        self.proc.process(pid).ok().flatten()
    }

    /// The ward whose cgroup this is, or is below.
    fn ward_at(&self, place: &str) -> Option<String> {
        let mut place = place;
        loop {
            if let Some(id) = self.at.get(place) {
                return Some(id.clone());
            }
            place = place.rsplit_once('/').map(|(above, _)| above).filter(|above| !above.is_empty())?;
        }
    }

    fn look(&mut self, id: &str, process: &Process, place: &str, age: &dyn Fn() -> Option<Duration>) {
        let Some(state) = self.wards.get_mut(id) else { return };
        let environ = match process.environ() {
            Ok(Live::Here(environ)) => environ,
            Ok(Live::Vanished) => return,
            Err(error) => {
                let why = format!("{:#}", anyhow::Error::new(error));
                state.say(&self.tell, why);
                return;
            }
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST_VALUE)]).into_owned();
        let variables: Vec<_> = environ.get_all(&asked()).into_iter().map(|(key, value)| (key, text(value))).collect();
        let text = |key: &str| Some(variables.iter().find(|(name, _)| *name == key)?.1.clone());
        match state.ward.find(process.pid(), text) {
            Finding::NoRank => drop(state.others.insert(process.pid())),
            Finding::Odd(oddity) => {
                state.is_named = true;
                state.others.insert(process.pid());
                match oddity {
                    // It may be planned for yet: whoever plans says so where it cannot.
                    Oddity::OtherCount { stated, .. } if state.has_room_for(&oddity.to_string()) => {
                        state.said.insert(oddity.to_string());
                        let _ = self.tell.send(Told::OtherCount { id: id.to_owned(), stated });
                    }
                    Oddity::OtherCount { .. } => {}
                    _ => state.say(&self.tell, oddity.to_string()),
                }
            }
            Finding::Rank { rank, place: whose } => {
                state.is_named = true;
                self.bind(id, (rank, whose), KnownBy::Environment, process, place, age);
            }
        }
    }

    /// Holds a process as a rank, at the place of one.
    fn bind(
        &mut self,
        id: &str,
        (rank, whose): (u32, u32),
        known_by: KnownBy,
        process: &Process,
        place: &str,
        age: &dyn Fn() -> Option<Duration>,
    ) {
        let Some(state) = self.wards.get_mut(id) else { return };
        let Some(mut wall) = state.ward.wall(whose) else {
            state.others.insert(process.pid());
            return;
        };
        let arguments = process.arguments().ok().and_then(Live::here).unwrap_or_default();
        if numactl::is_numactl(&arguments) {
            return;
        }
        let held_already = rank_at(&state.ward.cgroup, place) == Some(rank);
        // What a rank starts has its environment and its cgroup.
        if held_already && state.bound.get(&rank).is_some_and(|bound| bound.pid != process.pid()) {
            state.others.insert(process.pid());
            return;
        }
        let mut stays = false;
        let how = match self.hierarchy.as_ref().filter(|_| !state.by_affinity) {
            Some(hierarchy) => match hold(hierarchy, &self.proc, &state.ward.cgroup, rank, &wall, process) {
                Ok(Live::Here(all)) => {
                    stays = !all;
                    if all { How::Cgroup } else { How::CgroupOfCpus }
                }
                Ok(Live::Vanished) => return,
                Err(RankCgroupError::NotGiven { .. }) => {
                    let _ = self.tell.send(Told::Outside { id: id.to_owned() });
                    return;
                }
                Err(error @ RankCgroupError::CannotHold { .. }) => {
                    state.by_affinity = true;
                    let why = anyhow::Error::new(error);
                    state.say(
                        &self.tell,
                        format!("ranks are held by affinity, and their memory is not enforced: {why:#}"),
                    );
                    How::Affinity
                }
                Err(error) => {
                    let why = anyhow::Error::new(error);
                    state.say(&self.tell, format!("rank {rank} is not held: {why:#}"));
                    return;
                }
            },
            None => How::Affinity,
        };
        if how == How::Affinity {
            let Some(cpus) = &wall.cpus else {
                state.say(&self.tell, format!("rank {rank} is not held: its memory can be enforced by a cgroup only"));
                return;
            };
            match affinity::set_process(process, cpus) {
                Ok(Live::Here(_)) => {}
                Ok(Live::Vanished) => return,
                Err(error) => {
                    let why = anyhow::Error::new(error);
                    state.say(&self.tell, format!("rank {rank} is not held: {why:#}"));
                    return;
                }
            }
        }
        if !held_already {
            state.heard += 1;
        }
        if stays {
            wall.mems = None;
            let why = format!("rank {rank} had too much memory to be moved when it was found: only its cpus are held");
            state.say(&self.tell, why);
        }
        let gatherings = if held_already || wall.mems.is_none() { 0 } else { memory::GATHERINGS };
        let bound = Bound { pid: process.pid(), place: whose, stays, gatherings };
        if state.bound.insert(rank, bound).is_none_or(|old| (old.pid, old.place) != (bound.pid, bound.place)) {
            let took = if held_already { None } else { age() };
            state.others.remove(&bound.pid);
            let (id, pid) = (id.to_owned(), bound.pid);
            let _ = self.tell.send(Told::Bound { id: id.clone(), rank, place: whose, pid, known_by, how, took });
            let launcher = launcher_of(&self.proc, process).unwrap_or_default();
            if let Some(mode) = numactl::mode_of(&launcher, &arguments)
                && state.said.insert(format!("itself {mode}"))
            {
                let _ = self.tell.send(Told::LauncherBinds { id, mode });
            }
        }
    }
}

impl State {
    fn has_room_for(&self, what: &str) -> bool {
        self.said.len() < MOST_SAID && !self.said.contains(what)
    }

    /// Tells why a rank is not held, once.
    fn say(&mut self, tell: &UnboundedSender<Told>, why: String) {
        if self.has_room_for(&why) {
            self.said.insert(why.clone());
            let _ = tell.send(Told::Unbound { id: self.ward.id.clone(), why });
        }
    }
}

/// Makes the rank's wall, and takes the process in. Whether its memory is held too.
fn hold(
    hierarchy: &Hierarchy,
    proc: &Proc,
    cgroup: &str,
    rank: u32,
    wall: &Wall,
    process: &Process,
) -> Result<Live<bool>, RankCgroupError> {
    let Some(ranks) = hierarchy.ranks_of(cgroup)? else { return Ok(Live::Vanished) };
    let stays = memory::stays(&ranks, rank, wall, process)?;
    let cpus_only = Wall { cpus: wall.cpus.clone(), mems: None };
    if ranks.hold(rank, if stays { &cpus_only } else { wall })? == Live::Vanished {
        return Ok(Live::Vanished);
    }
    Ok(match ranks.take(rank, process, proc)? {
        Live::Here(()) => Live::Here(!stays),
        Live::Vanished => Live::Vanished,
    })
}

/// The arguments of the process that started this one.
fn launcher_of(proc: &Proc, process: &Process) -> Option<Vec<Vec<u8>>> {
    let parent = process.status().ok()?.here()?.parent;
    proc.process(parent).ok()??.arguments().ok()?.here()
}

fn place_of(process: &Process) -> Option<String> {
    process.cgroup().ok()?.here()??.unified
}

fn is_below(place: &str, cgroup: &str) -> bool {
    place.strip_prefix(cgroup).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests;
