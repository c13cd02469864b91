//! The machine: NUMA nodes, CPUs, cores, last-level caches, packages, distances, GPUs. Facts only, nothing decided.

use crate::idset::{CpuSet, NodeSet};
use crate::link::Link;
use crate::locality::Locality;
use crate::pci::PciAddress;

/// One machine, as some source describes it. [`Machine::checked`] makes one that the planner accepts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    /// What people call it: the host's name, or the name in the machine file.
    pub name: String,
    /// The online NUMA nodes, ascending by id.
    pub nodes: Vec<Node>,
    /// The online physical cores, each as the set of its hardware threads, ascending by lowest thread. `None` where the
    /// source is silent.
    pub cores: Option<Vec<CpuSet>>,
    /// Whether `cores` are read off the numbering of the CPUs, and not off the machine.
    pub cores_assumed: bool,
    /// The groups of CPUs that share their highest data or unified cache (L3 on most machines), ascending by lowest
    /// CPU. `None` where the source is silent.
    pub l3: Option<Vec<CpuSet>>,
    /// The packages (sockets), ascending by id. `None` where the source is silent.
    pub packages: Option<Vec<Package>>,
    /// `distances[i][j]`: the ACPI SLIT distance from `nodes[i]` to `nodes[j]`; 10 is local. `None` where the source is
    /// silent.
    pub distances: Option<Vec<Vec<u32>>>,
    /// The GPUs, ascending by index.
    pub gpus: Vec<Gpu>,
    /// `links[i][j]`: the path between `gpus[i]` and `gpus[j]`. `None` where the source is silent.
    pub links: Option<Vec<Vec<Link>>>,
    /// Every other PCI device whose locality is known or could be asked for by address.
    pub devices: Vec<PciDevice>,
}

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The kernel's node id. Ids can have gaps.
    pub id: u32,
    /// The node's online CPUs; empty for a node that is memory only.
    pub cpus: CpuSet,
    /// The node's memory in MiB; `None` where the source is silent, 0 for a node without memory.
    pub memory_mb: Option<u64>,
    /// Whether the memory is a GPU's own (POWER9, Grace in NUMA mode). Such nodes are never chosen and never counted.
    pub gpu_memory: bool,
}

/// A package: what is plugged into one socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// The kernel's `physical_package_id`.
    pub id: u32,
    /// Its online CPUs.
    pub cpus: CpuSet,
}

/// A GPU, or a PCI device that stands for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its number in the source: NVML's index, else by PCI address. Shown to people; never an identity.
    pub index: u32,
    /// Its PCI address, where the source tells.
    pub pci: Option<PciAddress>,
    /// NVML's UUID, where there is one.
    pub uuid: Option<String>,
    /// What the vendor calls it.
    pub model: Option<String>,
    /// The NUMA node it is attached to.
    pub locality: Locality,
    /// The CPUs that the source calls local to it.
    pub local_cpus: Option<CpuSet>,
    /// The NUMA node that is this GPU's own memory, where it is one.
    pub memory_node: Option<u32>,
}

/// A PCI device that does not count as a GPU unless its address is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciDevice {
    /// Where it sits.
    pub address: PciAddress,
    /// The 24-bit class code (`0x020700` is an InfiniBand controller).
    pub class: Option<u32>,
    /// PCI vendor id.
    pub vendor: Option<u16>,
    /// PCI device id.
    pub device: Option<u16>,
    /// What the operating system calls it (`mlx5_0`, `eth0`).
    pub name: Option<String>,
    /// The NUMA node it is attached to.
    pub locality: Locality,
    /// The CPUs that the source calls local to it.
    pub local_cpus: Option<CpuSet>,
}

/// Parts of a machine that contradict each other, or miss what no plan can do without.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// No node at all.
    #[error("no NUMA node is described: nodes is empty")]
    NoNodes,
    /// No CPU at all.
    #[error("no node has a cpu")]
    NoCpus,
    /// Two nodes of one id.
    #[error("node {0} is described twice")]
    NodeTwice(u32),
    /// The matrix does not fit the nodes.
    #[error("distances has row lengths {rows:?} for {nodes} nodes: one row and one column per node")]
    Distances {
        /// Length of each row.
        rows: Vec<usize>,
        /// How many nodes there are.
        nodes: usize,
    },
    /// The matrix does not fit the GPUs.
    #[error("links has row lengths {rows:?} for {gpus} gpus: one row and one column per gpu")]
    Links {
        /// Length of each row.
        rows: Vec<usize>,
        /// How many GPUs there are.
        gpus: usize,
    },
    /// Two groups of one kind share CPUs.
    #[error("cpus {cpus} are in two {what}: each cpu is in one")]
    Overlap {
        /// "cores", "l3 groups", "packages".
        what: &'static str,
        /// The shared CPUs.
        cpus: CpuSet,
    },
    /// A core, L3 group or package holds CPUs that no node holds.
    #[error("cpus {cpus} are in {what} but in no node")]
    OutsideNodes {
        /// "cores", "l3 groups", "packages".
        what: &'static str,
        /// The CPUs without a node.
        cpus: CpuSet,
    },
    /// Two GPUs of one index.
    #[error("gpu {0} is described twice")]
    GpuTwice(u32),
    /// Two GPUs at one address.
    #[error("pci address {0} is described twice")]
    AddressTwice(PciAddress),
    /// A GPU on a node that is not there.
    #[error("gpu {gpu} is on node {node}, which is not described")]
    GpuNode {
        /// The GPU's index.
        gpu: u32,
        /// The node it names.
        node: u32,
    },
}

impl Machine {
    /// Sorts the parts and checks that they fit together. CPUs in several nodes pass (firmware does that): whoever plans
    /// on such a machine gets the union of those nodes.
    pub fn checked(mut self) -> Result<Self, Contradiction> {
        if self.nodes.is_empty() {
            return Err(Contradiction::NoNodes);
        }
        if let Some(matrix) = &self.distances
            && (matrix.len() != self.nodes.len() || matrix.iter().any(|row| row.len() != self.nodes.len()))
        {
            return Err(Contradiction::Distances {
                rows: matrix.iter().map(Vec::len).collect(),
                nodes: self.nodes.len(),
            });
        }
        self.sort_nodes();
        if let Some(pair) = self.nodes.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(Contradiction::NodeTwice(pair[0].id));
        }
        let cpus = self.cpus();
        if cpus.is_empty() {
            return Err(Contradiction::NoCpus);
        }
        for (what, groups) in [("cores", &mut self.cores), ("l3 groups", &mut self.l3)] {
            if let Some(groups) = groups {
                groups.retain(|group| !group.is_empty());
                groups.sort();
                check_groups(what, groups.iter(), &cpus)?;
            }
        }
        if let Some(packages) = &mut self.packages {
            packages.sort_by_key(|package| package.id);
            check_groups("packages", packages.iter().map(|package| &package.cpus), &cpus)?;
        }
        self.check_gpus()?;
        Ok(self)
    }

    /// All CPUs of all nodes: the online CPUs.
    pub fn cpus(&self) -> CpuSet {
        let mut cpus = CpuSet::new();
        for node in &self.nodes {
            cpus.extend(&node.cpus);
        }
        cpus
    }

    /// The node of this id.
    pub fn node(&self, id: u32) -> Option<&Node> {
        self.nodes.binary_search_by_key(&id, |node| node.id).ok().map(|index| &self.nodes[index])
    }

    /// The nodes that hold any of these CPUs.
    pub fn nodes_of(&self, cpus: &CpuSet) -> NodeSet {
        self.nodes.iter().filter(|node| node.cpus.intersects(cpus)).map(|node| node.id).collect()
    }

    /// The nodes that ranks may get memory from: all that have some (or may, where the source is silent), less GPU
    /// memory.
    pub fn memory_nodes(&self) -> NodeSet {
        self.nodes.iter().filter(|node| node.has_memory() && !node.gpu_memory).map(|node| node.id).collect()
    }

    /// The nodes that have CPUs.
    pub fn cpu_nodes(&self) -> NodeSet {
        self.nodes.iter().filter(|node| !node.cpus.is_empty()).map(|node| node.id).collect()
    }

    /// Where the CPUs next to a device on `node` are: on the node itself, else on the nearest nodes that have some.
    pub fn cpu_nodes_near(&self, node: u32) -> NodeSet {
        let bearing = self.cpu_nodes();
        if bearing.contains(node) { NodeSet::of(node) } else { self.nearest(node, &bearing) }
    }

    /// The nearest of `candidates` to `from`, with all ties; all of them where the machine does not tell distances.
    pub fn nearest(&self, from: u32, candidates: &NodeSet) -> NodeSet {
        let distances: Vec<(Option<u32>, u32)> =
            candidates.iter().map(|node| (self.distance(from, node), node)).collect();
        let least = distances.iter().filter_map(|(distance, _)| *distance).min();
        distances.into_iter().filter(|(distance, _)| *distance == least).map(|(_, node)| node).collect()
    }

    /// The distance between two nodes, where the source tells.
    pub fn distance(&self, from: u32, to: u32) -> Option<u32> {
        let position = |id| self.nodes.binary_search_by_key(&id, |node: &Node| node.id).ok();
        let matrix = self.distances.as_ref()?;
        matrix.get(position(from)?)?.get(position(to)?).copied()
    }

    fn sort_nodes(&mut self) {
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.sort_by_key(|&index| self.nodes[index].id);
        self.nodes.sort_by_key(|node| node.id);
        if let Some(matrix) = &mut self.distances {
            *matrix = order.iter().map(|&row| order.iter().map(|&column| matrix[row][column]).collect()).collect();
        }
    }

    fn check_gpus(&mut self) -> Result<(), Contradiction> {
        let count = self.gpus.len();
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|&at| self.gpus[at].index);
        if let Some(links) = &mut self.links {
            if links.len() != count || links.iter().any(|row| row.len() != count) {
                return Err(Contradiction::Links { rows: links.iter().map(Vec::len).collect(), gpus: count });
            }
            *links = order.iter().map(|&row| order.iter().map(|&column| links[row][column]).collect()).collect();
        }
        self.gpus.sort_by_key(|gpu| gpu.index);
        if let Some(pair) = self.gpus.windows(2).find(|pair| pair[0].index == pair[1].index) {
            return Err(Contradiction::GpuTwice(pair[0].index));
        }
        self.devices.sort_by_key(|device| device.address);
        let gpus = self.gpus.iter().filter_map(|gpu| gpu.pci);
        let mut addresses: Vec<PciAddress> = gpus.chain(self.devices.iter().map(|device| device.address)).collect();
        addresses.sort_unstable();
        if let Some(pair) = addresses.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Contradiction::AddressTwice(pair[0]));
        }
        for gpu in &self.gpus {
            if let Locality::Node { node, .. } = gpu.locality
                && self.node(node).is_none()
            {
                return Err(Contradiction::GpuNode { gpu: gpu.index, node });
            }
        }
        Ok(())
    }
}

impl Node {
    /// Whether memory can come from here. A node whose size is unknown counts: only a known 0 does not.
    pub fn has_memory(&self) -> bool {
        self.memory_mb != Some(0)
    }
}

fn check_groups<'a>(
    what: &'static str,
    groups: impl Iterator<Item = &'a CpuSet>,
    cpus: &CpuSet,
) -> Result<(), Contradiction> {
    let mut seen = CpuSet::new();
    for group in groups {
        if group.intersects(&seen) {
            return Err(Contradiction::Overlap { what, cpus: group.intersection(&seen) });
        }
        seen.extend(group);
    }
    if seen.is_subset(cpus) { Ok(()) } else { Err(Contradiction::OutsideNodes { what, cpus: seen.difference(cpus) }) }
}
