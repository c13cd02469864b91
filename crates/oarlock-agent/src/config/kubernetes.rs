//! What the Kubernetes API is told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the Kubernetes API is told of pods and of this host. Nothing else depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub(crate) struct KubernetesConfig {
    /// Whether the API is spoken to at all, where there is one.
    pub(crate) enabled: bool,
    /// Whether pods get events.
    pub(crate) events: bool,
    /// Whether pods get the annotation `oarlock.dev/placement`.
    pub(crate) placement_annotation: bool,
    /// Whether this host's Node gets labels.
    pub(crate) node_labels: bool,
    /// This host's `NodeResourceTopology` object.
    pub(crate) node_resource_topology: TopologyConfig,
    /// The least time between two writes of what this host is and has.
    #[serde(with = "super::duration")]
    pub(crate) host_interval: Duration,
    /// This host's name: its Node's, which events bear, too; without one, what the kernel calls it.
    pub(crate) host_name: Option<String>,
}

/// What schedulers are told of a host's NUMA nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct TopologyConfig {
    /// Whether the object is written, where the cluster has such objects.
    pub(crate) enabled: bool,
    /// What kubelet is set to; it tells nobody.
    pub(crate) topology_manager_policy: Option<TopologyManagerPolicy>,
    /// The same.
    pub(crate) topology_manager_scope: Option<TopologyManagerScope>,
}

/// What kubelet's Topology Manager does where a pod's devices, CPUs and memory are not on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TopologyManagerPolicy {
    /// It is off.
    None,
    /// It lets the pod in.
    BestEffort,
    /// It refuses the pod, where fewer nodes would do.
    Restricted,
    /// It refuses the pod.
    SingleNumaNode,
}

/// What kubelet's Topology Manager places together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TopologyManagerScope {
    /// A container.
    Container,
    /// All containers of a pod.
    Pod,
}

impl KubernetesConfig {
    /// What this host is called; never empty, as the API asks.
    pub(crate) fn host(&self) -> String {
        let kernels = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        let name = self.host_name.clone().unwrap_or_else(kernels);
        if name.is_empty() { "unknown".to_owned() } else { name }
    }
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            events: true,
            placement_annotation: true,
            node_labels: true,
            node_resource_topology: TopologyConfig::default(),
            host_interval: Duration::from_secs(60),
            host_name: None,
        }
    }
}

impl Default for TopologyConfig {
    fn default() -> Self {
        Self { enabled: true, topology_manager_policy: None, topology_manager_scope: None }
    }
}
