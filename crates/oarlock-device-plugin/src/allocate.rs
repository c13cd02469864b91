//! What a container gets for its devices. kubelet keeps the answer and replays it after restarts without asking again, so
//! it holds UUIDs and addresses, and an index only inside the name of a device node.
//!
//! kubelet merges the answers of several resources and lets the first value of a variable win, in no order. So each of
//! Oarlock's variables is set by one resource only.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_core::NodeSet;
use serde::{Deserialize, Serialize};

use crate::advertise::{Item, Thing};
use crate::backend::{AllocateError, Allocation};
use crate::proto::v1beta1::{CdiDevice, DeviceSpec};
use crate::resource_name::ResourceName;

/// The GPUs of a container, by UUID or PCI address: set by the GPU resource.
pub const GPUS: &str = "OARLOCK_GPUS";
/// The nodes of a container, in the kernel's list form: set by the resource of nodes.
pub const NUMA_NODES: &str = "OARLOCK_NUMA_NODES";
/// The slots of a container, where nodes are cut into slots: set by the resource of nodes.
pub const NUMA_SLOTS: &str = "OARLOCK_NUMA_SLOTS";
/// What NVIDIA's container runtime reads.
const NVIDIA: &str = "NVIDIA_VISIBLE_DEVICES";

/// A way in which a container is given its GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceListStrategy {
    /// `NVIDIA_VISIBLE_DEVICES`, for NVIDIA's container runtime.
    Envvar,
    /// CDI names in the field that kubelet hands to the runtime.
    CdiCri,
    /// CDI names in an annotation, for runtimes that do not read the field.
    CdiAnnotations,
    /// The device nodes themselves.
    DeviceSpecs,
}

/// How the GPUs of one resource are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuAccess {
    /// The ways, all of which are used.
    pub strategies: Vec<DeviceListStrategy>,
    /// Vendor and class of the CDI names: `nvidia.com/gpu`.
    pub cdi_kind: String,
    /// The resource, which names the annotation.
    pub resource: ResourceName,
    /// Whether this is the resource that sets [`GPUS`].
    pub sets_gpus: bool,
}

/// The device nodes of a GPU, as paths on the host. The container has them at the same paths.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceNodes {
    /// Its own.
    pub own: Vec<String>,
    /// Those that all GPUs of its driver share.
    pub shared: Vec<String>,
}

/// What decides which device nodes a GPU has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceFacts {
    /// The kernel driver: `nvidia`, `amdgpu`, `xe`.
    pub driver: Option<String>,
    /// The number in the name of NVIDIA's device node.
    pub minor: Option<u32>,
    /// The names of its nodes below `/dev/dri`.
    pub drm: Vec<String>,
    /// Those of [`OPTIONAL_NODES`] that the host has.
    pub present: BTreeSet<String>,
}

/// Device nodes of NVIDIA's driver that not every host has.
pub const OPTIONAL_NODES: [&str; 2] = ["/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"];

impl DeviceNodes {
    /// Which device nodes a GPU has. NVIDIA's are numbered by minor; the others' are their DRM nodes, and for amdgpu the
    /// one for compute.
    pub fn decide(facts: &DeviceFacts) -> Self {
        let owned = |paths: &[&str]| paths.iter().map(|&path| path.to_owned()).collect::<Vec<_>>();
        if let Some(minor) = facts.minor {
            let mut shared = owned(&["/dev/nvidiactl", "/dev/nvidia-uvm"]);
            shared
                .extend(OPTIONAL_NODES.iter().map(|&path| path.to_owned()).filter(|path| facts.present.contains(path)));
            return Self { own: vec![format!("/dev/nvidia{minor}")], shared };
        }
        let own = facts.drm.iter().map(|name| format!("/dev/dri/{name}")).collect();
        let shared = if facts.driver.as_deref() == Some("amdgpu") { owned(&["/dev/kfd"]) } else { Vec::new() };
        Self { own, shared }
    }
}

/// The items of these ids, in the order of the resource and each once.
pub fn select<'a>(items: &'a [Item], ids: &[String]) -> Result<Vec<&'a Item>, AllocateError> {
    let mut wanted: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    let chosen = items.iter().filter(|item| wanted.remove(item.id.as_str())).collect();
    if wanted.is_empty() {
        Ok(chosen)
    } else {
        Err(AllocateError::Unknown(wanted.into_iter().map(Into::into).collect()))
    }
}

/// What a container gets for GPUs or MIG devices: each by its id, with its device nodes.
///
/// Only NVIDIA's GPUs have UUIDs, and only by UUID can they be named to a runtime: a GPU without one is given by its device
/// nodes, whatever the strategies.
pub fn gpus(access: &GpuAccess, chosen: &[(&str, &DeviceNodes)]) -> Allocation {
    let ids: Vec<&str> = chosen.iter().map(|(id, _)| *id).collect();
    let named: Vec<&str> = ids.iter().copied().filter(|id| is_uuid(id)).collect();
    let cdi: Vec<String> = named.iter().map(|id| format!("{}={id}", access.cdi_kind)).collect();
    let mut allocation = Allocation::default();
    if access.sets_gpus {
        allocation.envs.insert(GPUS.to_owned(), ids.join(","));
    }
    for strategy in &access.strategies {
        match strategy {
            DeviceListStrategy::Envvar if !named.is_empty() => {
                allocation.envs.insert(NVIDIA.to_owned(), named.join(","));
            }
            DeviceListStrategy::CdiCri => {
                allocation.cdi_devices = cdi.iter().map(|name| CdiDevice { name: name.clone() }).collect();
            }
            DeviceListStrategy::CdiAnnotations if !cdi.is_empty() => {
                allocation.annotations.insert(cdi_annotation(&access.resource), cdi.join(","));
            }
            _ => {}
        }
    }
    let by_node = |id: &str| access.strategies.contains(&DeviceListStrategy::DeviceSpecs) || !is_uuid(id);
    let mut seen = BTreeSet::new();
    for (_, nodes) in chosen.iter().filter(|(id, _)| by_node(id)) {
        for path in nodes.own.iter().chain(&nodes.shared) {
            if seen.insert(path) {
                allocation.devices.push(DeviceSpec {
                    container_path: path.clone(),
                    host_path: path.clone(),
                    permissions: "rw".to_owned(),
                });
            }
        }
    }
    allocation
}

/// What a container gets for NUMA nodes or slots: their names. Whoever places its ranks makes them its CPUs and memory.
pub fn nodes(chosen: &[&Item]) -> Allocation {
    let mut ids = NodeSet::new();
    let mut slots = Vec::new();
    for item in chosen {
        if let Thing::Node { node, slot, .. } = &item.thing {
            ids.insert(*node);
            slots.extend(slot.map(|_| item.id.as_str()));
        }
    }
    let mut envs = BTreeMap::from([(NUMA_NODES.to_owned(), ids.to_string())]);
    if !slots.is_empty() {
        envs.insert(NUMA_SLOTS.to_owned(), slots.join(","));
    }
    Allocation { envs, ..Allocation::default() }
}

fn is_uuid(id: &str) -> bool {
    id.starts_with("GPU-") || id.starts_with("MIG-")
}

/// One annotation for each resource: of two with one key, kubelet keeps one. What follows the slash has at most 63
/// characters.
fn cdi_annotation(resource: &ResourceName) -> String {
    let name: String = resource.as_str().replacen('/', "_", 1);
    let tail = name.len().saturating_sub(63);
    format!("cdi.k8s.io/{}", name[tail..].trim_start_matches(['-', '_', '.']))
}

#[cfg(test)]
mod tests;
