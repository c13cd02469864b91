//! `oarlock status`: what the ledger holds on this host, and how far the kernel holds it.

mod look;
mod text;

use std::process::ExitCode;

use clap::Args;
use oarlock_core::{CpuSet, NodeSet};
use oarlock_kernel::ledger::Source;
use serde::Serialize;

use crate::failure::Failure;
use crate::host::{HostFlags, Which};
use crate::output::{TextOrJson, print, style};

/// Shows the managed containers of this host and how many of their ranks are bound
#[derive(Debug, Args)]
#[command(after_help = "oarlock verify looks closer: at every thread and page.")]
pub(crate) struct Status {
    #[command(flatten)]
    host: HostFlags,
    /// text or json
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    format: TextOrJson,
}

/// What `status` found, in the form of `--format json`. The form is stable: fields may be added, none goes or changes its
/// meaning.
#[derive(Debug, Serialize)]
struct StatusReport {
    /// By id.
    containers: Vec<ContainerStatus>,
    /// What of the ledger makes no sense.
    problems: Vec<String>,
}

/// One managed container.
#[derive(Debug, Serialize)]
struct ContainerStatus {
    id: String,
    name: String,
    namespace: String,
    pod: String,
    uid: String,
    source: Source,
    /// `None` as long as it is not known.
    cgroup: Option<String>,
    /// Taken off by hand: nothing is held any more.
    unpinned: bool,
    /// What the container as a whole was given.
    cpus: CpuSet,
    mems: NodeSet,
    #[serde(skip_serializing_if = "NodeSet::is_empty")]
    gpu_mems: NodeSet,
    /// The CPUs that it has for itself.
    #[serde(skip_serializing_if = "CpuSet::is_empty")]
    exclusive: CpuSet,
    /// How many processes it has, ranks and others.
    processes: usize,
    ranks: Vec<RankStatus>,
    ranks_with_process: usize,
    /// Those that have a process, and all of them is within the plan.
    ranks_bound: usize,
    reasons: Vec<String>,
    warnings: Vec<String>,
}

/// One rank.
#[derive(Debug, Serialize)]
struct RankStatus {
    rank: u32,
    gpus: Vec<u32>,
    /// What was planned; `None` where it is unbound.
    cpus: Option<CpuSet>,
    mems: Option<NodeSet>,
    #[serde(skip_serializing_if = "NodeSet::is_empty")]
    gpu_mems: NodeSet,
    /// The ids of its processes.
    processes: Vec<u32>,
    /// Whether all its threads are within the planned CPUs; `None` where it has none, or none were planned.
    cpus_bound: Option<bool>,
    /// Whether all its threads get memory from behind the planned wall alone; likewise.
    mems_bound: Option<bool>,
    held_by: Option<HeldBy>,
}

/// What holds a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum HeldBy {
    /// A rank cgroup, which no process of it can leave.
    Cgroup,
    /// The affinity of its threads, which they can change.
    Affinity,
}

impl RankStatus {
    /// Whether it has a process, and is nowhere outside its plan.
    fn is_bound(&self) -> bool {
        !self.processes.is_empty() && self.cpus_bound != Some(false) && self.mems_bound != Some(false)
    }
}

impl Status {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let host = self.host.open()?;
        let found = host.find(&Which::All)?;
        let containers = found.containers.iter().map(|container| look::look(&host.proc, container)).collect();
        let report = StatusReport { containers, problems: found.problems };
        match self.format {
            TextOrJson::Text => print(&text::text(&report, style()))?,
            TextOrJson::Json => print(&serde_json::to_string(&report).map_err(anyhow::Error::new)?)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
