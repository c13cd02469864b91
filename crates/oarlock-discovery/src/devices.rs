//! Which PCI devices are GPUs, and what they and the others become in the machine.

use oarlock_core::locality::{Evidence, Locality, resolve};
use oarlock_core::machine::{Gpu, Node, PciDevice};

use crate::nvml;
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
    nvml: &[nvml::Gpu],
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

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_core::CpuSet;

    fn cpus(text: &str) -> CpuSet {
        text.parse().unwrap()
    }

    fn nodes() -> Vec<Node> {
        let node = |id, list, gpu_memory| Node { id, cpus: cpus(list), memory_mb: Some(1), gpu_memory };
        vec![node(0, "0-3", false), node(1, "4-7", false), node(2, "", true)]
    }

    fn facts(address: &str, numa_node: i64) -> PciFacts {
        let mut facts = PciFacts::at(address.parse().unwrap());
        (facts.class, facts.vendor, facts.locality.numa_node) = (Some(0x03_02_00), Some(NVIDIA), Some(numa_node));
        facts
    }

    fn nvml(index: u32, address: &str) -> nvml::Gpu {
        nvml::Gpu {
            index,
            pci: address.parse().unwrap(),
            uuid: Some(format!("GPU-{index}")),
            name: Some("NVIDIA H100".to_owned()),
            minor: None,
            memory_node: None,
            memory_affinity: None,
            mig: None,
        }
    }

    #[test]
    fn nvml_gives_index_and_uuid_by_address_and_sysfs_gives_the_node() {
        let mut warnings = Vec::new();
        let list = [nvml(1, "00000000:07:00.0"), nvml(0, "0000000F:01:00.0")];
        let devices = vec![facts("0000:07:00.0", 1), facts("000f:01:00.0", 0)];
        let (gpus, _) = sort_out(&nodes(), devices, &[], &list, &mut warnings);
        let found: Vec<_> = gpus
            .iter()
            .map(|gpu| (gpu.index, gpu.pci.unwrap().to_string(), gpu.uuid.clone(), gpu.locality.node()))
            .collect();
        assert_eq!(
            found,
            [
                (0, "000f:01:00.0".to_owned(), Some("GPU-0".to_owned()), Some(0)),
                (1, "0000:07:00.0".to_owned(), Some("GPU-1".to_owned()), Some(1)),
            ]
        );
        assert!(warnings.is_empty());
    }

    #[test]
    fn nvmls_memory_affinity_counts_only_where_sysfs_is_silent_and_with_one_bit() {
        let mut warnings = Vec::new();
        let with = |index, address: &str, nodes: &str| {
            let mut gpu = nvml(index, address);
            gpu.memory_affinity = Some(nodes.parse().unwrap());
            gpu
        };
        let list = [with(0, "01:00.0", "1"), with(1, "02:00.0", "0-1"), with(2, "03:00.0", "1")];
        let devices = vec![facts("01:00.0", -1), facts("02:00.0", -1), facts("03:00.0", 0)];
        let (gpus, _) = sort_out(&nodes(), devices, &[], &list, &mut warnings);
        assert_eq!(gpus[0].locality, Locality::Node { node: 1, from: Evidence::Nvml });
        assert_eq!(gpus[1].locality.node(), None);
        assert_eq!(gpus[2].locality, Locality::Node { node: 0, from: Evidence::NumaNode });
    }

    #[test]
    fn nvmls_numa_node_id_is_the_gpus_memory_and_never_the_node_to_run_on() {
        let mut warnings = Vec::new();
        let (mut grace, mut wrong) = (nvml(0, "01:00.0"), nvml(1, "02:00.0"));
        (grace.memory_node, wrong.memory_node) = (Some(2), Some(1));
        let devices = vec![facts("01:00.0", 0), facts("02:00.0", 0)];
        let (gpus, _) = sort_out(&nodes(), devices, &[], &[grace, wrong], &mut warnings);
        let found: Vec<_> = gpus.iter().map(|gpu| (gpu.locality.node(), gpu.memory_node)).collect();
        // Node 1 has CPUs: it is no GPU's memory.
        assert_eq!(found, [(Some(0), Some(2)), (Some(0), None)]);
    }

    #[test]
    fn a_gpu_that_nvml_lost_keeps_its_place_after_those_it_knows() {
        let mut warnings = Vec::new();
        let devices = vec![facts("01:00.0", 0), facts("02:00.0", 1), facts("03:00.0", 1)];
        let list = [nvml(0, "02:00.0"), nvml(2, "03:00.0"), nvml(5, "09:00.0")];
        let (gpus, _) = sort_out(&nodes(), devices, &[], &list, &mut warnings);
        let found: Vec<_> = gpus.iter().map(|gpu| (gpu.index, gpu.pci.unwrap().bus)).collect();
        assert_eq!(found, [(0, 2), (2, 3), (5, 9), (6, 1)]);
        assert_eq!(warnings, ["NVML knows gpu 5 at 0000:09:00.0, where sysfs has no device"]);
    }
}
