//! What the agent is told: defaults, over them a file, over that the flags that are given.

mod kubernetes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use oarlock_core::CpuSet;
use oarlock_core::pci::PciAddress;
use oarlock_device_plugin::ResourceName;
use oarlock_device_plugin::advertise::MigStrategy;
use oarlock_device_plugin::allocate::DeviceListStrategy;
use oarlock_device_plugin::health::{APPLICATION_XIDS, Policy};
use oarlock_nri::{DEFAULT_SOCKET, Identity, IdentityError};
use serde::{Deserialize, Serialize};

pub(crate) use kubernetes::{KubernetesConfig, TopologyConfig};

/// Larger files are no configuration.
const MOST_BYTES: u64 = 1 << 20;

/// All settings. `config.yaml` beside the sources has the same words, with the defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Config {
    /// kubelet's folder; its sockets are below it.
    pub(crate) kubelet_root: PathBuf,
    /// Where the agent keeps what other parts of Oarlock read: the machine file and the ledger.
    pub(crate) run_dir: PathBuf,
    /// Where the host's `/sys`, `/proc` and `/dev` are.
    pub(crate) host_root: PathBuf,
    /// Where metrics and health are answered over HTTP.
    pub(crate) metrics_address: SocketAddr,
    /// The NVML library; without one, the usual name is searched for.
    pub(crate) nvml_library: Option<PathBuf>,
    /// CPUs that the system keeps, in the kernel's list form: part of no node or slot that is offered.
    pub(crate) reserved_cpus: CpuSet,
    /// GPUs.
    pub(crate) gpu: GpuConfig,
    /// NUMA nodes.
    pub(crate) numa_node: NumaNodeConfig,
    /// The container runtime's plugin interface.
    pub(crate) nri: NriConfig,
    /// Whose the cpuset of a container is.
    pub(crate) container_cpuset: ContainerCpuset,
    /// What the Kubernetes API is told.
    pub(crate) kubernetes: KubernetesConfig,
    /// When a GPU is unhealthy, and when it is healthy again.
    pub(crate) health: HealthConfig,
}

/// GPUs as a resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct GpuConfig {
    /// Whether Oarlock gives GPUs to pods.
    pub(crate) mode: GpuMode,
    /// The resource's name.
    pub(crate) resource: ResourceName,
    /// The ways in which a container is given its GPUs, all of which are used.
    pub(crate) device_list_strategy: Vec<DeviceListStrategy>,
    /// Vendor and class of CDI names; the name itself is the UUID.
    pub(crate) cdi_kind: String,
    /// What to do about MIG devices.
    pub(crate) mig_strategy: MigStrategy,
    /// What the resource of a MIG profile is called, before the profile.
    pub(crate) mig_resource_prefix: String,
    /// The NUMA node of GPUs whose node the host does not tell, by PCI address.
    pub(crate) numa_nodes: BTreeMap<PciAddress, u32>,
}

/// Whether Oarlock gives GPUs to pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum GpuMode {
    /// It does unless another plugin on the host does.
    Auto,
    /// It does.
    Own,
    /// It does not, and only looks at who holds which.
    Observe,
}

/// NUMA nodes as a resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct NumaNodeConfig {
    /// Whether nodes are offered.
    pub(crate) enabled: bool,
    /// The resource's name.
    pub(crate) resource: ResourceName,
    /// Into how many equal, core-aligned slots a node is cut; 1 offers whole nodes.
    pub(crate) slots_per_node: u32,
}

/// The container runtime's plugin interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct NriConfig {
    /// Whether the agent is a plugin of the runtime.
    pub(crate) enabled: bool,
    /// The runtime's socket.
    pub(crate) socket: PathBuf,
    /// The plugin's place among the others: two digits.
    pub(crate) index: String,
}

/// Whose the cpuset of a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ContainerCpuset {
    /// Oarlock's: the union over its ranks.
    Own,
    /// Somebody else's, such as another plugin of the runtime: only ranks are placed, inside it.
    Leave,
}

impl NriConfig {
    /// Who the agent is to the runtime.
    pub(crate) fn identity(&self) -> Result<Identity, IdentityError> {
        Identity::new(&self.index, "oarlock")
    }
}

/// When a GPU is unhealthy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct HealthConfig {
    /// The time between two probes of each GPU.
    #[serde(with = "duration")]
    pub(crate) probe_interval: Duration,
    /// XIDs to ignore beside those that programs cause (13, 31, 43, 45, 68, 109).
    pub(crate) ignored_xids: BTreeSet<u64>,
    /// Failed calls in a row that count against a GPU.
    pub(crate) hiccups: u32,
    /// How long the driver may be away.
    #[serde(with = "duration")]
    pub(crate) driver_grace: Duration,
    /// Good probes in a row until a GPU is healthy again.
    pub(crate) recover_probes: u32,
    /// The time that they span, at least.
    #[serde(with = "duration")]
    pub(crate) recover_after: Duration,
}

/// Why there is no configuration to run with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("failed to read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has more than {MOST_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
    #[error("{} is no configuration", path.display())]
    Parse { path: PathBuf, source: Box<serde_saphyr::Error> },
    #[error("{key} is {value}: {rule}")]
    Value { key: &'static str, value: String, rule: &'static str },
}

impl Config {
    /// Reads a file over the defaults.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Read { path: path.to_owned(), source };
        if fs::metadata(path).map_err(unreadable)?.len() > MOST_BYTES {
            return Err(ConfigError::TooLarge(path.to_owned()));
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        Self::parse(&text).map_err(|error| ConfigError::Parse { path: path.to_owned(), source: Box::new(error) })
    }

    /// Reads YAML over the defaults. An empty text, or one of comments only, is the defaults.
    pub(crate) fn parse(text: &str) -> Result<Self, serde_saphyr::Error> {
        let options = serde_saphyr::options! { with_snippet: false };
        Ok(serde_saphyr::from_str_with_options::<Option<Self>>(text, options)?.unwrap_or_default())
    }

    /// As YAML that reads back the same.
    pub(crate) fn to_yaml(&self) -> Result<String, serde_saphyr::ser::Error> {
        serde_saphyr::to_string(self)
    }

    /// The values that no type refuses.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key, value: &dyn ToString, rule| Err(ConfigError::Value { key, value: value.to_string(), rule });
        for (key, path) in [
            ("kubeletRoot", &self.kubelet_root),
            ("runDir", &self.run_dir),
            ("hostRoot", &self.host_root),
            ("nri.socket", &self.nri.socket),
        ] {
            if !path.is_absolute() {
                return refuse(key, &path.display(), "it is an absolute path");
            }
        }
        if self.nri.identity().is_err() {
            return refuse("nri.index", &self.nri.index, "it has exactly two digits");
        }
        if self.gpu.resource == self.numa_node.resource {
            return refuse("numaNode.resource", &self.numa_node.resource, "each resource has a name of its own");
        }
        if format!("{}1g.10gb", self.gpu.mig_resource_prefix).parse::<ResourceName>().is_err() {
            return refuse(
                "gpu.migResourcePrefix",
                &self.gpu.mig_resource_prefix,
                "a MIG profile after it makes a resource name, domain/name",
            );
        }
        if self.gpu.device_list_strategy.is_empty() {
            return refuse("gpu.deviceListStrategy", &"empty", "a container is given its GPUs in at least one way");
        }
        let only_nodes = self.gpu.device_list_strategy == [DeviceListStrategy::DeviceSpecs];
        if only_nodes && self.gpu.mig_strategy != MigStrategy::None {
            return refuse(
                "gpu.deviceListStrategy",
                &"device-specs",
                "MIG devices are given by envvar, cdi-cri or cdi-annotations",
            );
        }
        let kind = self.gpu.cdi_kind.split_once('/');
        if !kind.is_some_and(|(vendor, class)| cdi_word(vendor) && cdi_word(class)) {
            return refuse("gpu.cdiKind", &self.gpu.cdi_kind, "it has the form vendor/class");
        }
        for (key, value) in [
            ("numaNode.slotsPerNode", self.numa_node.slots_per_node),
            ("health.hiccups", self.health.hiccups),
            ("health.recoverProbes", self.health.recover_probes),
        ] {
            if value == 0 {
                return refuse(key, &value, "it is at least 1");
            }
        }
        for (key, value) in [
            ("health.probeInterval", self.health.probe_interval),
            ("kubernetes.hostInterval", self.kubernetes.host_interval),
        ] {
            if value < Duration::from_millis(10) {
                return refuse(key, &humantime::format_duration(value), "it is at least 10ms");
            }
        }
        Ok(())
    }
}

/// A word of a CDI kind: letters, digits and `-_.`, beginning with a letter.
fn cdi_word(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphabetic())
        && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

impl HealthConfig {
    /// As the state machine takes it.
    pub(crate) fn policy(&self) -> Policy {
        Policy {
            ignored_xids: self.ignored_xids.iter().copied().chain(APPLICATION_XIDS).collect(),
            hiccups: self.hiccups,
            driver_grace: self.driver_grace,
            recover_probes: self.recover_probes,
            recover_after: self.recover_after,
        }
    }
}

/// A resource name of ours. They are right: a test reads the defaults.
fn own(name: &str) -> ResourceName {
    #[expect(clippy::unwrap_used, reason = "a constant, which the tests of this module read")]
    name.parse().unwrap()
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kubelet_root: "/var/lib/kubelet".into(),
            run_dir: "/run/oarlock".into(),
            host_root: "/".into(),
            metrics_address: SocketAddr::from(([127, 0, 0, 1], 9837)),
            nvml_library: None,
            reserved_cpus: CpuSet::new(),
            gpu: GpuConfig::default(),
            numa_node: NumaNodeConfig::default(),
            nri: NriConfig::default(),
            container_cpuset: ContainerCpuset::Own,
            kubernetes: KubernetesConfig::default(),
            health: HealthConfig::default(),
        }
    }
}

impl Default for GpuConfig {
    fn default() -> Self {
        Self {
            mode: GpuMode::Auto,
            resource: own("oarlock.dev/gpu"),
            device_list_strategy: vec![DeviceListStrategy::Envvar],
            cdi_kind: "nvidia.com/gpu".to_owned(),
            mig_strategy: MigStrategy::None,
            mig_resource_prefix: "oarlock.dev/mig-".to_owned(),
            numa_nodes: BTreeMap::new(),
        }
    }
}

impl Default for NumaNodeConfig {
    fn default() -> Self {
        Self { enabled: true, resource: own("oarlock.dev/numa-node"), slots_per_node: 1 }
    }
}

impl Default for NriConfig {
    fn default() -> Self {
        Self { enabled: true, socket: DEFAULT_SOCKET.into(), index: "90".to_owned() }
    }
}

impl Default for HealthConfig {
    fn default() -> Self {
        let policy = Policy::default();
        Self {
            probe_interval: Duration::from_secs(5),
            ignored_xids: BTreeSet::new(),
            hiccups: policy.hiccups,
            driver_grace: policy.driver_grace,
            recover_probes: policy.recover_probes,
            recover_after: policy.recover_after,
        }
    }
}

/// Durations as people write them: `30s`, `1m 30s`, `200ms`.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map_err(|error| serde::de::Error::custom(format!("{text:?} is no duration like 30s: {error}")))
    }
}

#[cfg(test)]
mod tests;
