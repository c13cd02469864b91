//! Which GPUs and NUMA nodes a container holds.
//!
//! kubelet's word is the truth where it can be had: an environment is written by whoever writes the pod, and images bring
//! `NVIDIA_VISIBLE_DEVICES=all` along. Only without it the environment is read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use oarlock_core::pci::PciAddress;
use oarlock_core::place::{Held, MOST_NAMES, Names};
use oarlock_core::request::GpuRef;
use oarlock_core::{CpuSet, Machine, NodeSet};
use oarlock_device_plugin::allocate::{GPUS, NUMA_NODES, NUMA_SLOTS};
use oarlock_device_plugin::pod_resources::HeldDevices;

use crate::beside::is_gpu_resource;

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

impl Knowledge {
    fn names(&self) -> Names<'_> {
        Names { machine: &self.machine, slices: &self.slices }
    }

    /// Whether a resource is one of GPUs, ours or another vendor's.
    pub(crate) fn is_gpu(&self, resource: &str) -> bool {
        let own =
            resource == self.own.gpu || (!self.own.mig_prefix.is_empty() && resource.starts_with(&self.own.mig_prefix));
        own || is_gpu_resource(resource, &self.own.gpu)
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
    held.gpus = known.names().in_order(&held.gpus, env);
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
                match known.names().find(id) {
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
    // What only Allocate writes counts only where Allocate has written it: exclusive nodes are not had by asking for them.
    let given = |key| env(key).filter(|list| list.split(',').take(MOST_NAMES + 1).all(|id| known.given.contains(id)));
    let mut held = known.names().by_environment(given(GPUS), env, annotations);
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
