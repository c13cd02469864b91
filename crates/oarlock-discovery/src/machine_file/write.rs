//! From a machine to JSON.

use oarlock_core::CpuSet;
use oarlock_core::locality::{Evidence, Locality};
use oarlock_core::machine::{Gpu, Machine, Node, Package, PciDevice};
use oarlock_core::pci::PciAddress;
use serde::Serialize;
use serde_json::{Map, Value};

use super::gpus::EVIDENCE;
use super::links;

/// The file, its fields in the order in which a person reads them.
#[derive(Serialize)]
struct File<'a> {
    name: &'a str,
    cpus_total: Value,
    smt: Value,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    nodes_overlap: bool,
    nodes: Vec<FileNode<'a>>,
    distances: Option<Distances<'a>>,
    packages: Option<Vec<FilePackage<'a>>>,
    l3: Option<&'a [CpuSet]>,
    cores: Option<&'a [CpuSet]>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cores_assumed: bool,
    gpus: Vec<FileGpu<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_matrix: Option<Value>,
    devices: Vec<FileDevice<'a>>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Serialize)]
struct FileNode<'a> {
    id: u32,
    cpulist: &'a CpuSet,
    memory_mb: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    gpu_memory: bool,
}

#[derive(Serialize)]
struct Distances<'a> {
    ids: Vec<u32>,
    matrix: &'a [Vec<u32>],
}

#[derive(Serialize)]
struct FilePackage<'a> {
    id: u32,
    cpulist: &'a CpuSet,
}

#[derive(Serialize)]
struct FileGpu<'a> {
    index: u32,
    pci: Option<PciAddress>,
    #[serde(flatten)]
    place: Place<'a>,
    memory_node: Option<u32>,
    uuid: Option<&'a str>,
    model: Option<&'a str>,
}

#[derive(Serialize)]
struct FileDevice<'a> {
    name: Option<&'a str>,
    pci: PciAddress,
    #[serde(flatten)]
    place: Place<'a>,
    class: Option<String>,
    vendor: Option<String>,
    device: Option<String>,
}

/// Where a device is, and how that is known: it could not be found again from the rest.
#[derive(Serialize)]
struct Place<'a> {
    numa_node: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    numa_node_from: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    numa_node_unknown: Option<&'a str>,
    cpu_affinity: Option<&'a CpuSet>,
}

/// Writes a machine file, with `extra` fields of the file it came from. Reading it again gives the same machine.
pub fn write(machine: &Machine, extra: &Map<String, Value>) -> String {
    let mut extra = extra.clone();
    // What the source stated of the whole counts before what the parts add up to.
    let cpus_total = extra.remove("cpus_total").unwrap_or_else(|| machine.cpus().len().into());
    let smt = extra.remove("smt").unwrap_or_else(|| smt(machine));
    let link_matrix = extra.remove("link_matrix");
    let ids = || machine.nodes.iter().map(|node| node.id).collect();
    let file = File {
        name: &machine.name,
        cpus_total,
        smt,
        nodes_overlap: nodes_overlap(machine),
        nodes: machine.nodes.iter().map(FileNode::from).collect(),
        distances: machine.distances.as_ref().map(|matrix| Distances { ids: ids(), matrix }),
        packages: machine.packages.as_ref().map(|packages| packages.iter().map(FilePackage::from).collect()),
        l3: machine.l3.as_deref(),
        cores: machine.cores.as_deref(),
        cores_assumed: machine.cores_assumed,
        gpus: machine.gpus.iter().map(FileGpu::from).collect(),
        link_matrix: link_matrix.or_else(|| machine.links.as_ref().map(|links| links::write(&machine.gpus, links))),
        devices: machine.devices.iter().map(FileDevice::from).collect(),
        extra,
    };
    // Texts and numbers under text keys: there is nothing in it that JSON cannot hold.
    let mut text = serde_json::to_string_pretty(&file).unwrap_or_default();
    text.push('\n');
    text
}

impl<'a> From<&'a Node> for FileNode<'a> {
    fn from(node: &'a Node) -> Self {
        Self { id: node.id, cpulist: &node.cpus, memory_mb: node.memory_mb, gpu_memory: node.gpu_memory }
    }
}

impl<'a> From<&'a Package> for FilePackage<'a> {
    fn from(package: &'a Package) -> Self {
        Self { id: package.id, cpulist: &package.cpus }
    }
}

impl<'a> From<&'a Gpu> for FileGpu<'a> {
    fn from(gpu: &'a Gpu) -> Self {
        Self {
            index: gpu.index,
            pci: gpu.pci,
            place: Place::new(&gpu.locality, gpu.local_cpus.as_ref()),
            memory_node: gpu.memory_node,
            uuid: gpu.uuid.as_deref(),
            model: gpu.model.as_deref(),
        }
    }
}

impl<'a> From<&'a PciDevice> for FileDevice<'a> {
    fn from(device: &'a PciDevice) -> Self {
        Self {
            name: device.name.as_deref(),
            pci: device.address,
            place: Place::new(&device.locality, device.local_cpus.as_ref()),
            class: device.class.map(|class| format!("0x{class:06x}")),
            vendor: device.vendor.map(|id| format!("0x{id:04x}")),
            device: device.device.map(|id| format!("0x{id:04x}")),
        }
    }
}

impl<'a> Place<'a> {
    fn new(locality: &'a Locality, local_cpus: Option<&'a CpuSet>) -> Self {
        let word = |from: &Evidence| EVIDENCE.iter().find(|(_, evidence)| evidence == from).map(|(word, _)| *word);
        let (numa_node_from, numa_node_unknown) = match locality {
            Locality::Node { from, .. } => (word(from), None),
            Locality::Unknown { why } => (None, Some(why.as_str())),
        };
        Self { numa_node: locality.node(), numa_node_from, numa_node_unknown, cpu_affinity: local_cpus }
    }
}

/// The number of threads a core, where all cores have the same and that is no assumption.
fn smt(machine: &Machine) -> Value {
    if machine.cores_assumed {
        return Value::Null;
    }
    let mut sizes = machine.cores.iter().flatten().map(CpuSet::len);
    match sizes.next() {
        Some(first) if sizes.all(|size| size == first) => first.into(),
        _ => Value::Null,
    }
}

fn nodes_overlap(machine: &Machine) -> bool {
    let total: usize = machine.nodes.iter().map(|node| node.cpus.len()).sum();
    total > machine.cpus().len()
}
