//! `plan`: the one decision.

use serde::Serialize;

use crate::idset::{CpuSet, NodeSet};
use crate::ledger::Ledger;
use crate::machine::Machine;
use crate::refusal::Refusal;
use crate::request::Request;

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
    pub mem_policy: String,
    /// The container as a whole.
    pub container: ContainerPlan,
    /// Its ranks, from 0.
    pub ranks: Vec<RankPlan>,
    /// What a person should know, in words.
    pub warnings: Vec<String>,
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
    /// Its memory nodes; `None` where its memory stays unbound. Under the policy `preferred` these are the near nodes, and
    /// the others stay allowed.
    pub mems: Option<NodeSet>,
    /// The memory nodes of its own GPUs, which stay allowed beside `mems`.
    #[serde(skip_serializing_if = "NodeSet::is_empty")]
    pub gpu_mems: NodeSet,
    /// What `OMP_NUM_THREADS` becomes, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub omp_threads: Option<u32>,
    /// Why this placement, in words.
    pub reason: String,
}

/// Plans the ranks of one container. Pure: the same three values always give the same answer.
pub fn plan(machine: &Machine, ledger: &Ledger, request: &Request) -> Result<Plan, Refusal> {
    let _ = (machine, ledger, request);
    unreachable!("the planner is written next")
}
