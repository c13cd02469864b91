//! A machine from its kernel files alone: `sys/` and `proc/` under any root, without hwloc.

mod cpus;
mod cpuset;
mod nodes;
mod pci;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oarlock_core::pci::PciAddress;
use oarlock_core::{CpuSet, Machine};

use crate::links::{self, PciPath};
use crate::{Allowed, DiscoveryError, Found, kernel_file, nvml};

pub(crate) use cpuset::status_allowed;
pub(crate) use pci::{GpuMemory, PciFacts};

/// The kernel's files under a root folder: `/` on the live host, or a folder that holds a copy of `sys/` and `proc/`.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The tree under `root`, which must hold `sys/devices/system`.
    pub fn open(root: &Path) -> Result<Self, DiscoveryError> {
        match root.join("sys/devices/system").metadata() {
            Ok(data) if data.is_dir() => Ok(Self { root: root.to_owned() }),
            _ => match root.metadata() {
                Err(source) => Err(DiscoveryError::Read { path: root.to_owned(), source }),
                Ok(_) => Err(DiscoveryError::NotATree(root.to_owned())),
            },
        }
    }

    /// Everything these files say of the machine, with what the reader's own cgroup allows.
    pub fn read(&self) -> Result<Found, DiscoveryError> {
        let mut found = self.read_machine()?;
        let allowed = cpuset::cgroup_allowed(&self.root)?;
        found.allowed = cut(allowed, &found.machine);
        Ok(found)
    }

    /// The same without the cgroup.
    pub(crate) fn read_machine(&self) -> Result<Found, DiscoveryError> {
        let mut warnings = Vec::new();
        let system = self.root.join("sys/devices/system");
        let online = kernel_file::online(&system.join("cpu/online"))?;
        let (mut nodes, distances) = nodes::read(&self.root, online.as_ref(), &mut warnings)?;
        let cpus: CpuSet = nodes.iter().flat_map(|node| node.cpus.iter()).collect();
        let groups = cpus::read(&system.join("cpu"), &cpus)?;
        let memory = self.gpu_memory()?;
        for GpuMemory { node, .. } in &memory {
            if let Some(node) = nodes.iter_mut().find(|n| n.id == *node && n.cpus.is_empty()) {
                node.gpu_memory = true;
            }
        }
        let facts = self.pci(&cpus)?;
        let paths = paths(&facts);
        let (gpus, devices) = crate::devices::sort_out(&nodes, facts, &memory, &[], &mut warnings);
        let machine = Machine {
            links: links::between(&gpus, &paths, &nvml::Known::default()),
            cores_assumed: false,
            name: self.name()?,
            nodes,
            cores: groups.cores,
            l3: groups.l3,
            packages: groups.packages,
            distances,
            gpus,
            devices,
        };
        let machine = machine
            .checked()
            .map_err(|source| DiscoveryError::Contradiction { source_name: self.root.display().to_string(), source })?;
        Ok(Found { machine, allowed: Allowed::default(), warnings, extra: serde_json::Map::new() })
    }

    /// The PCI devices, bridges left out. Local CPUs are cut to `online`.
    pub(crate) fn pci(&self, online: &CpuSet) -> Result<Vec<PciFacts>, DiscoveryError> {
        let mut facts = pci::read(&self.root.join("sys/bus/pci/devices"), online)?;
        for (address, uuid) in pci::uuids(&self.root.join("proc/driver/nvidia/gpus"))? {
            if let Some(device) = facts.iter_mut().find(|device| device.address == address) {
                device.uuid = Some(uuid);
            }
        }
        Ok(facts)
    }

    /// Which NUMA node is which GPU's memory, as NVIDIA's driver says.
    pub(crate) fn gpu_memory(&self) -> Result<Vec<GpuMemory>, DiscoveryError> {
        pci::gpu_memory(&self.root.join("proc/driver/nvidia/gpus"))
    }

    fn name(&self) -> Result<String, DiscoveryError> {
        if let Some(name) = kernel_file::text(&self.root.join("proc/sys/kernel/hostname"))?
            && !name.is_empty()
        {
            return Ok(name);
        }
        let root = self.root.canonicalize().unwrap_or_else(|_| self.root.clone());
        Ok(root.file_name().map_or_else(|| "this machine".to_owned(), |name| name.to_string_lossy().into_owned()))
    }
}

/// The ways up the tree of the devices that have one.
pub(crate) fn paths(facts: &[PciFacts]) -> BTreeMap<PciAddress, PciPath> {
    facts.iter().filter_map(|device| Some((device.address, device.path.clone()?))).collect()
}

/// What is allowed, cut to what the machine has: a cpuset can name CPUs that are offline or never were.
pub(crate) fn cut(allowed: Allowed, machine: &Machine) -> Allowed {
    let nodes = machine.nodes.iter().map(|node| node.id).collect();
    Allowed {
        cpus: allowed.cpus.map(|cpus| cpus.intersection(&machine.cpus())),
        mems: allowed.mems.map(|mems| mems.intersection(&nodes)),
    }
}
