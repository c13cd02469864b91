//! From settings, the machine and NVML's word to what is served. Nothing is read here.

use std::collections::BTreeMap;

use oarlock_core::Machine;
use oarlock_core::locality::{Evidence, Locality};
use oarlock_core::machine::Gpu;
use oarlock_core::pci::PciAddress;
use oarlock_device_plugin::advertise::{self, AdvertiseError, GpuSettings, NodeSettings, Sliced};
use oarlock_device_plugin::allocate::{DeviceFacts, DeviceNodes, GpuAccess};
use oarlock_discovery::nvml;

use crate::config::Config;
use crate::resource::{Giving, Serving};

/// What is known from NVML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Nvml {
    /// It has not answered yet, or the driver is not loaded: NVIDIA's GPUs are not known by UUID, and not offered.
    Waiting,
    /// There is no such library: GPUs are known by their addresses.
    Missing,
    /// Its GPUs.
    Here(Vec<nvml::Gpu>),
}

/// The resources of GPUs, with what is left out and why.
pub(crate) fn gpus(
    config: &Config,
    machine: &Machine,
    nvml: &Nvml,
    facts: &BTreeMap<PciAddress, DeviceFacts>,
) -> Result<(Vec<Serving>, Vec<String>), AdvertiseError> {
    let settings = GpuSettings {
        name: config.gpu.resource.clone(),
        mig: config.gpu.mig_strategy,
        mig_prefix: config.gpu.mig_resource_prefix.clone(),
    };
    let facts_of = |gpu: &Gpu| gpu.pci.and_then(|address| facts.get(&address)).cloned().unwrap_or_default();
    // An address as the id of a GPU that has a UUID would be another device to kubelet than the same GPU later.
    let offered = |gpu: &Gpu| {
        let elsewhere = facts_of(gpu).driver.is_some_and(|driver| driver != "nvidia");
        gpu.uuid.is_some() || *nvml == Nvml::Missing || elsewhere
    };
    let cut = cut(nvml);
    let offers = advertise::gpus(machine, offered, &cut, &settings)?;
    let serving = offers.offers.into_iter().map(|offer| {
        let positions = offer.items.iter().filter_map(|item| item.thing.gpu());
        let nodes = positions.map(|gpu| DeviceNodes::decide(&facts_of(&machine.gpus[gpu]))).collect();
        let access = GpuAccess {
            strategies: config.gpu.device_list_strategy.clone(),
            cdi_kind: config.gpu.cdi_kind.clone(),
            resource: offer.name.clone(),
            sets_gpus: offer.name == config.gpu.resource,
        };
        Serving { offer, giving: Giving::Gpus { access, nodes } }
    });
    Ok((serving.collect(), offers.warnings))
}

/// The resource of NUMA nodes, where it is not switched off.
pub(crate) fn nodes(config: &Config, machine: &Machine) -> Result<Option<Serving>, AdvertiseError> {
    if !config.numa_node.enabled {
        return Ok(None);
    }
    let settings = NodeSettings {
        name: config.numa_node.resource.clone(),
        slots_per_node: config.numa_node.slots_per_node,
        reserved: config.reserved_cpus.clone(),
    };
    Ok(Some(Serving { offer: advertise::nodes(machine, &settings)?, giving: Giving::Nodes }))
}

/// A GPU that is lost does not tell its UUID: it keeps the one that it had.
pub(crate) fn name_lost_gpus(machine: &mut Machine, known: &[nvml::Gpu]) {
    for gpu in machine.gpus.iter_mut().filter(|gpu| gpu.uuid.is_none()) {
        let same = known.iter().find(|known| Some(known.pci) == gpu.pci);
        gpu.uuid = same.and_then(|known| known.uuid.clone());
    }
}

/// The operator's word about GPUs whose node the host does not tell. A node that is not there is passed over.
pub(crate) fn place_unknown_gpus(machine: &mut Machine, nodes: &BTreeMap<PciAddress, u32>) {
    let known: Vec<u32> = machine.nodes.iter().map(|node| node.id).collect();
    for gpu in &mut machine.gpus {
        let said = gpu.pci.and_then(|address| nodes.get(&address)).filter(|node| known.contains(node));
        if let (Locality::Unknown { .. }, Some(node)) = (&gpu.locality, said) {
            gpu.locality = Locality::Node { node: *node, from: Evidence::Override };
        }
    }
}

/// Every device whose health is followed, by UUID, with the GPU that it is a part of.
pub(crate) fn watched(nvml: &Nvml) -> Vec<(String, Option<String>)> {
    let Nvml::Here(gpus) = nvml else { return Vec::new() };
    let mut devices = Vec::new();
    for gpu in gpus {
        let parts = gpu.mig.iter().flatten().map(|part| (part.uuid.clone(), gpu.uuid.clone()));
        devices.extend(gpu.uuid.clone().map(|uuid| (uuid, None)).into_iter().chain(parts));
    }
    devices
}

fn cut(nvml: &Nvml) -> Vec<Sliced> {
    let Nvml::Here(gpus) = nvml else { return Vec::new() };
    let of = |gpu: &nvml::Gpu| {
        let parts = gpu.mig.as_ref()?.iter();
        Some(Sliced { gpu: gpu.pci, slices: parts.map(|part| (part.uuid.clone(), part.profile.clone())).collect() })
    };
    gpus.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests;
