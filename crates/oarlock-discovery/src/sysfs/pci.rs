//! PCI devices, the bridges above them, and which NUMA node is a GPU's own memory.

use std::path::{Path, PathBuf};

use oarlock_core::CpuSet;
use oarlock_core::locality::LocalityFacts;
use oarlock_core::pci::PciAddress;

use crate::links::PciPath;
use crate::{DiscoveryError, kernel_file};

/// Class code of every kind of bridge, in the upper 8 of 24 bits.
const BRIDGE: u32 = 0x06;
/// Display controllers and processing accelerators, likewise.
const GPU_KINDS: [u32; 2] = [0x03, 0x12];

/// What the files of one PCI device say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PciFacts {
    pub(crate) address: PciAddress,
    pub(crate) class: Option<u32>,
    pub(crate) vendor: Option<u16>,
    pub(crate) device: Option<u16>,
    pub(crate) driver: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) uuid: Option<String>,
    /// The vendor library's number, where the source has it.
    pub(crate) index: Option<u32>,
    pub(crate) locality: LocalityFacts,
    /// Its way up the tree, where it is of a kind that can be a GPU.
    pub(crate) path: Option<PciPath>,
}

/// A NUMA node that is the memory of the GPU at `address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GpuMemory {
    pub(crate) address: PciAddress,
    pub(crate) node: u32,
}

impl PciFacts {
    /// A device of which only the address is known.
    pub(crate) fn at(address: PciAddress) -> Self {
        Self {
            address,
            class: None,
            vendor: None,
            device: None,
            driver: None,
            name: None,
            model: None,
            uuid: None,
            index: None,
            locality: LocalityFacts::default(),
            path: None,
        }
    }
}

pub(super) fn read(folder: &Path, online: &CpuSet) -> Result<Vec<PciFacts>, DiscoveryError> {
    let mut devices = Vec::new();
    for name in kernel_file::names(folder)?.unwrap_or_default() {
        let Ok(address) = name.parse() else { continue };
        let folder = folder.join(&name);
        let class = kernel_file::hex(&folder.join("class"))?;
        if class.is_some_and(|class| class >> 16 == BRIDGE) {
            continue;
        }
        let id = |name: &str| kernel_file::hex(&folder.join(name)).map(|id| id.map(|id| id as u16));
        devices.push(PciFacts {
            class,
            vendor: id("vendor")?,
            device: id("device")?,
            driver: driver(&folder),
            name: class_name(&folder)?,
            locality: locality(&folder, online)?,
            path: class.filter(|class| GPU_KINDS.contains(&(class >> 16))).and_then(|_| path(&folder)),
            ..PciFacts::at(address)
        });
    }
    Ok(devices)
}

fn driver(device: &Path) -> Option<String> {
    let target = device.join("driver").read_link().ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// What the system calls the device: its InfiniBand name, else its network interface.
fn class_name(device: &Path) -> Result<Option<String>, DiscoveryError> {
    for class in ["infiniband", "net"] {
        if let Some(name) = kernel_file::names(&device.join(class))?.and_then(|names| names.into_iter().next()) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn locality(device: &Path, online: &CpuSet) -> Result<LocalityFacts, DiscoveryError> {
    let (numa_node, local_cpus) = place(device, online)?;
    let mut facts = LocalityFacts { numa_node, local_cpus, ..LocalityFacts::default() };
    // The bridges matter only where the device itself does not name its node.
    if numa_node.is_none_or(|node| node < 0) {
        for bridge in bridges(device) {
            facts.bridges.push(place(&bridge, online)?);
        }
    }
    Ok(facts)
}

fn place(device: &Path, online: &CpuSet) -> Result<(Option<i64>, Option<CpuSet>), DiscoveryError> {
    let cpus: Option<CpuSet> = kernel_file::mask_or_list(device, "local_cpus", "local_cpulist")?;
    // A device whose file says `N/A` or the like is a device of unknown node, not a machine that cannot be read.
    let numa_node = match kernel_file::number(&device.join("numa_node")) {
        Err(DiscoveryError::Malformed { .. }) => None,
        number => number?,
    };
    Ok((numa_node, cpus.map(|cpus| cpus.intersection(online))))
}

/// The folders of the bridges above a device, the nearest first. `bus/pci/devices/X` is a link into the tree of bridges;
/// where a copy made it a plain folder, nothing is known of them.
fn bridges(device: &Path) -> Vec<PathBuf> {
    let Ok(real) = device.canonicalize() else { return Vec::new() };
    real.ancestors()
        .skip(1)
        .take_while(|folder| {
            folder.file_name().is_some_and(|name| name.to_string_lossy().parse::<PciAddress>().is_ok())
        })
        .map(Path::to_path_buf)
        .collect()
}

/// The device's way up the tree: its bridges, and the folder above them, which is the host bridge.
fn path(device: &Path) -> Option<PciPath> {
    let bridges = bridges(device);
    let top = bridges.last().cloned().or_else(|| device.canonicalize().ok())?;
    let host = top.parent()?.file_name()?.to_string_lossy().into_owned();
    let address = |bridge: &PathBuf| bridge.file_name()?.to_string_lossy().parse().ok();
    host.starts_with("pci").then(|| PciPath { bridges: bridges.iter().filter_map(address).collect(), host })
}

/// Reads `gpus/ADDRESS/information` of NVIDIA's driver, whose line "GPU UUID:" names the GPU as NVML does: who holds it is
/// told by that name also where there is no NVML. Until somebody has used the GPU it has question marks for digits.
pub(super) fn uuids(folder: &Path) -> Result<Vec<(PciAddress, String)>, DiscoveryError> {
    let mut uuids = Vec::new();
    for name in kernel_file::names(folder)?.unwrap_or_default() {
        let Ok(address) = name.parse() else { continue };
        let Some(text) = kernel_file::text(&folder.join(&name).join("information"))? else { continue };
        let uuid = text.lines().find_map(|line| line.trim().strip_prefix("GPU UUID:")).map(str::trim);
        let whole = uuid.filter(|uuid| uuid.starts_with("GPU-") && !uuid.contains('?'));
        uuids.extend(whole.map(|uuid| (address, uuid.to_owned())));
    }
    Ok(uuids)
}

/// Reads `gpus/ADDRESS/numa_status` of NVIDIA's driver, whose line "Node: 255" names the node (POWER9).
pub(super) fn gpu_memory(folder: &Path) -> Result<Vec<GpuMemory>, DiscoveryError> {
    let mut memory = Vec::new();
    for name in kernel_file::names(folder)?.unwrap_or_default() {
        let Ok(address) = name.parse() else { continue };
        let path = folder.join(&name).join("numa_status");
        let Some(text) = kernel_file::text(&path)? else { continue };
        let Some(line) = text.lines().find_map(|line| line.trim().strip_prefix("Node:")) else { continue };
        match line.trim().parse::<i64>() {
            Ok(node) => memory.extend(u32::try_from(node).ok().map(|node| GpuMemory { address, node })),
            Err(_) => return Err(DiscoveryError::malformed(&path, line, "a node number", None)),
        }
    }
    Ok(memory)
}
