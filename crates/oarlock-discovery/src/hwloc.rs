//! The live host and synthetic descriptions, through hwloc.
//!
//! hwloc's answer is taken in its XML form, which the reader of exported files reads: one reader, whoever ran hwloc.

use std::path::Path;

use hwlocality::Topology;
use hwlocality::topology::builder::{BuildFlags, TopologyBuilder};
use hwlocality::topology::export::xml::XMLExportFlags;
use oarlock_core::Machine;

use crate::sysfs::{self, Tree};
use crate::{DiscoveryError, Found, Options, devices, hwloc_xml, links, nvml};

/// NVIDIA's PCI vendor id.
const NVIDIA: u16 = 0x10de;

/// This host: cores, caches and packages as hwloc sees them, nodes and devices as the kernel's files name them, GPUs
/// completed by NVML, and what this process may use by its own status.
pub(crate) fn live(options: &Options) -> Result<Found, DiscoveryError> {
    let root = &options.host_root;
    let mut found = if root == Path::new("/") {
        let hwloc = hwloc_view()?;
        match Tree::open(root) {
            Ok(tree) => complete(tree.read_machine()?, hwloc.machine),
            Err(error) => {
                let mut found = hwloc;
                found.warnings.push(format!("without /sys, devices and node sizes are unknown: {error}"));
                found
            }
        }
    } else {
        Tree::open(root)?.read_machine()?
    };
    if options.nvml {
        merge_nvml(&mut found, root, options.nvml_library.as_deref())?;
    }
    found.allowed = sysfs::cut(sysfs::status_allowed(root)?, &found.machine);
    Ok(found)
}

/// The live host as hwloc and as the kernel's files describe it, for comparison.
pub fn live_views() -> Result<(Machine, Machine), DiscoveryError> {
    Ok((hwloc_view()?.machine, Tree::open(Path::new("/"))?.read_machine()?.machine))
}

/// A machine of hwloc's synthetic form.
pub(crate) fn synthetic(description: &str) -> Result<Found, DiscoveryError> {
    let error = |source: Box<dyn std::error::Error + Send + Sync>| DiscoveryError::Synthetic {
        description: description.to_owned(),
        source,
    };
    let topology = TopologyBuilder::new()
        .from_synthetic(description)
        .map_err(|source| error(source.into()))?
        .build()
        .map_err(|source| error(source.into()))?;
    let mut found = read(&topology, "synthetic")?;
    found.machine.name = format!("synthetic:{description}");
    Ok(found)
}

/// Where two descriptions of one machine part, a line each. Devices and names are not compared: hwloc is not asked for
/// them.
pub fn differences(one: &Machine, other: &Machine) -> Vec<String> {
    let mut lines = Vec::new();
    let mut compare = |what: String, a: String, b: String| {
        if a != b {
            lines.push(format!("{what}: {a} and {b}"));
        }
    };
    let ids = |machine: &Machine| machine.nodes.iter().map(|node| node.id).collect::<Vec<_>>();
    compare("node ids".to_owned(), format!("{:?}", ids(one)), format!("{:?}", ids(other)));
    for node in &one.nodes {
        if let Some(twin) = other.node(node.id) {
            compare(format!("cpus of node {}", node.id), node.cpus.to_string(), twin.cpus.to_string());
        }
    }
    compare("cores".to_owned(), format!("{:?}", one.cores), format!("{:?}", other.cores));
    compare("last-level caches".to_owned(), format!("{:?}", one.l3), format!("{:?}", other.l3));
    compare("packages".to_owned(), format!("{:?}", one.packages), format!("{:?}", other.packages));
    // hwloc has no distances where there is one node.
    if one.nodes.len() > 1 {
        compare("distances".to_owned(), format!("{:?}", one.distances), format!("{:?}", other.distances));
    }
    lines
}

fn hwloc_view() -> Result<Found, DiscoveryError> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| DiscoveryError::Hwloc(error);
    let topology = TopologyBuilder::new()
        .with_flags(BuildFlags::INCLUDE_DISALLOWED)
        .map_err(|error| failed(error.into()))?
        .build()
        .map_err(|error| failed(error.into()))?;
    read(&topology, "hwloc")
}

fn read(topology: &Topology, name: &str) -> Result<Found, DiscoveryError> {
    let xml = topology.export_xml(XMLExportFlags::empty()).map_err(|error| DiscoveryError::Hwloc(error.into()))?;
    hwloc_xml::parse(xml.as_str().as_bytes(), Path::new(name))
}

/// The kernel's files name the nodes and their CPUs as every later step will use them, GPU memory nodes among them, which
/// hwloc hides; hwloc knows better how CPUs share cores and caches, also where the files are silent.
fn complete(mut files: Found, hwloc: Machine) -> Found {
    let (nodes, theirs) = (files.machine.cpus(), hwloc.cpus());
    if nodes != theirs {
        files.warnings.push(format!(
            "hwloc sees cpus {theirs} and the kernel's files name {nodes}: cores and caches are taken from the files"
        ));
        return files;
    }
    let machine = &mut files.machine;
    machine.cores = hwloc.cores.or(machine.cores.take());
    machine.l3 = hwloc.l3.or(machine.l3.take());
    machine.packages = hwloc.packages.or(machine.packages.take());
    files
}

/// NVML's facts join those of the PCI devices, so that one rule decides over both.
fn merge_nvml(found: &mut Found, root: &Path, library: Option<&Path>) -> Result<(), DiscoveryError> {
    let cpus = found.machine.cpus();
    let (facts, memory) = match Tree::open(root) {
        Ok(tree) => (tree.pci(&cpus)?, tree.gpu_memory()?),
        Err(_) => (Vec::new(), Vec::new()),
    };
    let expected = facts.iter().any(|device| device.vendor == Some(NVIDIA));
    let known = nvml::read(library, expected, &mut found.warnings);
    if known.gpus.is_empty() {
        return Ok(());
    }
    let machine = &mut found.machine;
    for id in known.gpus.iter().filter_map(|gpu| gpu.memory_node) {
        if let Some(node) = machine.nodes.iter_mut().find(|node| node.id == id && node.cpus.is_empty()) {
            node.gpu_memory = true;
        }
    }
    let mut warnings = Vec::new();
    let paths = sysfs::paths(&facts);
    (machine.gpus, machine.devices) = devices::sort_out(&machine.nodes, facts, &memory, &known.gpus, &mut warnings);
    machine.links = links::between(&machine.gpus, &paths, &known);
    found.warnings.extend(warnings);
    let machine = std::mem::take(machine);
    found.machine = machine
        .checked()
        .map_err(|source| DiscoveryError::Contradiction { source_name: "NVML's list of GPUs".to_owned(), source })?;
    Ok(())
}
