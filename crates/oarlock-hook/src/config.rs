//! What is read of a container's configuration (`config.json` of the OCI runtime specification). What else is in it is not
//! looked at.

use std::collections::BTreeMap;

use oarlock_core::request::PREFIX;
use oarlock_core::{CpuSet, NodeSet};
use oarlock_kernel::ledger::Before;
use oci_spec::runtime::{LinuxCpu, LinuxDevice, LinuxMemory};
use serde::Deserialize;

use crate::failure::Failure;

/// The parts that have a say in a container's place.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Config {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    process: Option<Process>,
    #[serde(default)]
    linux: Option<Linux>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Process {
    #[serde(default)]
    env: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Linux {
    #[serde(default, rename = "cgroupsPath")]
    cgroups_path: Option<String>,
    #[serde(default)]
    devices: Option<Vec<LinuxDevice>>,
    #[serde(default)]
    resources: Option<Resources>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Resources {
    #[serde(default)]
    cpu: Option<LinuxCpu>,
    #[serde(default)]
    memory: Option<LinuxMemory>,
}

impl Config {
    /// Reads it. `what` is for errors.
    pub(crate) fn parse(bytes: &[u8], what: &str) -> Result<Self, Failure> {
        serde_json::from_slice(bytes).map_err(|source| Failure::Malformed {
            what: what.to_owned(),
            expected: "an OCI container's configuration",
            source,
        })
    }

    pub(crate) fn annotations(&self) -> &BTreeMap<String, String> {
        const NONE: &BTreeMap<String, String> = &BTreeMap::new();
        self.annotations.as_ref().unwrap_or(NONE)
    }

    /// The first annotation of these names.
    pub(crate) fn annotation(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.annotations().get(*name)).map(String::as_str)
    }

    /// Its environment; of a name that is given twice the last counts.
    pub(crate) fn variables(&self) -> BTreeMap<&str, &str> {
        let env = self.process.as_ref().and_then(|process| process.env.as_deref()).unwrap_or_default();
        env.iter().filter_map(|entry| entry.split_once('=')).collect()
    }

    /// The cpuset that was asked for; what cannot be read is none.
    pub(crate) fn given(&self) -> Before {
        let Some(cpu) = self.resources().and_then(|resources| resources.cpu.as_ref()) else { return Before::default() };
        Before {
            cpus: cpu.cpus().as_ref().and_then(|cpus| cpus.parse().ok()).filter(|cpus: &CpuSet| !cpus.is_empty()),
            mems: cpu.mems().as_ref().and_then(|mems| mems.parse().ok()).filter(|mems: &NodeSet| !mems.is_empty()),
        }
    }

    /// Its memory limit in bytes.
    pub(crate) fn memory_limit(&self) -> Option<u64> {
        let limit = self.resources()?.memory.as_ref()?.limit()?;
        u64::try_from(limit).ok().filter(|&limit| limit > 0)
    }

    /// The cgroup as the runtime is told it, a path or systemd's `slice:prefix:name`.
    pub(crate) fn cgroups_path(&self) -> Option<&str> {
        self.linux.as_ref()?.cgroups_path.as_deref().filter(|path| !path.is_empty())
    }

    pub(crate) fn devices(&self) -> &[LinuxDevice] {
        self.linux.as_ref().and_then(|linux| linux.devices.as_deref()).unwrap_or_default()
    }

    fn resources(&self) -> Option<&Resources> {
        self.linux.as_ref()?.resources.as_ref()
    }
}

/// Whether annotations ask for a place at all.
pub(crate) fn asks<'a>(mut keys: impl Iterator<Item = &'a String>) -> bool {
    keys.any(|key| key.strip_prefix(PREFIX).is_some_and(|key| key == "cpu-map" || key == "mem-map"))
}
