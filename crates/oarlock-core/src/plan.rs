//! `plan`: the one decision. The agent, the hook and the command line all ask here.
//!
//! In order: what is allowed (`plan::ground`), which GPUs each rank drives (`plan::seats`), where that puts its CPUs (`plan::cpus`),
//! and then its memory (`plan::mems`).

mod cpus;
mod ground;
mod mems;
mod seats;

use serde::Serialize;

use crate::explain::{Reason, Warning};
use crate::idset::{CpuSet, NodeSet};
use crate::ledger::Ledger;
use crate::machine::Machine;
use crate::refusal::Refusal;
use crate::request::{CpuMap, MemMap, MemPolicy, OmpThreads, OnFailure, Request, Smt};

use cpus::CoreTable;
use ground::Ground;
use seats::Seat;

/// The answer: a placement per rank, and one for the container as a whole. Serialises to the form of
/// `oarlock plan --format json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The machine's name.
    pub machine: String,
    /// The CPU map asked for.
    pub cpu_map: String,
    /// The memory map asked for.
    pub mem_map: String,
    /// The memory policy asked for.
    pub mem_policy: MemPolicy,
    /// The container as a whole.
    pub container: ContainerPlan,
    /// Its ranks, from 0.
    pub ranks: Vec<RankPlan>,
    /// What a person should know.
    pub warnings: Vec<Warning>,
}

/// What the container as a whole gets: the union over its ranks, or all that is allowed where a rank is unbound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContainerPlan {
    /// Its CPUs.
    pub cpus: CpuSet,
    /// Its memory nodes.
    pub mems: NodeSet,
    /// GPU memory nodes that stay allowed beside `mems`.
    #[serde(skip_serializing_if = "NodeSet::is_empty")]
    pub gpu_mems: NodeSet,
}

/// What one rank gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RankPlan {
    /// The local rank.
    pub rank: u32,
    /// The machine's indices of its GPUs.
    pub gpus: Vec<u32>,
    /// Its CPUs; `None` for a rank that stays unbound.
    pub cpus: Option<CpuSet>,
    /// The nodes that these CPUs are on.
    pub cpu_nodes: NodeSet,
    /// Its memory nodes; `None` where its memory stays unbound. Under [`MemPolicy::Preferred`] these are the near nodes,
    /// and the others stay allowed.
    pub mems: Option<NodeSet>,
    /// The memory nodes of its own GPUs, which stay allowed beside `mems`.
    #[serde(skip_serializing_if = "NodeSet::is_empty")]
    pub gpu_mems: NodeSet,
    /// What `OMP_NUM_THREADS` becomes, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub omp_threads: Option<u32>,
    /// Why this placement.
    pub reason: Reason,
}

/// Plans the ranks of one container. Pure: the same three values always give the same answer.
///
/// The machine is one that [`Machine::checked`] accepted. A rank whose place cannot be known stays unbound, with a
/// warning; a request that cannot be met as written is refused.
pub fn plan(machine: &Machine, ledger: &Ledger, request: &Request) -> Result<Plan, Refusal> {
    let ground = Ground::new(machine, ledger, request)?;
    let seats = seats::seats(machine, request)?;
    let mut warnings = ground.warnings(request);
    warnings.extend(seats::warnings(machine, request, &seats));

    let cores = CoreTable::new(machine);
    let uses_cores =
        request.cpu_map == CpuMap::Exclusive || request.smt == Smt::One || request.omp_threads == OmpThreads::Auto;
    if uses_cores && machine.cores_assumed {
        warnings.push(Warning::CoresAssumed);
    }
    let mut places = cpus::places(&ground, &seats, request, &mut warnings)?;
    if request.smt == Smt::One && request.cpu_map != CpuMap::None {
        let cores = cores.as_ref().ok_or_else(|| ground.missing("smt", "one", "cores"))?;
        for place in &mut places {
            place.cpus = place.cpus.take().map(|cpus| cores.one_thread_each(&cpus));
        }
    }
    let omp = |cpus: Option<&CpuSet>| match request.omp_threads {
        OmpThreads::None => None,
        OmpThreads::Count(threads) => Some(threads),
        OmpThreads::Auto => Some(cores.as_ref()?.count(cpus?)),
    };
    if request.omp_threads == OmpThreads::Auto && cores.is_none() {
        warnings.push(Warning::CoresUnknown);
    }

    let mems = mems::mems(&ground, &seats, &places, request, &mut warnings)?;
    let gpu_mems = ground.gpu_mems_of(&seats);
    let ranks: Vec<RankPlan> = seats
        .iter()
        .zip(places)
        .zip(mems)
        .map(|((seat, place), mems)| RankPlan {
            rank: seat.rank,
            gpus: seat.gpus.iter().map(|gpu| gpu.index).collect(),
            cpu_nodes: place.cpus.as_ref().map(|cpus| ground.nodes_of(cpus)).unwrap_or_default(),
            gpu_mems: if mems.is_some() { ground.gpu_mems(seat, &gpu_mems) } else { NodeSet::new() },
            omp_threads: omp(place.cpus.as_ref()),
            cpus: place.cpus,
            mems,
            reason: place.reason,
        })
        .collect();
    refuse_unbound(&ranks, &warnings, request)?;
    let container = container(&ground, &ranks, request);
    Ok(Plan {
        machine: machine.name.clone(),
        cpu_map: request.cpu_map.to_string(),
        mem_map: request.mem_map.to_string(),
        mem_policy: request.mem_policy,
        container,
        ranks,
        warnings,
    })
}

/// With `on-failure: refuse` a rank that would stay unbound is a refusal.
fn refuse_unbound(ranks: &[RankPlan], warnings: &[Warning], request: &Request) -> Result<(), Refusal> {
    if request.on_failure != OnFailure::Refuse {
        return Ok(());
    }
    let unbound = |rank: &&RankPlan| {
        (request.cpu_map != CpuMap::None && rank.cpus.is_none())
            || (request.mem_map != MemMap::None && rank.mems.is_none())
    };
    match ranks.iter().find(unbound) {
        None => Ok(()),
        Some(rank) => {
            let why = warnings.iter().find(|warning| warning.leaves_unbound(rank.rank));
            let why = why.map_or_else(|| rank.reason.to_string(), ToString::to_string);
            Err(Refusal::new("on-failure", "refuse", "with refuse, every rank is bound or nothing starts", why))
        }
    }
}

/// The union over the ranks, where every rank is bound; else all that is allowed. Helpers and the launcher live there.
fn container(ground: &Ground<'_>, ranks: &[RankPlan], request: &Request) -> ContainerPlan {
    let mut cpus = CpuSet::new();
    let mut mems = NodeSet::new();
    let mut gpu_mems = NodeSet::new();
    for rank in ranks {
        cpus.extend(rank.cpus.as_ref().unwrap_or(&ground.cpus));
        mems.extend(rank.mems.as_ref().unwrap_or(&ground.mems));
        gpu_mems.extend(&rank.gpu_mems);
    }
    let walled = request.mem_map != MemMap::None
        && request.mem_policy == MemPolicy::Bind
        && ranks.iter().all(|rank| rank.mems.is_some());
    if !walled {
        mems = ground.mems.clone();
        gpu_mems = ground.gpu_memory_nodes();
    }
    ContainerPlan { cpus, mems, gpu_mems }
}
