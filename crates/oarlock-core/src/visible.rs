//! Which of the machine's GPUs a process may drive, and in which order.

use crate::machine::{Gpu, Machine};
use crate::request::{GpuChoice, GpuRef};

/// The variables that reorder and narrow a process's GPUs, the first one set counts. HIP reads CUDA's too.
pub const VISIBLE_DEVICES: [&str; 3] = ["CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"];

/// The GPUs that a process with this environment drives, in its order.
///
/// Inside a container sysfs shows the whole host, NVML only what the container holds: so where NVML has named GPUs, only
/// those count. They are numbered by PCI address, as CUDA does with `CUDA_DEVICE_ORDER=PCI_BUS_ID` (and by default where
/// they are alike). The list in [`VISIBLE_DEVICES`] holds numbers or UUIDs, cut short if unique, and ends at the first entry
/// that names none, as CUDA reads it. A MIG device (`MIG-…`) names none here: a machine has GPUs, and not their parts.
pub fn gpus(machine: &Machine, get: impl Fn(&str) -> Option<String>) -> GpuChoice {
    let by_nvml = machine.gpus.iter().any(|gpu| gpu.uuid.is_some());
    let here: Vec<&Gpu> = machine.gpus.iter().filter(|gpu| !by_nvml || gpu.uuid.is_some()).collect();
    match VISIBLE_DEVICES.iter().find_map(|key| get(key)) {
        Some(list) => GpuChoice::Some(among(here, &list)),
        None if here.len() == machine.gpus.len() => GpuChoice::All,
        None => GpuChoice::Some(here.into_iter().map(|gpu| GpuRef::Index(gpu.index)).collect()),
    }
}

/// Of the GPUs that a container holds, those that the list in [`VISIBLE_DEVICES`] names, in its order.
pub fn among(mut held: Vec<&Gpu>, list: &str) -> Vec<GpuRef> {
    held.sort_by_key(|gpu| (gpu.pci, gpu.index));
    let mut chosen: Vec<u32> = Vec::new();
    for entry in list.split(',').map(str::trim) {
        match named(&held, entry) {
            Some(gpu) if !chosen.contains(&gpu.index) => chosen.push(gpu.index),
            _ => break,
        }
    }
    chosen.into_iter().map(GpuRef::Index).collect()
}

fn named<'a>(gpus: &[&'a Gpu], entry: &str) -> Option<&'a Gpu> {
    if let Ok(number) = entry.parse::<usize>() {
        return gpus.get(number).copied();
    }
    if !entry.starts_with("GPU-") {
        return None;
    }
    let mut matching = gpus.iter().filter(|gpu| gpu.uuid.as_ref().is_some_and(|uuid| uuid.starts_with(entry)));
    match (matching.next(), matching.next()) {
        (Some(gpu), None) => Some(gpu),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idset::CpuSet;
    use crate::locality::Locality;
    use crate::machine::Node;

    /// GPUs at these bus numbers, with these UUIDs, numbered in this order.
    fn machine(gpus: &[(u8, Option<&str>)]) -> Machine {
        let gpu = |(index, (bus, uuid)): (usize, &(u8, Option<&str>))| Gpu {
            index: index as u32,
            pci: format!("0000:{bus:02x}:00.0").parse().ok(),
            uuid: uuid.map(str::to_owned),
            model: None,
            locality: Locality::Unknown { why: String::new() },
            local_cpus: None,
            memory_node: None,
        };
        Machine {
            nodes: vec![Node { id: 0, cpus: CpuSet::of(0), memory_mb: None, gpu_memory: false }],
            gpus: gpus.iter().enumerate().map(gpu).collect(),
            ..Machine::default()
        }
        .checked()
        .unwrap()
    }

    fn seen(machine: &Machine, key: &str, value: &str) -> Vec<u32> {
        match gpus(machine, |wanted| (wanted == key).then(|| value.to_owned())) {
            GpuChoice::Some(list) => list
                .into_iter()
                .map(|gpu| match gpu {
                    GpuRef::Index(index) => index,
                    other => panic!("{other}"),
                })
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_a_list_a_process_has_all_gpus_or_those_that_nvml_shows() {
        assert_eq!(gpus(&machine(&[(1, None), (2, None)]), |_| None), GpuChoice::All);
        let part = machine(&[(1, None), (2, Some("GPU-b")), (3, None), (4, Some("GPU-d"))]);
        assert_eq!(gpus(&part, |_| None), GpuChoice::Some(vec![GpuRef::Index(1), GpuRef::Index(3)]));
    }

    #[test]
    fn the_list_reorders_and_narrows_by_pci_order_not_by_index() {
        let machine = machine(&[(9, None), (3, None), (5, None)]);
        assert_eq!(seen(&machine, "CUDA_VISIBLE_DEVICES", "2,0"), [0, 1]);
        assert_eq!(seen(&machine, "HIP_VISIBLE_DEVICES", " 1 "), [2]);
        assert_eq!(seen(&machine, "CUDA_VISIBLE_DEVICES", ""), [] as [u32; 0]);
        let part = self::machine(&[(1, None), (2, Some("GPU-b")), (3, None), (4, Some("GPU-d"))]);
        assert_eq!(seen(&part, "CUDA_VISIBLE_DEVICES", "1,0"), [3, 1], "numbers count what the container holds");
    }

    #[test]
    fn the_list_ends_where_an_entry_names_nothing() {
        let machine = machine(&[(1, Some("GPU-aa1")), (2, Some("GPU-ab2")), (3, Some("GPU-ac3"))]);
        assert_eq!(seen(&machine, "CUDA_VISIBLE_DEVICES", "GPU-ac,GPU-aa1"), [2, 0]);
        assert_eq!(seen(&machine, "CUDA_VISIBLE_DEVICES", "0,-1,2"), [0]);
        assert_eq!(seen(&machine, "CUDA_VISIBLE_DEVICES", "1,GPU-a,2"), [1], "short of unique");
        assert_eq!(seen(&machine, "CUDA_VISIBLE_DEVICES", "1,1,2"), [1]);
        assert_eq!(seen(&machine, "CUDA_VISIBLE_DEVICES", "1,MIG-ab2,2"), [1]);
        assert_eq!(seen(&machine, "CUDA_VISIBLE_DEVICES", "9"), [] as [u32; 0]);
        assert_eq!(seen(&machine, "CUDA_VISIBLE_DEVICES", "NoDevFiles"), [] as [u32; 0]);
    }
}
