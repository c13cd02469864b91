//! Which GPUs and NUMA nodes a container holds.
//!
//! kubelet's word is the truth where it can be had: an environment is written by whoever writes the pod, and images bring
//! `NVIDIA_VISIBLE_DEVICES=all` along. Only without it the environment is read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use oarlock_core::locality::{Evidence, Locality};
use oarlock_core::machine::Gpu;
use oarlock_core::pci::PciAddress;
use oarlock_core::request::GpuRef;
use oarlock_core::{CpuSet, Machine, NodeSet, visible};
use oarlock_device_plugin::allocate::{GPUS, NUMA_NODES, NUMA_SLOTS};
use oarlock_device_plugin::pod_resources::HeldDevices;

use crate::beside::is_gpu_resource;

/// What the annotations with names of CDI devices begin with.
pub(crate) const CDI: &str = "cdi.k8s.io/";

/// What decides what an id means.
#[derive(Debug, Clone, Default)]
pub(crate) struct Knowledge {
    /// The machine.
    pub(crate) machine: Machine,
    /// The GPU of each MIG device, by UUID.
    pub(crate) slices: BTreeMap<String, PciAddress>,
    /// The CPUs of each NUMA node or slot that is offered, by its id, and its node.
    pub(crate) slots: BTreeMap<String, (u32, CpuSet)>,
    /// What this agent's own Allocate has given away.
    pub(crate) given: Given,
    /// The names of our own resources: of GPUs, what the names for MIG devices begin with, and of nodes.
    pub(crate) own: OwnResources,
}

/// The ids that this agent's own Allocate has given to some container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given(Arc<RwLock<BTreeSet<String>>>);

impl Given {
    pub(crate) fn add(&self, ids: &[String]) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).extend(ids.iter().cloned());
    }

    fn contains(&self, id: &str) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(id)
    }
}

/// What our own resources are called.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct OwnResources {
    pub(crate) gpu: String,
    pub(crate) mig_prefix: String,
    pub(crate) numa_node: String,
}

/// What a container holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Held {
    /// Its GPUs, in the order in which its processes number them.
    pub(crate) gpus: Vec<GpuRef>,
    /// Devices on these nodes that are GPUs of a vendor whose ids say nothing here, one entry each.
    pub(crate) foreign: Vec<NodeSet>,
    /// NUMA nodes and slots that are its own: their CPUs, and their nodes.
    pub(crate) own: Option<(CpuSet, NodeSet)>,
    /// Names in the environment that are no GPU of this host.
    pub(crate) unknown: Vec<String>,
}

impl Knowledge {
    /// Whether a resource is one of GPUs, ours or another vendor's.
    pub(crate) fn is_gpu(&self, resource: &str) -> bool {
        let own =
            resource == self.own.gpu || (!self.own.mig_prefix.is_empty() && resource.starts_with(&self.own.mig_prefix));
        own || is_gpu_resource(resource, &self.own.gpu)
    }
}

impl Held {
    pub(crate) fn has_gpus(&self) -> bool {
        !self.gpus.is_empty() || !self.foreign.is_empty()
    }

    /// The machine with the GPUs of other vendors in it, and how to name all that the container holds. Such GPUs come last:
    /// their addresses, and so their order among the others, are not known.
    pub(crate) fn on(&self, machine: &Machine) -> Option<(Machine, Vec<GpuRef>)> {
        if self.foreign.is_empty() {
            return None;
        }
        let mut machine = machine.clone();
        // The links of GPUs that nobody described are not known.
        machine.links = None;
        let mut refs = self.gpus.clone();
        for nodes in &self.foreign {
            let index = machine.gpus.iter().map(|gpu| gpu.index + 1).max().unwrap_or(0);
            let locality = match (nodes.len(), nodes.first()) {
                (1, Some(node)) => Locality::Node { node, from: Evidence::Plugin },
                _ => Locality::Unknown { why: format!("its device plugin names nodes {nodes:?}") },
            };
            machine.gpus.push(Gpu {
                index,
                pci: None,
                uuid: None,
                model: None,
                locality,
                local_cpus: None,
                memory_node: None,
            });
            refs.push(GpuRef::Index(index));
        }
        Some((machine, refs))
    }
}

/// What a container holds, by kubelet's word where there is one (`None`: kubelet could not be asked), and what its
/// environment and the CDI names in its annotations make of it.
pub(crate) fn held<'a>(
    known: &Knowledge,
    devices: Option<&[HeldDevices]>,
    env: &dyn Fn(&str) -> Option<&'a str>,
    annotations: impl Iterator<Item = (&'a str, &'a str)>,
) -> Held {
    let mut held = match devices {
        Some(devices) => by_kubelet(known, devices),
        None => by_environment(known, env, annotations),
    };
    let found: Vec<&Gpu> = held.gpus.iter().filter_map(|gpu| by_ref(known, gpu)).collect();
    held.gpus = match visible::VISIBLE_DEVICES.iter().find_map(|key| env(key)) {
        Some(list) => visible::among(found, list),
        None => in_order(found),
    };
    held
}

fn by_kubelet(known: &Knowledge, devices: &[HeldDevices]) -> Held {
    let mut held = Held::default();
    for device in devices {
        if device.resource == known.own.numa_node {
            let (cpus, nodes) = held.own.get_or_insert_default();
            for id in &device.ids {
                if let Some((node, slot)) = known.slots.get(id) {
                    cpus.extend(slot);
                    nodes.insert(*node);
                }
            }
        } else if known.is_gpu(&device.resource) {
            for id in &device.ids {
                match find(known, id) {
                    Some(gpu) => held.gpus.push(GpuRef::Index(gpu.index)),
                    None => held.foreign.push(device.nodes.clone()),
                }
            }
        }
    }
    held
}

fn by_environment<'a>(
    known: &Knowledge,
    env: &dyn Fn(&str) -> Option<&'a str>,
    annotations: impl Iterator<Item = (&'a str, &'a str)>,
) -> Held {
    let mut held = Held::default();
    let mut names: Vec<&str> = Vec::new();
    // What only Allocate writes counts only where Allocate has written it: exclusive nodes are not had by asking for them.
    let given = |key| env(key).filter(|list| list.split(',').take(MOST_NAMES + 1).all(|id| known.given.contains(id)));
    match (given(GPUS), env("NVIDIA_VISIBLE_DEVICES")) {
        (None, Some("all")) => held.gpus = known.machine.gpus.iter().map(|gpu| GpuRef::Index(gpu.index)).collect(),
        (None, Some("none" | "void" | "") | None) => {}
        (Some(list), _) | (None, Some(list)) => names.extend(list.split(',')),
    }
    for (_, value) in annotations.filter(|(key, _)| key.starts_with(CDI)) {
        names.extend(value.split(',').filter_map(|name| name.split_once('=')).map(|(_, name)| name));
    }
    let mut seen = BTreeSet::new();
    for name in names.into_iter().map(str::trim).filter(|name| !name.is_empty()).take(MOST_NAMES) {
        match find(known, name) {
            Some(gpu) if seen.insert(gpu.index) => held.gpus.push(GpuRef::Index(gpu.index)),
            Some(_) => {}
            None => held.unknown.push(name.chars().take(64).collect()),
        }
    }
    let whole = env(NUMA_NODES).and_then(|nodes| nodes.parse::<NodeSet>().ok()).unwrap_or_default();
    let whole = whole.iter().map(|node| format!("node-{node}")).collect::<Vec<_>>();
    let slots = given(NUMA_SLOTS).map(|list| list.split(',').map(str::to_owned).collect());
    for id in slots.unwrap_or(whole).iter().filter(|id| known.given.contains(id)) {
        if let Some((node, cpus)) = known.slots.get(id) {
            let own = held.own.get_or_insert_default();
            own.0.extend(cpus);
            own.1.insert(*node);
        }
    }
    held
}

/// No host has more devices than this; an environment may name a million.
const MOST_NAMES: usize = 1024;

/// The GPU of this id: its UUID, that of one of its MIG devices, its PCI address, or its index; with or without the `::N`
/// of a GPU that is shared.
fn find<'a>(known: &'a Knowledge, id: &str) -> Option<&'a Gpu> {
    let id = id.split_once("::").map_or(id, |(id, _)| id);
    let gpus = &known.machine.gpus;
    if let Some(gpu) = gpus.iter().find(|gpu| gpu.uuid.as_deref() == Some(id)) {
        return Some(gpu);
    }
    let address = known.slices.get(id).copied().or_else(|| id.parse().ok());
    let index = || id.parse::<u32>().ok();
    match address {
        Some(address) => gpus.iter().find(|gpu| gpu.pci == Some(address)),
        None => index().and_then(|index| gpus.iter().find(|gpu| gpu.index == index)),
    }
}

fn by_ref<'a>(known: &'a Knowledge, gpu: &GpuRef) -> Option<&'a Gpu> {
    let GpuRef::Index(index) = gpu else { return None };
    known.machine.gpus.iter().find(|gpu| gpu.index == *index)
}

/// By PCI address, each once: two MIG devices of one GPU are one place.
fn in_order(mut gpus: Vec<&Gpu>) -> Vec<GpuRef> {
    gpus.sort_by_key(|gpu| (gpu.pci, gpu.index));
    gpus.dedup_by_key(|gpu| gpu.index);
    gpus.into_iter().map(|gpu| GpuRef::Index(gpu.index)).collect()
}
