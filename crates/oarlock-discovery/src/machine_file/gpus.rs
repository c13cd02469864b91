//! GPUs and other devices of a machine file.

use oarlock_core::locality::{Evidence, Locality, LocalityFacts, resolve};
use oarlock_core::machine::{Contradiction, Gpu, Node, PciDevice};
use oarlock_core::pci::PciAddress;
use oarlock_core::{CpuSet, NodeSet};
use serde_json::Value;

use super::Problem;
use super::fields::{Fields, parse_text, wrong};

/// The words for [`Evidence`] in captured files.
pub(super) const EVIDENCE: [(&str, Evidence); 7] = [
    ("numa_node", Evidence::NumaNode),
    ("local_cpus", Evidence::LocalCpus),
    ("bridge", Evidence::Bridge),
    ("nvml", Evidence::Nvml),
    ("override", Evidence::Override),
    ("only_node", Evidence::OnlyNode),
    ("plugin", Evidence::Plugin),
];

/// A GPU as the file states it.
#[derive(Debug, Clone)]
pub(super) struct RawGpu {
    pub(super) index: u32,
    pub(super) pci: Option<PciAddress>,
    pub(super) uuid: Option<String>,
    pub(super) model: Option<String>,
    pub(super) number: Option<i64>,
    /// `numa_node` where it is a node.
    pub(super) node: Option<u32>,
    pub(super) affinity: Option<CpuSet>,
    pub(super) captured: Captured,
    pub(super) memory_node: Option<u32>,
    /// `gpu_numa_id_printed`, where it is a number.
    pub(super) printed_memory_node: Option<u32>,
}

/// What a captured file says of how a device's node was found, which cannot be found again from the rest.
#[derive(Debug, Clone, Default)]
pub(super) struct Captured {
    from: Option<Evidence>,
    unknown: Option<String>,
}

impl RawGpu {
    pub(super) fn resolved(self, nodes: &[Node]) -> Gpu {
        Gpu {
            index: self.index,
            pci: self.pci,
            uuid: self.uuid,
            model: self.model,
            locality: self.captured.locality(nodes, self.number, self.affinity.as_ref()),
            local_cpus: self.affinity,
            memory_node: self.memory_node,
        }
    }
}

impl Captured {
    pub(super) fn is_stated(&self) -> bool {
        self.from.is_some()
    }

    fn read(fields: &mut Fields) -> Result<Self, Problem> {
        let place = fields.place("numa_node_from");
        let from = match fields.text("numa_node_from")? {
            None => None,
            Some(word) => match EVIDENCE.iter().find(|(name, _)| *name == word) {
                Some((_, evidence)) => Some(*evidence),
                None => {
                    return Err(wrong(
                        place,
                        &word.into(),
                        "numa_node, local_cpus, bridge, nvml, override or only_node",
                    ));
                }
            },
        };
        Ok(Self { from, unknown: fields.text("numa_node_unknown")? })
    }

    fn locality(self, nodes: &[Node], number: Option<i64>, affinity: Option<&CpuSet>) -> Locality {
        let known = number.and_then(|n| u32::try_from(n).ok()).filter(|id| nodes.iter().any(|node| node.id == *id));
        match (known, self.from, self.unknown) {
            (Some(node), Some(from), _) => Locality::Node { node, from },
            (None, _, Some(why)) => Locality::Unknown { why },
            _ => resolve(
                nodes,
                &LocalityFacts { numa_node: number, local_cpus: affinity.cloned(), ..LocalityFacts::default() },
            ),
        }
    }
}

pub(super) fn read(objects: Vec<Fields>, ids: &NodeSet) -> Result<Vec<RawGpu>, Problem> {
    objects.into_iter().zip(0..).map(|(fields, position)| gpu(fields, position, ids)).collect()
}

fn gpu(mut fields: Fields, position: u32, ids: &NodeSet) -> Result<RawGpu, Problem> {
    let index = fields.id("index")?.unwrap_or(position);
    let number = node_number(&mut fields)?;
    let node = match number {
        Some(number) if number >= 0 => {
            let id = u32::try_from(number).ok().filter(|id| ids.contains(*id));
            Some(id.ok_or_else(|| Problem::GpuNode { gpu: index, node: number, nodes: ids.clone() })?)
        }
        _ => None,
    };
    Ok(RawGpu {
        index,
        pci: address(&mut fields)?,
        uuid: fields.text("uuid")?,
        model: fields.text("model")?,
        number,
        node,
        affinity: affinity(&mut fields)?,
        captured: Captured::read(&mut fields)?,
        memory_node: fields.id("memory_node")?,
        printed_memory_node: fields.get("gpu_numa_id_printed").and_then(printed_number),
    })
}

/// Every device that is no GPU: `devices` of a captured file, else `nics` as far as they have an address.
pub(super) fn devices(file: &mut Fields, nodes: &[Node], gpus: &[RawGpu]) -> Result<Vec<PciDevice>, Problem> {
    if let Some(objects) = file.objects("devices", super::read::DEVICE_LIMIT)? {
        return objects.into_iter().filter_map(|fields| device(fields, nodes).transpose()).collect();
    }
    let Some(nics) = file.get("nics").cloned() else { return Ok(Vec::new()) };
    let objects = file.objects("nics", super::read::DEVICE_LIMIT)?.unwrap_or_default();
    file.put_back("nics", nics);
    let mut devices: Vec<PciDevice> =
        objects.into_iter().filter_map(|fields| device(fields, nodes).transpose()).collect::<Result<_, _>>()?;
    devices.sort_by_key(|device| device.address);
    // Two ports of one card are two entries at one address.
    devices.dedup_by_key(|device| device.address);
    let taken = |device: &&PciDevice| gpus.iter().any(|gpu| gpu.pci == Some(device.address));
    match devices.iter().find(taken) {
        Some(device) => Err(Contradiction::AddressTwice(device.address).into()),
        None => Ok(devices),
    }
}

fn device(mut fields: Fields, nodes: &[Node]) -> Result<Option<PciDevice>, Problem> {
    let Some(address) = address(&mut fields)? else { return Ok(None) };
    let number = node_number(&mut fields)?;
    let affinity = affinity(&mut fields)?;
    let captured = Captured::read(&mut fields)?;
    Ok(Some(PciDevice {
        address,
        class: code(&mut fields, "class")?,
        vendor: code(&mut fields, "vendor")?.map(|code| code as u16),
        device: code(&mut fields, "device")?.map(|code| code as u16),
        name: fields.text("name")?,
        locality: captured.locality(nodes, number, affinity.as_ref()),
        local_cpus: affinity,
    }))
}

/// `numa_node` as tools print it: what is no number ("N/A", "0-1", "") is unknown, and no error.
fn node_number(fields: &mut Fields) -> Result<Option<i64>, Problem> {
    let place = fields.place("numa_node");
    match fields.take("numa_node") {
        None => Ok(None),
        Some(Value::String(text)) => Ok(text.trim().parse().ok()),
        Some(value) => match value.as_i64() {
            Some(number) => Ok(Some(number)),
            None => Err(wrong(place, &value, "a node number, or null where it is unknown")),
        },
    }
}

fn printed_number(value: &Value) -> Option<u32> {
    match value {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_u64().and_then(|number| u32::try_from(number).ok()),
    }
}

/// A blank affinity is an affinity that the tool did not print.
fn affinity(fields: &mut Fields) -> Result<Option<CpuSet>, Problem> {
    let place = fields.place("cpu_affinity");
    match fields.text("cpu_affinity")?.as_deref().map(str::trim) {
        None | Some("" | "N/A") => Ok(None),
        Some(text) => parse_text(place, text, "a list of cpus").map(Some),
    }
}

/// A PCI address. Tools that print the bus number alone ("d1") leave the address unknown.
fn address(fields: &mut Fields) -> Result<Option<PciAddress>, Problem> {
    let place = fields.place("pci");
    match fields.text("pci")?.as_deref().map(str::trim) {
        None | Some("") => Ok(None),
        Some(text) if text.len() <= 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(None),
        Some(text) => parse_text(place, text, "a PCI address").map(Some),
    }
}

/// A code as the kernel writes it (`0x10de`).
fn code(fields: &mut Fields, name: &str) -> Result<Option<u32>, Problem> {
    let place = fields.place(name);
    let Some(text) = fields.text(name)? else { return Ok(None) };
    match text.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok()) {
        Some(code) => Ok(Some(code)),
        None => Err(wrong(place, &text.into(), "a hexadecimal number like 0x10de")),
    }
}
