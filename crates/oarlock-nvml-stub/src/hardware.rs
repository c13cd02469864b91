//! The machine file in NVML's terms.

use std::fmt::Write as _;
use std::path::Path;

use oarlock_core::link::Link;
use oarlock_core::machine::{self, Machine};
use oarlock_core::pci::PciAddress;
use oarlock_core::{CpuSet, NodeSet};
use oarlock_discovery::machine_file;
use serde_json::Value;

use crate::ports::{self, Port};

/// A GPU has at most this many MIG devices.
pub(crate) const MIG_DEVICES: usize = 7;
/// What a GPU without a model is called.
const NAMELESS: &str = "NVIDIA Stand-In";

/// All GPUs, as NVML numbers them.
#[derive(Debug)]
pub(crate) struct Hardware {
    pub(crate) gpus: Vec<Gpu>,
    machine: Machine,
}

/// One GPU.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) uuid: String,
    pub(crate) name: String,
    pub(crate) pci: PciAddress,
    pub(crate) memory_node: Option<u32>,
    pub(crate) ports: Vec<Port>,
    /// Its MIG devices by their number, with gaps; `None` where it knows no MIG.
    pub(crate) mig: Option<Vec<Option<Mig>>>,
}

/// A MIG device.
#[derive(Debug)]
pub(crate) struct Mig {
    pub(crate) uuid: String,
    pub(crate) name: String,
}

/// How far an affinity may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The GPU's node.
    Node,
    /// The package that the node is in.
    Socket,
}

impl Hardware {
    /// Reads a machine file; the reason why it is none is in words.
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Self, String> {
        let found = machine_file::parse(bytes, path).map_err(|error| chain(&error))?;
        let file: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        Self::new(found.machine, &file)
    }

    fn new(machine: Machine, file: &Value) -> Result<Self, String> {
        let mut used: Vec<PciAddress> = machine.gpus.iter().filter_map(|gpu| gpu.pci).collect();
        used.extend(machine.devices.iter().map(|device| device.address));
        let mut free = (1..=u8::MAX).map(|bus| PciAddress { domain: 0, bus, device: 0, function: 0 });
        let mut gpus = Vec::new();
        for (number, gpu) in machine.gpus.iter().enumerate() {
            let pci = gpu.pci.or_else(|| free.find(|address| !used.contains(address)));
            let uuid = gpu.uuid.clone().unwrap_or_else(|| uuid("GPU", &machine.name, gpu.index as usize));
            let name = gpu.model.clone().unwrap_or_else(|| NAMELESS.to_owned());
            let row = machine.links.as_ref().and_then(|links| links.get(number));
            gpus.push(Gpu {
                pci: pci.ok_or("more gpus without an address than a PCI domain has buses")?,
                memory_node: gpu.memory_node,
                ports: row.map(|row| ports::of(number, row)).unwrap_or_default(),
                mig: mig(file, gpu.index, &uuid, &name)?,
                uuid,
                name,
            });
        }
        Ok(Self { gpus, machine })
    }

    /// The memory nodes near a GPU: its own, else all that may be.
    pub(crate) fn nodes(&self, gpu: usize, scope: Scope) -> NodeSet {
        let cpus = self.cpus(gpu, scope);
        match self.stated(gpu).and_then(|gpu| gpu.locality.node()) {
            Some(node) if scope == Scope::Node => NodeSet::of(node),
            _ => self.machine.nodes_of(&cpus),
        }
    }

    /// The CPUs near a GPU: what the file says, else those of its node, else all.
    pub(crate) fn cpus(&self, gpu: usize, scope: Scope) -> CpuSet {
        let stated = self.stated(gpu);
        let node = stated.and_then(|gpu| gpu.locality.node()).and_then(|id| self.machine.node(id));
        let near = stated
            .and_then(|gpu| gpu.local_cpus.clone())
            .or_else(|| node.map(|node| node.cpus.clone()))
            .unwrap_or_else(|| self.machine.cpus());
        let mut packages = self.machine.packages.iter().flatten();
        match packages.find(|package| scope == Scope::Socket && package.cpus.intersects(&near)) {
            Some(package) => package.cpus.clone(),
            None => near,
        }
    }

    /// The path over PCIe between two GPUs. Where the file names only their NVLinks, what follows from their nodes.
    pub(crate) fn path(&self, one: usize, other: usize) -> Link {
        let stated = self.machine.links.as_ref().and_then(|links| links.get(one)?.get(other));
        match stated {
            None | Some(Link::NvLink(_) | Link::Unknown) => {
                let node = |gpu| self.stated(gpu).and_then(|gpu| gpu.locality.node());
                if node(one).is_some() && node(one) == node(other) { Link::Node } else { Link::System }
            }
            Some(link) => *link,
        }
    }

    fn stated(&self, gpu: usize) -> Option<&machine::Gpu> {
        self.machine.gpus.get(gpu)
    }
}

/// The `mig` field of the GPU of this index.
fn mig(file: &Value, index: u32, gpu: &str, name: &str) -> Result<Option<Vec<Option<Mig>>>, String> {
    let Some(gpus) = file["gpus"].as_array() else { return Ok(None) };
    let is_it = |(place, gpu): &(usize, &Value)| gpu["index"].as_u64().unwrap_or(*place as u64) == u64::from(index);
    let Some(field) = gpus.iter().enumerate().find(is_it).map(|(_, gpu)| &gpu["mig"]) else { return Ok(None) };
    let rule = || format!("gpu {index}: mig is not a list of at most {MIG_DEVICES} profiles like \"1g.10gb\"");
    let devices = match field {
        Value::Null => return Ok(None),
        Value::Array(devices) if devices.len() <= MIG_DEVICES => devices,
        _ => return Err(rule()),
    };
    let device = |(number, profile): (usize, &Value)| match profile {
        Value::Null => Ok(None),
        Value::String(profile) => {
            Ok(Some(Mig { uuid: uuid("MIG", gpu, number), name: format!("{name} MIG {profile}") }))
        }
        _ => Err(rule()),
    };
    devices.iter().enumerate().map(device).collect::<Result<_, _>>().map(Some)
}

/// A UUID that is the same in every run and another for every machine and device.
fn uuid(kind: &str, of: &str, number: usize) -> String {
    // FNV-1a: the standard library's hashes may change between versions.
    let hash = of
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{kind}-{:08x}-{:04x}-4{:03x}-8000-{number:012x}", hash >> 32, hash >> 16 & 0xffff, hash & 0xfff)
}

/// An address as NVML prints it.
pub(crate) fn bus_id(pci: PciAddress) -> String {
    format!("{:08X}:{:02X}:{:02X}.{:X}", pci.domain, pci.bus, pci.device, pci.function)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(file: &Value) -> Result<Hardware, String> {
        Hardware::parse(file.to_string().as_bytes(), Path::new("box.json"))
    }

    fn file() -> Value {
        json!({
            "nodes": [
                {"id": 1, "cpulist": "0-3", "socket": 0}, {"id": 3, "cpulist": "4-7", "socket": 0},
                {"id": 5, "cpulist": "8-11", "socket": 1}, {"id": 9, "cpulist": "", "memory_mb": 96000},
            ],
            "gpus": [
                {"index": 6, "pci": "0001f:01:00.0", "numa_node": 3, "gpu_numa_id_printed": 9, "model": "GH200",
                 "mig": ["3g.40gb", null, "1g.10gb"]},
                {"index": 2, "cpu_affinity": "0-11"},
                {"index": 4, "pci": "01:00.0", "numa_node": 1, "uuid": "GPU-own"},
            ],
            "link_matrix": {
                "columns": ["GPU2", "GPU4", "GPU6"],
                "rows": {"GPU2": ["X", "PXB", "NV2"], "GPU4": ["PXB", "X", "NV1"], "GPU6": ["NV2", "NV1", "X"]},
            },
        })
    }

    #[test]
    fn gpus_are_numbered_by_index_and_what_is_not_stated_is_made_up_once_and_for_all() {
        let hardware = parse(&file()).unwrap();
        let found: Vec<_> = hardware.gpus.iter().map(|gpu| (bus_id(gpu.pci), gpu.name.as_str())).collect();
        // 01:00.0 is taken.
        let expected = [("00000000:02:00.0", NAMELESS), ("00000000:01:00.0", NAMELESS), ("0000001F:01:00.0", "GH200")];
        assert_eq!(found, expected.map(|(bus, name)| (bus.to_owned(), name)));
        assert_eq!(hardware.gpus[1].uuid, "GPU-own");
        let made_up = &hardware.gpus[2].uuid;
        assert!(made_up.len() == 40 && *made_up == parse(&file()).unwrap().gpus[2].uuid, "{made_up}");
        assert_ne!(hardware.gpus[0].uuid, *made_up);
    }

    #[test]
    fn affinity_is_one_bit_only_where_the_node_is_known() {
        let hardware = parse(&file()).unwrap();
        let nodes = |gpu, scope| hardware.nodes(gpu, scope).to_string();
        assert_eq!([0, 1, 2].map(|gpu| nodes(gpu, Scope::Node)), ["1,3,5", "1", "3"]);
        assert_eq!([1, 2].map(|gpu| nodes(gpu, Scope::Socket)), ["1,3", "1,3"]);
        assert_eq!([0, 1, 2].map(|gpu| hardware.cpus(gpu, Scope::Node).to_string()), ["0-11", "0-3", "4-7"]);
        assert_eq!(hardware.gpus.iter().map(|gpu| gpu.memory_node).collect::<Vec<_>>(), [None, None, Some(9)]);
    }

    #[test]
    fn links_are_ports_and_the_path_is_what_remains_without_them() {
        let hardware = parse(&file()).unwrap();
        assert_eq!(hardware.gpus[0].ports, [2, 2].map(Port::Gpu));
        assert_eq!(hardware.gpus[2].ports, [0, 0, 1].map(Port::Gpu));
        assert_eq!(
            [(0, 1), (0, 2), (1, 2)].map(|(a, b)| hardware.path(a, b)),
            [Link::Switches, Link::System, Link::System]
        );
    }

    #[test]
    fn mig_devices_have_their_number_their_profile_and_a_uuid_of_their_own() {
        let hardware = parse(&file()).unwrap();
        let mig = hardware.gpus[2].mig.as_ref().unwrap();
        let names: Vec<_> = mig.iter().map(|device| device.as_ref().map(|device| device.name.as_str())).collect();
        assert_eq!(names, [Some("GH200 MIG 3g.40gb"), None, Some("GH200 MIG 1g.10gb")]);
        let uuids: Vec<_> = mig.iter().flatten().map(|device| device.uuid.as_str()).collect();
        assert!(uuids[0] != uuids[1] && uuids.iter().all(|uuid| uuid.starts_with("MIG-")), "{uuids:?}");
        assert!(hardware.gpus[0].mig.is_none());
        for wrong in [json!("1g.10gb"), json!([7]), json!(vec!["1g"; 8])] {
            let mut file = file();
            file["gpus"][1]["mig"] = wrong;
            assert!(parse(&file).unwrap_err().starts_with("gpu 2: mig"));
        }
    }
}
