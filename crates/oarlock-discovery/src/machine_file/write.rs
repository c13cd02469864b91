//! From a machine to JSON.

use oarlock_core::CpuSet;
use oarlock_core::locality::Locality;
use oarlock_core::machine::{Gpu, Machine, PciDevice};
use serde_json::{Map, Value, json};

use super::gpus::EVIDENCE;

/// Writes a machine file, with `extra` fields of the file it came from. Reading it again gives the same machine.
pub fn write(machine: &Machine, extra: &Map<String, Value>) -> String {
    let mut file = Map::new();
    file.insert("name".to_owned(), machine.name.clone().into());
    file.insert("cpus_total".to_owned(), machine.cpus().len().into());
    file.insert("smt".to_owned(), smt(machine));
    if nodes_overlap(machine) {
        file.insert("nodes_overlap".to_owned(), true.into());
    }
    file.insert(
        "nodes".to_owned(),
        machine
            .nodes
            .iter()
            .map(|node| {
                let mut object = json!({"id": node.id, "cpulist": node.cpus, "memory_mb": node.memory_mb});
                if node.gpu_memory {
                    object["gpu_memory"] = true.into();
                }
                object
            })
            .collect(),
    );
    let ids: Vec<u32> = machine.nodes.iter().map(|node| node.id).collect();
    file.insert(
        "distances".to_owned(),
        match &machine.distances {
            Some(matrix) => json!({"ids": ids, "matrix": matrix}),
            None => Value::Null,
        },
    );
    file.insert("cores".to_owned(), json!(machine.cores));
    if machine.cores_assumed {
        file.insert("cores_assumed".to_owned(), true.into());
    }
    file.insert("l3".to_owned(), json!(machine.l3));
    file.insert(
        "packages".to_owned(),
        match &machine.packages {
            Some(packages) => {
                packages.iter().map(|package| json!({"id": package.id, "cpulist": package.cpus})).collect()
            }
            None => Value::Null,
        },
    );
    file.insert("gpus".to_owned(), machine.gpus.iter().map(gpu).collect());
    file.insert("devices".to_owned(), machine.devices.iter().map(device).collect());
    // What the source stated of the whole counts before what the parts add up to.
    file.extend(extra.clone());
    let mut text = serde_json::to_string_pretty(&file).unwrap_or_default();
    text.push('\n');
    text
}

fn gpu(gpu: &Gpu) -> Value {
    let mut object = Map::new();
    object.insert("index".to_owned(), gpu.index.into());
    object.insert("pci".to_owned(), json!(gpu.pci));
    object.insert("uuid".to_owned(), json!(gpu.uuid));
    object.insert("model".to_owned(), json!(gpu.model));
    place(&mut object, &gpu.locality, gpu.local_cpus.as_ref());
    object.insert("memory_node".to_owned(), json!(gpu.memory_node));
    object.into()
}

fn device(device: &PciDevice) -> Value {
    let mut object = Map::new();
    object.insert("pci".to_owned(), json!(device.address));
    object.insert("class".to_owned(), json!(device.class.map(|class| format!("0x{class:06x}"))));
    object.insert("vendor".to_owned(), json!(device.vendor.map(|id| format!("0x{id:04x}"))));
    object.insert("device".to_owned(), json!(device.device.map(|id| format!("0x{id:04x}"))));
    object.insert("name".to_owned(), json!(device.name));
    place(&mut object, &device.locality, device.local_cpus.as_ref());
    object.into()
}

fn place(object: &mut Map<String, Value>, locality: &Locality, local_cpus: Option<&CpuSet>) {
    object.insert("numa_node".to_owned(), json!(locality.node()));
    match locality {
        Locality::Node { from, .. } => {
            let word = EVIDENCE.iter().find(|(_, evidence)| evidence == from).map(|(word, _)| *word);
            object.insert("numa_node_from".to_owned(), json!(word));
        }
        Locality::Unknown { why } => {
            object.insert("numa_node_unknown".to_owned(), why.clone().into());
        }
    }
    object.insert("cpu_affinity".to_owned(), json!(local_cpus));
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
