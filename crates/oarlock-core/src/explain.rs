//! Plans in words: the same in the command line, in pod events and in logs. A [`Refusal`](crate::Refusal) speaks for
//! itself.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::idset::{CpuSet, NodeSet};
use crate::locality::Evidence;

/// Why a rank is where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No CPU map was asked for.
    Untouched,
    /// It is at home on these nodes.
    Home(Home),
    /// Its entry of the list under this key says so.
    Listed(&'static str),
    /// It stays unbound: the node of its GPU is not known.
    LocalityUnknown(String),
    /// It stays unbound: it has no GPU in a container that has some.
    NoGpu,
}

/// The nodes where a rank belongs, and the words for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// The nodes, all with allowed CPUs.
    pub nodes: NodeSet,
    /// `gpu 0 (0000:07:00.0) is on node 3`.
    pub words: String,
}

/// What a person should know about a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// A rank stays unbound because its GPU's node is unknown.
    LocalityUnknown {
        /// The rank.
        rank: u32,
        /// The GPU and what its facts say.
        text: String,
    },
    /// A rank stays unbound because it has no GPU while the container has some.
    RankWithoutGpu {
        /// The rank.
        rank: u32,
    },
    /// A rank's CPUs are not on its GPU's node.
    NearestInstead {
        /// The rank.
        rank: u32,
        /// Where they are, and why.
        text: String,
    },
    /// Part of a rank's CPU list is not allowed.
    CpusCut {
        /// The rank.
        rank: u32,
        /// What was cut.
        cpus: CpuSet,
    },
    /// Part of a rank's node list is not allowed.
    NodesCut {
        /// The rank.
        rank: u32,
        /// What was cut.
        nodes: NodeSet,
    },
    /// A rank's memory is not where it was wanted.
    MemoryElsewhere {
        /// The rank.
        rank: u32,
        /// The nodes wanted.
        wanted: NodeSet,
        /// The nodes got.
        got: NodeSet,
    },
    /// The container's CPUs and its memory are on different nodes.
    AllowedSetsPart {
        /// Nodes of which memory is allowed but no CPU.
        mems_only: NodeSet,
        /// Nodes of which CPUs are allowed but no memory.
        cpus_only: NodeSet,
    },
    /// No memory node of the machine is allowed.
    NoMemoryAllowed,
    /// Some CPUs are in several nodes.
    NodesShareCpus,
    /// GPU memory that the ranks' GPUs need is not allowed.
    GpuMemoryNotAllowed {
        /// The nodes of GPU memory.
        nodes: NodeSet,
    },
    /// Some of the container's GPUs are driven by no rank.
    GpusWithoutRank {
        /// How many are driven.
        driven: usize,
        /// How many the container holds.
        held: usize,
    },
    /// The ranks behind one wall may use more memory than it encloses.
    WallMayKill {
        /// The ranks behind the wall.
        ranks: Vec<u32>,
        /// Their nodes.
        nodes: NodeSet,
        /// What the nodes have, MiB.
        memory_mb: u64,
        /// The container's memory limit, bytes.
        limit: u64,
    },
    /// Which GPUs the container will get is not known.
    GpusNotKnown {
        /// How many it asks for.
        count: u32,
        /// How many the machine has.
        of: usize,
    },
    /// `OMP_NUM_THREADS` cannot be derived.
    CoresUnknown,
    /// The plan rests on cores that are read off the numbering of the CPUs.
    CoresAssumed,
    /// What the source of the machine makes doubtful, in its own words.
    Source(String),
}

impl Warning {
    /// Whether this is why the rank stays unbound.
    pub(crate) fn leaves_unbound(&self, of: u32) -> bool {
        match self {
            Self::LocalityUnknown { rank, .. } | Self::RankWithoutGpu { rank } => *rank == of,
            Self::NoMemoryAllowed => true,
            _ => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untouched => f.write_str("cpu-map is none"),
            Self::Home(home) => f.write_str(&home.words),
            Self::Listed(key) => write!(f, "{key} lists it"),
            Self::LocalityUnknown(text) => write!(f, "unbound: {text}"),
            Self::NoGpu => f.write_str("unbound: the container has fewer GPUs than ranks"),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LocalityUnknown { rank, text } => write!(f, "rank {rank} stays unbound: {text}"),
            Self::RankWithoutGpu { rank } => write!(
                f,
                "rank {rank} stays unbound: it has no gpu, while other ranks have; oarlock.dev/rank-gpus can say which it drives"
            ),
            Self::NearestInstead { rank, text } => write!(f, "rank {rank} runs away from its gpu: {text}"),
            Self::CpusCut { rank, cpus } => write!(f, "rank {rank}: cpus {cpus} of its list are not allowed and were left out"),
            Self::NodesCut { rank, nodes } => {
                write!(f, "rank {rank}: node {nodes} of its list is not allowed and was left out")
            }
            Self::MemoryElsewhere { rank, wanted, got } => write!(
                f,
                "rank {rank}: node {wanted} has no allowed memory; its memory comes from node {got}"
            ),
            Self::AllowedSetsPart { mems_only, cpus_only } => {
                f.write_str("allowed cpus and allowed memory part:")?;
                if !mems_only.is_empty() {
                    write!(f, " memory but no cpu of node {mems_only} is allowed")?;
                }
                if !cpus_only.is_empty() {
                    let and = if mems_only.is_empty() { "" } else { ";" };
                    write!(f, "{and} cpus but no memory of node {cpus_only} are allowed")?;
                }
                Ok(())
            }
            Self::GpuMemoryNotAllowed { nodes } => write!(
                f,
                "node {nodes} is GPU memory and not among the allowed memory: CUDA cannot allocate there"
            ),
            Self::GpusWithoutRank { driven, held } => write!(
                f,
                "the ranks drive {driven} of the container's {held} GPUs; oarlock.dev/ranks or oarlock.dev/rank-gpus can say otherwise"
            ),
            Self::NoMemoryAllowed => f.write_str("memory stays unbound: no node with memory is allowed"),
            Self::NodesShareCpus => f.write_str(
                "some cpus are in several nodes (the firmware's tables say so): memory is bound to all nodes of a rank's cpus",
            ),
            Self::WallMayKill { ranks, nodes, memory_mb, limit } => {
                let ranks: CpuSet = ranks.iter().copied().collect();
                write!(
                    f,
                    "ranks {ranks} are bound to the memory of node {nodes}, which has {memory_mb} MiB, and the container may use {} MiB: \
                     when the node is full they are killed; oarlock.dev/mem-policy preferred avoids that",
                    limit / (1 << 20)
                )
            }
            Self::GpusNotKnown { count, of } => write!(
                f,
                "which {count} of the machine's {of} GPUs the container will get is not known: planned with the first"
            ),
            Self::CoresAssumed => f.write_str(
                "the description of this machine does not say its cores: the two runs of cpus of each node are taken as the first and second threads of its cores",
            ),
            Self::Source(text) => f.write_str(text),
            Self::CoresUnknown => {
                f.write_str("OMP_NUM_THREADS stays unset: the description of this machine does not say its cores")
            }
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Warning {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// `rank 5 of 8 in block order over nodes 0-1`.
pub(crate) fn block_order(rank: u32, ranks: usize, nodes: &NodeSet) -> String {
    format!("rank {rank} of {ranks} in block order over node{} {nodes}", if nodes.len() == 1 { "" } else { "s" })
}

/// How the node is known, where it is not the device's plain word.
pub(crate) fn evidence(evidence: Evidence) -> String {
    if evidence == Evidence::NumaNode { String::new() } else { format!(" (by {evidence})") }
}
