//! The report, in the form of `--format json`. The form is stable: fields may be added, none goes or changes its meaning.
//!
//! ```json
//! {"as_planned":false,
//!  "processes":[
//!   {"pid":4100,"parent":4099,"name":"python","status":"not_as_planned","rank":0,"gpus":[0],
//!    "planned":{"cpus":"0-3","mems":"0","mem_policy":"bind"},
//!    "cpus":"0-7","mems":"0","policy":"bind:0",
//!    "threads":[{"tid":4100,"name":"python","cpus":"0-3","mems":"0-1","policy":"bind:0"},
//!               {"tid":4107,"name":"pt_data","cpus":"0-7","mems":"0-1","policy":"bind:0"}],
//!    "pages":[{"node":0,"anon_pages":16384,"anon_kib":65536,"file_pages":210,"file_kib":840}],
//!    "mixed_anon_kib":0,"near_nodes":"0","locality_percent":100.0,
//!    "notes":[],
//!    "problems":["thread 4107 (pt_data) may run on cpus 0-7; planned are 0-3"]}]}
//! ```
//!
//! Where containers were asked for, each process has its `"container"` beside its pid, and before the processes stands
//!
//! ```json
//! "containers":[{"id":"4e2f","name":"trainer","namespace":"ml","pod":"job-worker-0","ranks":8,
//!                "ranks_without_process":[7],"unpinned":false}]
//! ```

use oarlock_core::request::MemPolicy;
use oarlock_core::{CpuSet, NodeSet};
use serde::Serialize;

/// What `verify` found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Whether no process has a problem.
    pub(super) as_planned: bool,
    /// The containers asked for. Left out where processes were.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) containers: Vec<ContainerReport>,
    /// The processes asked for, each followed by its descendants; or those of the containers, by id.
    pub(super) processes: Vec<ProcessReport>,
    /// What of the ledger makes no sense, so that nothing is proven of it. Left out where that is nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) problems: Vec<String>,
}

/// One managed container.
#[derive(Debug, Serialize)]
pub(super) struct ContainerReport {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) pod: String,
    /// How many ranks were planned.
    pub(super) ranks: usize,
    /// Those that no process says to be, or is held as: not started, or ended.
    pub(super) ranks_without_process: Vec<u32>,
    /// Taken off by hand: nothing is planned any more.
    pub(super) unpinned: bool,
}

/// One process.
#[derive(Debug, Default, Serialize)]
pub(super) struct ProcessReport {
    pub(super) pid: u32,
    /// The id of its container, where containers were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) container: Option<String>,
    /// Its parent's process id.
    pub(super) parent: Option<u32>,
    /// Its name, as `/proc/PID/status` has it.
    pub(super) name: String,
    pub(super) status: Standing,
    /// Its local rank, where one was placed.
    pub(super) rank: Option<u32>,
    /// The machine's indices of the rank's GPUs.
    pub(super) gpus: Vec<u32>,
    /// What was planned for the rank.
    pub(super) planned: Option<PlannedReport>,
    /// The CPUs that any of its threads may run on.
    pub(super) cpus: Option<CpuSet>,
    /// The nodes that any of its threads may get memory from: what its cpuset allows, within the thread's memory policy
    /// where that binds and was looked at.
    pub(super) mems: Option<NodeSet>,
    /// The main thread's memory policy, as the kernel prints it.
    pub(super) policy: Option<String>,
    /// All its threads.
    pub(super) threads: Vec<ThreadReport>,
    /// Its pages by node.
    pub(super) pages: Vec<NodeReport>,
    /// Anonymous memory, in KiB, in mappings where the kernel does not tell anonymous from file pages by node. It is not in
    /// `pages`, and counts as far away only as far as it cannot be near.
    pub(super) mixed_anon_kib: u64,
    /// The nodes that count as near: those planned for memory, else those of the planned CPUs, else those of the allowed
    /// CPUs.
    pub(super) near_nodes: Option<NodeSet>,
    /// The share of its anonymous memory that is on the near nodes; null where it has none or the near nodes are unknown.
    pub(super) locality_percent: Option<f64>,
    /// What is other than planned and allowed to be.
    pub(super) notes: Vec<String>,
    /// What is other than planned.
    pub(super) problems: Vec<String>,
}

/// How a process stands to its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Standing {
    AsPlanned,
    NotAsPlanned,
    /// Nothing was planned for it.
    #[default]
    Unplanned,
    /// It ended before it was seen whole.
    Vanished,
    /// It cannot be seen whole, so that nothing is proven: counts as not as planned.
    Unreadable,
}

/// What was planned for a rank; null where it is unbound.
#[derive(Debug, Serialize)]
pub(super) struct PlannedReport {
    pub(super) cpus: Option<CpuSet>,
    pub(super) mems: Option<NodeSet>,
    #[serde(skip_serializing_if = "NodeSet::is_empty")]
    pub(super) gpu_mems: NodeSet,
    pub(super) mem_policy: MemPolicy,
}

/// One thread.
#[derive(Debug, Serialize)]
pub(super) struct ThreadReport {
    pub(super) tid: u32,
    pub(super) name: String,
    /// `Cpus_allowed_list`.
    pub(super) cpus: Option<CpuSet>,
    /// `Mems_allowed_list`: what the cpuset allows.
    pub(super) mems: Option<NodeSet>,
    /// Its memory policy, where that was looked at.
    pub(super) policy: Option<String>,
}

/// The pages of a process on one node. A transparent huge page counts as its 4 KiB parts.
#[derive(Debug, Serialize)]
pub(super) struct NodeReport {
    pub(super) node: u32,
    pub(super) anon_pages: u64,
    pub(super) anon_kib: u64,
    /// Pages of files and of shared memory.
    pub(super) file_pages: u64,
    pub(super) file_kib: u64,
}

impl Report {
    pub(super) fn of_processes(processes: Vec<ProcessReport>) -> Self {
        Self::of_containers(Vec::new(), processes, Vec::new())
    }

    pub(super) fn of_containers(
        containers: Vec<ContainerReport>,
        processes: Vec<ProcessReport>,
        problems: Vec<String>,
    ) -> Self {
        let as_planned = problems.is_empty() && processes.iter().all(|process| process.problems.is_empty());
        Self { as_planned, containers, processes, problems }
    }
}
