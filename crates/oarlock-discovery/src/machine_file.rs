//! The machine file: one machine as JSON, as `oarlock capture` writes it and as people write it from what a source states.
//!
//! `nodes[]` has `id`, `cpulist`, `memory_mb`; `gpus[]` has `index`, `pci`, `numa_node`, `cpu_affinity`; `smt`,
//! `cpus_total`, `distances` and `link_matrix` describe the whole. Every field but the nodes' ids may be null. What is missing is derived
//! where one fact implies it, else the file is refused with what is missing. Captured files also have `cores`, `l3`,
//! `packages`, `devices` and more per GPU; those count before anything derived. Unknown fields are kept.

mod derive;
mod fields;
mod gpus;
mod links;
mod read;
mod write;

use std::path::Path;

use oarlock_core::machine::Contradiction;
use oarlock_core::{CpuSet, NodeSet};

use crate::{DiscoveryError, Found};

pub use write::write;

/// The largest machine file that is read, in MiB.
pub const LIMIT_MIB: u64 = 16;

/// The rule that a machine file breaks.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No JSON, or something after it; the cause names line and column.
    #[error("not a JSON document")]
    Json(#[source] serde_json::Error),
    /// A value of the wrong JSON type.
    #[error("{field}: {found} is not {expected}")]
    Type {
        /// The field, like `nodes[2].cpulist`.
        field: String,
        /// The value, cut.
        found: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// A text that does not parse.
    #[error("{field}: \"{found}\" is not {expected}")]
    Text {
        /// The field.
        field: String,
        /// The text, cut.
        found: String,
        /// What belongs there.
        expected: &'static str,
        /// The parser's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// More entries than any machine has.
    #[error("{field}: {count} entries, and at most {limit} are read")]
    TooMany {
        /// The field.
        field: &'static str,
        /// How many there are.
        count: usize,
        /// The bound.
        limit: usize,
    },
    /// No node at all.
    #[error("nodes is {how}: a plan needs the machine's nodes, each with its id")]
    NoNodes {
        /// "missing" or "empty".
        how: &'static str,
    },
    /// Nodes whose CPUs nothing tells.
    #[error(
        "{} {nodes}: cpulist is missing, and no gpu on {} has a cpu_affinity",
        if nodes.len() == 1 { "node" } else { "nodes" },
        if nodes.len() == 1 { "it" } else { "them" }
    )]
    NoCpulist {
        /// The nodes.
        nodes: NodeSet,
    },
    /// A GPU on a node that the file does not have.
    #[error("gpu {gpu}: numa_node {node} is not among the nodes {nodes}")]
    GpuNode {
        /// The GPU's index.
        gpu: u32,
        /// The node it names.
        node: i64,
        /// The nodes there are.
        nodes: NodeSet,
    },
    /// A GPU whose CPUs are elsewhere than its node's.
    #[error("gpu {gpu}: cpu_affinity {affinity} has no cpu of its numa_node {node}, whose cpulist is {cpus}")]
    GpuAffinity {
        /// The GPU's index.
        gpu: u32,
        /// Its affinity.
        affinity: CpuSet,
        /// Its node.
        node: u32,
        /// The node's CPUs.
        cpus: CpuSet,
    },
    /// CPUs in two nodes.
    #[error("cpus {cpus} are on node {one} and on node {other}: each cpu is on one node, unless nodes_overlap is true")]
    NodesOverlap {
        /// The shared CPUs.
        cpus: CpuSet,
        /// The one node.
        one: u32,
        /// The other.
        other: u32,
    },
    /// More CPUs in the nodes than in the machine.
    #[error("cpus_total is {total}, and the nodes have {counted} cpus")]
    CpusTotal {
        /// `cpus_total`.
        total: u64,
        /// What the nodes add up to.
        counted: usize,
    },
    /// A distance matrix for other nodes.
    #[error("distances.ids are {ids:?}, and the nodes are {nodes}: one row and one column per node")]
    DistanceIds {
        /// `distances.ids`.
        ids: Vec<u32>,
        /// The nodes there are.
        nodes: NodeSet,
    },
    /// Parts that contradict each other.
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
}

/// Reads a machine file. `path` is for errors, and names the machine where the file does not.
pub fn parse(bytes: &[u8], path: &Path) -> Result<Found, DiscoveryError> {
    if bytes.len() as u64 > LIMIT_MIB << 20 {
        return Err(DiscoveryError::TooLarge { path: path.to_owned(), limit_mib: LIMIT_MIB });
    }
    let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    read::read(bytes, name).map_err(|source| DiscoveryError::MachineFile { path: path.to_owned(), source })
}
