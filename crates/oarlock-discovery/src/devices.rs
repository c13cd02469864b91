//! Which PCI devices are GPUs, and what they and the others become in the machine.

use oarlock_core::locality::{Evidence, Locality, resolve};
use oarlock_core::machine::{Gpu, Node, PciDevice};

use crate::nvml::NvmlGpu;
use crate::sysfs::{GpuMemory, PciFacts};

const NVIDIA: u16 = 0x10de;
const AMD: u16 = 0x1002;
const INTEL: u16 = 0x8086;
/// Drivers through which a display controller also computes.
const COMPUTE_DRIVERS: [&str; 4] = ["nvidia", "amdgpu", "i915", "xe"];

/// Whether a PCI device counts as a GPU by itself: 3D controllers (0302) and processing accelerators (1200) do; VGA
/// controllers (0300) do when their vendor makes compute GPUs and their driver, where one is named, computes. The
/// display of a board management controller is of another vendor.
fn is_gpu(facts: &PciFacts) -> bool {
    match facts.class.map(|class| class >> 8) {
        Some(0x0302 | 0x1200) => true,
        Some(0x0300) => {
            matches!(facts.vendor, Some(NVIDIA | AMD | INTEL))
                && facts.driver.as_deref().is_none_or(|driver| COMPUTE_DRIVERS.contains(&driver))
        }
        _ => false,
    }
}

/// Makes GPUs and other devices of what the files say, with NVML's list merged in by address. GPUs have NVML's index,
/// else follow in the order of their addresses.
pub(crate) fn sort_out(
    nodes: &[Node],
    mut facts: Vec<PciFacts>,
    memory: &[GpuMemory],
    nvml: &[NvmlGpu],
    warnings: &mut Vec<String>,
) -> (Vec<Gpu>, Vec<PciDevice>) {
    for gpu in nvml {
        let position = facts.iter().position(|device| device.address == gpu.pci).unwrap_or_else(|| {
            warnings.push(format!("NVML knows gpu {} at {}, where sysfs has no device", gpu.index, gpu.pci));
            facts.push(PciFacts::at(gpu.pci));
            facts.len() - 1
        });
        let device = &mut facts[position];
        device.index = Some(gpu.index);
        device.uuid.clone_from(&gpu.uuid);
        device.model.clone_from(&gpu.name);
        device.locality.nvml_memory_affinity.clone_from(&gpu.memory_affinity);
    }
    facts.sort_by_key(|device| device.address);
    let (gpu_facts, others): (Vec<_>, Vec<_>) =
        facts.into_iter().partition(|device| device.index.is_some() || is_gpu(device));
    let mut next = gpu_facts.iter().filter_map(|gpu| gpu.index).max().map_or(0, |highest| highest + 1);
    let mut gpus: Vec<Gpu> = gpu_facts
        .into_iter()
        .map(|facts| {
            let index = facts.index.unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            let memory_node = memory.iter().find(|memory| memory.address == facts.address).map(|memory| memory.node);
            let reported = nvml.iter().find(|gpu| gpu.pci == facts.address).and_then(|gpu| gpu.memory_node);
            gpu(nodes, index, facts, memory_node.or(reported), warnings)
        })
        .collect();
    gpus.sort_by_key(|gpu| gpu.index);
    (gpus, others.into_iter().map(|facts| device(nodes, facts)).collect())
}

fn gpu(nodes: &[Node], index: u32, facts: PciFacts, memory_node: Option<u32>, warnings: &mut Vec<String>) -> Gpu {
    let locality = resolve(nodes, &facts.locality);
    if let Locality::Node { node: id, from: Evidence::NumaNode } = locality
        && let Some(cpus) = &facts.locality.local_cpus
        && let Some(node) = nodes.iter().find(|node| node.id == id)
        && !node.cpus.is_empty()
        && !cpus.is_subset(&node.cpus)
    {
        warnings.push(format!(
            "gpu {index} ({}): its numa_node is {id}, but its local cpus {cpus} are not all on node {id}; numa_node is taken",
            facts.address
        ));
    }
    // A node with CPUs is no GPU's own memory, whatever a driver says.
    let memory_node = memory_node.filter(|id| nodes.iter().any(|node| node.id == *id && node.cpus.is_empty()));
    Gpu {
        index,
        pci: Some(facts.address),
        uuid: facts.uuid,
        model: facts.model,
        locality,
        local_cpus: facts.locality.local_cpus,
        memory_node,
    }
}

fn device(nodes: &[Node], facts: PciFacts) -> PciDevice {
    PciDevice {
        address: facts.address,
        class: facts.class,
        vendor: facts.vendor,
        device: facts.device,
        name: facts.name,
        locality: resolve(nodes, &facts.locality),
        local_cpus: facts.locality.local_cpus,
    }
}
