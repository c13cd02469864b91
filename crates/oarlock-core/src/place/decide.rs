//! What becomes of one container.

use std::collections::BTreeMap;

use crate::idset::{IdSet, Kind};
use crate::ledger::Ledger;
use crate::plan::{Plan, plan};
use crate::rankenv::RankEnv;
use crate::request::{CpuMap, GpuChoice, MemMap, MemPolicy, OnFailure, PREFIX, Request};
use crate::{CpuSet, Machine, NodeSet, Refusal};

use super::Held;

/// A container, as it asks to be placed.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// The annotations of its pod.
    pub annotations: &'a BTreeMap<String, String>,
    /// Its name.
    pub name: &'a str,
    /// Its environment, of a name that is given twice the last.
    pub env: &'a BTreeMap<&'a str, &'a str>,
    /// What it holds.
    pub held: &'a Held,
    /// The number of ranks that its launcher stated once it ran.
    pub stated_ranks: Option<u32>,
    /// Whether another container of its pod is known to hold GPUs.
    pub others_hold_gpus: bool,
    /// The CPUs that kubelet or somebody else gave it; `None` where nobody gave any.
    pub cpus: Option<CpuSet>,
    /// The same for memory nodes.
    pub mems: Option<NodeSet>,
    /// What the cgroups above it leave, where that is known.
    pub within: (Option<CpuSet>, Option<NodeSet>),
    /// Its memory limit in bytes.
    pub memory_limit: Option<u64>,
    /// CPUs that the system keeps.
    pub reserved: &'a CpuSet,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is none of ours.
    Leave,
    /// It gets a place.
    Place(Box<Placement>),
    /// It runs as if we were not there, and its pod is told why.
    Unbound(Refusal),
    /// It does not start.
    Refuse(Refusal),
}

/// The place of a container and its ranks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// The CPUs of the container; `None` where they are left alone.
    pub cpus: Option<CpuSet>,
    /// Its memory nodes, with those of its GPUs; `None` where they are left alone.
    pub mems: Option<NodeSet>,
    /// Where all pages of the container are to come from first, while there are any: all its ranks prefer these nodes, and the
    /// first touch by one of their CPUs would find others. For `set_mempolicy(2)` on its first process, which all inherit.
    pub preferred_mems: Option<NodeSet>,
    /// Its ranks; none where only the container as a whole has a place.
    pub ranks: RankEnv,
    /// `OMP_NUM_THREADS`, where that was asked for and the pod does not set it.
    pub omp_threads: Option<u32>,
    /// CPUs that no other container gets.
    pub exclusive: CpuSet,
    /// Whether others are kept off `exclusive` also where they did not ask for a place.
    pub alone: bool,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// Why each rank is where it is.
    pub reasons: Vec<String>,
}

/// The kernel executes nothing with a longer variable (`MAX_ARG_STRLEN`), its name, `=` and NUL included.
const LONGEST_VARIABLE: usize = 128 << 10;

impl Placement {
    /// The environment that it adds to the container's: the ranks' places, and the number of threads. Lists of thousands of
    /// ranks that no program could be started with are left out.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = Vec::new();
        if !self.ranks.ranks.is_empty() {
            variables.extend(self.ranks.variables());
            variables.retain(|(key, value)| key.len() + value.len() + 2 <= LONGEST_VARIABLE);
        }
        variables.extend(self.omp_threads.map(|threads| ("OMP_NUM_THREADS", threads.to_string())));
        variables
    }
}

/// Decides. `ledger` is without the container's own holding.
pub fn decide(machine: &Machine, ledger: &Ledger, ask: &Ask<'_>) -> Decision {
    let annotations = ask.annotations.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let request = match Request::from_annotations(annotations) {
        Ok(request) => request.filter(|request| is_meant(request, ask)),
        Err(refusal) => return refused(asks_to_refuse(ask.annotations), refusal),
    };
    let Some(request) = request else {
        return match &ask.held.own {
            None => Decision::Leave,
            Some((cpus, nodes)) => Decision::Place(Box::new(whole_nodes(cpus, nodes))),
        };
    };
    let on_failure = request.on_failure;
    match place(machine, ledger, request, ask) {
        Ok(placement) => Decision::Place(Box::new(placement)),
        Err(refusal) => refused(on_failure == OnFailure::Refuse, refusal),
    }
}

fn refused(for_good: bool, refusal: Refusal) -> Decision {
    if for_good { Decision::Refuse(refusal) } else { Decision::Unbound(refusal) }
}

/// Whether the pod wants no container that is not placed: known also where the rest of its annotations makes no sense.
pub fn asks_to_refuse(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(&format!("{PREFIX}on-failure")).is_some_and(|value| value.trim() == "refuse")
}

/// The containers named, else those that hold GPUs, else all.
fn is_meant(request: &Request, ask: &Ask<'_>) -> bool {
    match &request.containers {
        Some(names) => names.iter().any(|name| name == ask.name),
        None => ask.held.has_gpus() || !ask.others_hold_gpus,
    }
}

fn place(machine: &Machine, ledger: &Ledger, mut request: Request, ask: &Ask<'_>) -> Result<Placement, Refusal> {
    let extended = ask.held.on(machine);
    let (machine, gpus) = match &extended {
        Some((machine, gpus)) => (machine, gpus.clone()),
        None => (machine, ask.held.gpus.clone()),
    };
    // Also where there are none: the machine's others are not the container's.
    request.gpus = GpuChoice::Some(gpus);
    request.ranks =
        request.ranks.or(ask.stated_ranks).or_else(|| Request::ranks_from_env(|key| ask.env.get(key).copied()));
    request.memory_limit = ask.memory_limit;
    // kubelet has left the system's CPUs out of what it gives.
    if ask.cpus.is_none() {
        request.reserved_cpus = ask.reserved.clone();
    }
    request.allowed_cpus = meet(ask.cpus.as_ref(), ask.within.0.as_ref());
    request.allowed_mems = meet(ask.mems.as_ref(), ask.within.1.as_ref());
    if let Some((cpus, nodes)) = &ask.held.own {
        request.allowed_cpus = Some(cpus.clone());
        request.allowed_mems = Some(nodes.clone());
    }
    let plan = plan(machine, ledger, &request)?;
    let mut placement = of_plan(&plan, &request);
    placement.preferred_mems = preferred_mems(machine, &plan, &request);
    if let Some((cpus, nodes)) = &ask.held.own {
        let whole = whole_nodes(cpus, &nodes.union(&plan.container.gpu_mems));
        placement =
            Placement { cpus: whole.cpus, mems: whole.mems, exclusive: whole.exclusive, alone: true, ..placement };
    }
    if ask.env.contains_key("OMP_NUM_THREADS") {
        placement.omp_threads = None;
    }
    let unknown =
        ask.held.unknown.iter().map(|name| format!("the environment names gpu {name:?}, which this host lacks"));
    placement.warnings.extend(unknown.take(8));
    Ok(placement)
}

fn of_plan(plan: &Plan, request: &Request) -> Placement {
    let exclusive = request.cpu_map == CpuMap::Exclusive;
    let walled = request.mem_map != MemMap::None && request.mem_policy == MemPolicy::Bind;
    let bound = plan.ranks.iter().filter_map(|rank| rank.cpus.as_ref());
    let held = bound.fold(CpuSet::new(), |held, cpus| held.union(cpus));
    Placement {
        cpus: (request.cpu_map != CpuMap::None).then(|| plan.container.cpus.clone()),
        mems: walled.then(|| plan.container.mems.union(&plan.container.gpu_mems)),
        preferred_mems: None,
        ranks: RankEnv::from(plan),
        // One variable for all ranks: none may have more threads than cores.
        omp_threads: plan.ranks.iter().filter_map(|rank| rank.omp_threads).min(),
        exclusive: if exclusive { held } else { CpuSet::new() },
        alone: false,
        warnings: plan.warnings.iter().map(ToString::to_string).collect(),
        reasons: plan.ranks.iter().map(|rank| rank.reason.to_string()).collect(),
    }
}

/// A memory policy is one for the whole container: ranks that prefer different nodes have none, and need none where their
/// CPUs are near.
fn preferred_mems(machine: &Machine, plan: &Plan, request: &Request) -> Option<NodeSet> {
    if request.mem_policy != MemPolicy::Preferred {
        return None;
    }
    let mems = plan.ranks.first()?.mems.as_ref().filter(|mems| !mems.is_empty())?;
    let mut ranks = plan.ranks.iter();
    let all_alike = ranks.all(|rank| rank.mems.as_ref() == Some(mems));
    let touched_elsewhere =
        |cpus: &CpuSet| machine.nodes.iter().any(|n| n.cpus.intersects(cpus) && !mems.contains(n.id));
    let is_needed = plan.ranks.iter().any(|rank| touched_elsewhere(rank.cpus.as_ref().unwrap_or(&plan.container.cpus)));
    (all_alike && is_needed).then(|| mems.clone())
}

fn whole_nodes(cpus: &CpuSet, nodes: &NodeSet) -> Placement {
    Placement {
        cpus: Some(cpus.clone()),
        mems: Some(nodes.clone()),
        exclusive: cpus.clone(),
        alone: true,
        ..Placement::default()
    }
}

/// Both bounds, of which either may be absent.
fn meet<K: Kind>(one: Option<&IdSet<K>>, other: Option<&IdSet<K>>) -> Option<IdSet<K>> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.intersection(other)),
        (one, other) => one.or(other).cloned(),
    }
}
