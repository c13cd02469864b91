//! One entry: a managed container.

use std::path::Path;

use oarlock_core::rankenv::RankEnv;
use oarlock_core::{CpuSet, NodeSet};
use serde::{Deserialize, Serialize};

use crate::folder::{Folder, ReadError};

/// What is known of one managed container. Fields that are not known here are kept, so that an older program does not take
/// away what a newer one wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The container's id, as the runtime has it.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    /// Its pod.
    pub pod: Pod,
    /// The boot that the container runs in ([`boot_id`]).
    pub boot: String,
    /// Who wrote this.
    pub source: Source,
    /// The cgroup of its first process, as `/proc/PID/cgroup` names it; `None` as long as it has none. Some runtimes put
    /// the processes into a sub-cgroup of what they were told.
    #[serde(default)]
    pub cgroup: Option<String>,
    /// The ranks, and what each was given.
    pub ranks: RankEnv,
    /// What the container as a whole was given.
    pub container: ContainerSets,
    /// What its cgroup had before.
    #[serde(default)]
    pub before: Before,
    /// The CPUs that it has for itself; empty where it shares them all.
    #[serde(default)]
    pub exclusive: CpuSet,
    /// Whether all others are kept off these, also those that did not ask for a place.
    #[serde(default)]
    pub alone: bool,
    /// Why each rank is where it is, in words.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// What a person should know, in words.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Taken off by hand: whoever finds this leaves the container and its ranks as they are, and holds nothing for it.
    #[serde(default)]
    pub unpinned: bool,
    /// What else the file holds.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// Who manages a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The agent, by the runtime's plugin interface.
    Nri,
    /// The OCI hook.
    Hook,
}

/// What the container as a whole was given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ContainerSets {
    /// Its CPUs.
    pub cpus: CpuSet,
    /// Its memory nodes.
    pub mems: NodeSet,
    /// The memory nodes of GPUs that stay allowed beside them.
    #[serde(default, skip_serializing_if = "NodeSet::is_empty")]
    pub gpu_mems: NodeSet,
}

/// What the container's cgroup had before it was managed; `None` where nothing was set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Before {
    /// `cpuset.cpus`.
    #[serde(default)]
    pub cpus: Option<CpuSet>,
    /// `cpuset.mems`.
    #[serde(default)]
    pub mems: Option<NodeSet>,
}

/// This boot's id, from a procfs (`sys/kernel/random/boot_id`).
pub fn boot_id(proc: &Path) -> Result<String, ReadError> {
    let path = proc.join("sys/kernel/random");
    let text = match Folder::open(&path)? {
        Some(folder) => folder.text("boot_id")?,
        None => None,
    };
    let text = text.unwrap_or_default();
    let id = text.trim_end();
    if (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
        return Ok(id.to_owned());
    }
    Err(ReadError::malformed(&path.join("boot_id"), &text, "a boot's id is hexadecimal digits and dashes"))
}
