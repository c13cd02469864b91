//! What the host offers to kubelet: from a machine and settings to resources with their devices. Nothing is read here.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_core::machine::{Gpu, Machine, Node};
use oarlock_core::pci::PciAddress;
use oarlock_core::{CpuSet, NodeSet};

use crate::prefer::Closeness;
use crate::resource_name::{ResourceName, ResourceNameError};

/// One resource and its devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Its name.
    pub name: ResourceName,
    /// Its devices, in a fixed order: by GPU or node.
    pub items: Vec<Item>,
    /// How close they are to each other, by position.
    pub closeness: Closeness,
}

/// One device of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its name in every call of kubelet's.
    pub id: String,
    /// Where the CPUs next to it are; empty where that is not known.
    pub nodes: NodeSet,
    /// What it is.
    pub thing: Thing,
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thing {
    /// A whole GPU, by its position in the machine.
    Gpu {
        /// The position.
        gpu: usize,
    },
    /// A MIG device of the GPU at this position. Its id is its UUID.
    Slice {
        /// The position.
        gpu: usize,
    },
    /// A NUMA node, or a slot of it.
    Node {
        /// The node.
        node: u32,
        /// Which slot, from 0; `None` for the whole node.
        slot: Option<u32>,
        /// The CPUs that go with it.
        cpus: CpuSet,
    },
}

/// The MIG devices of one GPU whose MIG mode is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sliced {
    /// The GPU.
    pub gpu: PciAddress,
    /// UUID and profile (`1g.10gb`) of each, where NVML tells the profile.
    pub slices: Vec<(String, Option<String>)>,
}

/// How MIG devices are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MigStrategy {
    /// Not at all: a GPU is one device whatever its mode.
    #[default]
    None,
    /// As devices of the GPU resource. All GPUs are then cut, and into devices of one profile.
    Single,
    /// As a resource for each profile; GPUs that are not cut stay devices of the GPU resource.
    Mixed,
}

/// How GPUs are offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuSettings {
    /// The resource of GPUs.
    pub name: ResourceName,
    /// What to do about MIG devices.
    pub mig: MigStrategy,
    /// What the resource of a profile is called, before the profile: `oarlock.dev/mig-`.
    pub mig_prefix: String,
}

/// How NUMA nodes are offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSettings {
    /// The resource of nodes.
    pub name: ResourceName,
    /// Into how many equal slots each node is cut; 1 offers whole nodes.
    pub slots_per_node: u32,
    /// The CPUs that the system keeps: in no slot, and no part of a node that is offered.
    pub reserved: CpuSet,
}

/// Resources, and what a person should know about them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offers {
    /// The resources.
    pub offers: Vec<Offer>,
    /// What is left out, and why.
    pub warnings: Vec<String>,
}

/// A machine that does not go with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdvertiseError {
    /// Strategy `single` on a machine that is not cut alike.
    #[error("MIG strategy \"single\" needs every GPU cut into devices of one profile: here are {0}")]
    NotAlike(String),
    /// A profile that makes no resource name.
    #[error("the MIG profile \"{profile}\" makes no resource name")]
    Profile {
        /// The profile.
        profile: String,
        /// The rule that the name breaks.
        source: ResourceNameError,
    },
    /// More slots than cores.
    #[error(
        "slotsPerNode is {slots}, but node {node} has {cores} whole cores that are not reserved: a slot has at least one"
    )]
    TooManySlots {
        /// Slots asked for.
        slots: u32,
        /// The node.
        node: u32,
        /// Its cores that could be in a slot.
        cores: usize,
    },
    /// Slots without knowing the cores.
    #[error("slotsPerNode is {0}, but the machine does not tell which cpus share a core")]
    CoresUnknown(u32),
}

/// The resources of the machine's GPUs, of those that are `offered`. `cut` holds every GPU whose MIG mode is on.
pub fn gpus(
    machine: &Machine,
    offered: impl Fn(&Gpu) -> bool,
    cut: &[Sliced],
    settings: &GpuSettings,
) -> Result<Offers, AdvertiseError> {
    let mut warnings = Vec::new();
    let mut whole: Vec<Item> = Vec::new();
    let mut slices: Vec<(Option<&str>, Item)> = Vec::new();
    for (position, gpu) in machine.gpus.iter().enumerate().filter(|(_, gpu)| offered(gpu)) {
        let nodes = cpu_nodes_of(machine, gpu);
        let own = cut.iter().find(|sliced| Some(sliced.gpu) == gpu.pci);
        match own.filter(|_| settings.mig != MigStrategy::None) {
            Some(sliced) => slices.extend(sliced.slices.iter().map(|(uuid, profile)| {
                let thing = Thing::Slice { gpu: position };
                (profile.as_deref(), Item { id: uuid.clone(), nodes: nodes.clone(), thing })
            })),
            None => match gpu_id(gpu) {
                Some(id) => whole.push(Item { id, nodes, thing: Thing::Gpu { gpu: position } }),
                None => warnings.push(format!("gpu {} has neither UUID nor PCI address: it is not offered", gpu.index)),
            },
        }
    }
    let mut offers = Vec::new();
    let alone = settings.mig == MigStrategy::Single && !slices.is_empty();
    if alone {
        alike(&whole, &slices)?;
        offers.push(offer(machine, settings.name.clone(), slices.into_iter().map(|(_, item)| item).collect()));
        return Ok(Offers { offers, warnings });
    }
    offers.push(offer(machine, settings.name.clone(), whole));
    let mut by_profile: BTreeMap<&str, Vec<Item>> = BTreeMap::new();
    for (profile, item) in slices {
        match profile {
            Some(profile) => by_profile.entry(profile).or_default().push(item),
            None => warnings.push(format!("MIG device {} does not tell its profile: it is not offered", item.id)),
        }
    }
    for (profile, items) in by_profile {
        let name = format!("{}{}", settings.mig_prefix, profile.replace('+', "."));
        let name = name.parse().map_err(|source| AdvertiseError::Profile { profile: profile.to_owned(), source })?;
        offers.push(offer(machine, name, items));
    }
    Ok(Offers { offers, warnings })
}

/// The resource of the machine's NUMA nodes with CPUs.
pub fn nodes(machine: &Machine, settings: &NodeSettings) -> Result<Offer, AdvertiseError> {
    let slots = settings.slots_per_node;
    let mut items = Vec::new();
    for node in &machine.nodes {
        let cpus = node.cpus.difference(&settings.reserved);
        if cpus.is_empty() {
            continue;
        }
        let item =
            |id, slot, cpus| Item { id, nodes: NodeSet::of(node.id), thing: Thing::Node { node: node.id, slot, cpus } };
        if slots == 1 {
            items.push(item(format!("node-{}", node.id), None, cpus));
            continue;
        }
        for (slot, cpus) in (0..).zip(cut_node(machine, node, settings)?) {
            items.push(item(format!("node-{}-slot-{slot}", node.id), Some(slot), cpus));
        }
    }
    let ids: Vec<u32> = items.iter().filter_map(|item| item.nodes.first()).collect();
    Ok(Offer { name: settings.name.clone(), closeness: Closeness::of_nodes(machine, &ids), items })
}

/// Equal numbers of whole cores, in the order of their CPUs; what is left over belongs to nobody. A core with a reserved
/// thread is in no slot, since its threads share what the core has.
fn cut_node(machine: &Machine, node: &Node, settings: &NodeSettings) -> Result<Vec<CpuSet>, AdvertiseError> {
    let slots = settings.slots_per_node;
    let cores = machine.cores.as_ref().ok_or(AdvertiseError::CoresUnknown(slots))?;
    let whole = |core: &&CpuSet| core.is_subset(&node.cpus) && !core.intersects(&settings.reserved);
    let cores: Vec<&CpuSet> = cores.iter().filter(whole).collect();
    let each = cores.len().checked_div(slots as usize).unwrap_or(0);
    if each == 0 {
        return Err(AdvertiseError::TooManySlots { slots, node: node.id, cores: cores.len() });
    }
    let joined = |cores: &[&CpuSet]| cores.iter().fold(CpuSet::new(), |all, core| all.union(core));
    Ok(cores.chunks_exact(each).take(slots as usize).map(joined).collect())
}

/// The GPU's name for kubelet: its UUID, else its address. Never its index, which another boot may give to another GPU.
fn gpu_id(gpu: &Gpu) -> Option<String> {
    gpu.uuid.clone().or_else(|| gpu.pci.map(|address| address.to_string()))
}

/// kubelet matches these nodes with CPUs: a node that is memory only, as a GPU's own, would fit none.
fn cpu_nodes_of(machine: &Machine, gpu: &Gpu) -> NodeSet {
    gpu.locality.node().map_or_else(NodeSet::new, |node| machine.cpu_nodes_near(node))
}

fn alike(whole: &[Item], slices: &[(Option<&str>, Item)]) -> Result<(), AdvertiseError> {
    let profiles: BTreeSet<&str> = slices.iter().map(|(profile, _)| profile.unwrap_or("unknown")).collect();
    if whole.is_empty() && profiles.len() == 1 {
        return Ok(());
    }
    let mut found: Vec<String> = profiles.iter().map(|profile| format!("profile {profile}")).collect();
    if !whole.is_empty() {
        found.push(format!("{} whole GPUs", whole.len()));
    }
    Err(AdvertiseError::NotAlike(found.join(", ")))
}

fn offer(machine: &Machine, name: ResourceName, items: Vec<Item>) -> Offer {
    let positions: Vec<usize> = items.iter().filter_map(|item| item.thing.gpu()).collect();
    Offer { name, closeness: Closeness::of_gpus(machine, &positions), items }
}

impl Thing {
    /// The position among the machine's GPUs of the GPU that it is, or is a part of.
    pub fn gpu(&self) -> Option<usize> {
        match self {
            Self::Gpu { gpu } | Self::Slice { gpu } => Some(*gpu),
            Self::Node { .. } => None,
        }
    }
}

impl Offer {
    /// `size` of the `available` ids, `must_include` among them: see [`Closeness::choose`]. Ids that are not of this
    /// resource are dropped.
    pub fn prefer(&self, available: &[String], must_include: &[String], size: usize) -> Vec<String> {
        let positions: BTreeMap<&str, usize> =
            self.items.iter().enumerate().map(|(at, item)| (item.id.as_str(), at)).collect();
        let known = |ids: &[String]| -> Vec<usize> {
            ids.iter().filter_map(|id| positions.get(id.as_str()).copied()).collect()
        };
        let chosen = self.closeness.choose(&known(available), &known(must_include), size);
        chosen.into_iter().map(|at| self.items[at].id.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
