//! Distances, PCI devices and GPU memory in hwloc's XML.

use std::collections::BTreeMap;

use oarlock_core::CpuSet;
use oarlock_core::locality::LocalityFacts;
use oarlock_core::machine::Node;
use oarlock_core::pci::PciAddress;
use roxmltree::Node as Element;

use super::{Reader, info};
use crate::DiscoveryError;
use crate::error::excerpt;
use crate::sysfs::{GpuMemory, PciFacts};

/// `HWLOC_DISTANCES_KIND_MEANS_LATENCY`.
const MEANS_LATENCY: u32 = 4;

/// How far up the object with CPUs is sought: bridges nest to a depth of some ten, and a hostile file without end.
const DEPTH_LIMIT: usize = 256;

/// Class, vendor and device.
type PciType = (Option<u32>, Option<u16>, Option<u16>);

impl<'a> Reader<'a> {
    /// The latency matrix over all nodes, in the order of `nodes`.
    pub(super) fn distances(&self, nodes: &[Node]) -> Result<Option<Vec<Vec<u32>>>, DiscoveryError> {
        for element in self.document.descendants().filter(|element| element.has_tag_name("distances2")) {
            let kind: u32 = self.number(element, "kind")?.unwrap_or(0);
            let by_node = element.attribute("type") == Some("NUMANode") && element.attribute("indexing") == Some("os");
            if !by_node || kind & MEANS_LATENCY == 0 {
                continue;
            }
            let ids = self.numbers(element, "indexes")?;
            let values = self.numbers(element, "u64values")?;
            if values.len() != ids.len().saturating_mul(ids.len()) {
                let message =
                    format!("{} distances for {} nodes: one row and one column per node", values.len(), ids.len());
                return Err(self.error(element, message));
            }
            let position = |node: &Node| ids.iter().position(|id| *id == u64::from(node.id));
            let Some(order) = nodes.iter().map(position).collect::<Option<Vec<_>>>() else { continue };
            let value = |row: usize, column: usize| u32::try_from(values[row * ids.len() + column]).unwrap_or(u32::MAX);
            return Ok(Some(
                order.iter().map(|&row| order.iter().map(|&column| value(row, column)).collect()).collect(),
            ));
        }
        Ok(None)
    }

    fn numbers(&self, element: Element<'a, 'a>, name: &str) -> Result<Vec<u64>, DiscoveryError> {
        let mut numbers = Vec::new();
        for child in element.children().filter(|child| child.has_tag_name(name)) {
            for word in child.text().unwrap_or_default().split_whitespace() {
                let number = word
                    .parse()
                    .map_err(|_| self.error(child, format!("\"{}\" in {name} is not a number", excerpt(word))))?;
                numbers.push(number);
            }
        }
        Ok(numbers)
    }

    /// GPU memory nodes that say whose memory they are. The GPU's address is on the node.
    pub(super) fn gpu_memory(&self, nodes: &mut [Node]) -> Result<Vec<GpuMemory>, DiscoveryError> {
        let mut memory = Vec::new();
        for element in self.objects("NUMANode") {
            let Some(address) = info(element, "PCIBusID").and_then(|id| id.parse().ok()) else { continue };
            let Some(id) = self.number(element, "os_index")? else { continue };
            if let Some(node) = nodes.iter_mut().find(|node| node.id == id && node.cpus.is_empty()) {
                node.gpu_memory = true;
                memory.push(GpuMemory { address, node: id });
            }
        }
        Ok(memory)
    }

    /// The PCI devices. Bridges are objects of another type. Of two devices at one address, as in files that were edited,
    /// the one that the operating system has a name for is taken, else the first.
    pub(super) fn pci(&self, warnings: &mut Vec<String>) -> Result<Vec<PciFacts>, DiscoveryError> {
        let mut devices: BTreeMap<PciAddress, PciFacts> = BTreeMap::new();
        for element in self.objects("PCIDev") {
            let device = self.pci_device(element)?;
            let Some(other) = devices.get(&device.address) else {
                devices.insert(device.address, device);
                continue;
            };
            let named = if other.name.is_none() && device.name.is_some() { &device } else { other };
            warnings.push(format!(
                "two devices are at {}: the one of class {:04x} is taken",
                device.address,
                named.class.unwrap_or(0) >> 8
            ));
            let named = named.clone();
            devices.insert(named.address, named);
        }
        Ok(devices.into_values().collect())
    }

    fn pci_device(&self, element: Element<'a, 'a>) -> Result<PciFacts, DiscoveryError> {
        let text = element.attribute("pci_busid").unwrap_or_default();
        let address: PciAddress = text.parse().map_err(|error| self.error(element, format!("pci_busid {error}")))?;
        let (class, vendor, device) = self.pci_type(element)?;
        // The nearest object around it that has CPUs; hwloc puts devices of unknown place under the whole machine.
        let around = element.ancestors().skip(1).take(DEPTH_LIMIT).find(|ancestor| ancestor.has_attribute("cpuset"));
        let local_cpus: Option<CpuSet> = match around {
            Some(around) => self.mask(around, "cpuset")?,
            None => None,
        };
        let names: Vec<&str> = element
            .children()
            .filter(|child| child.has_tag_name("object") && child.attribute("type") == Some("OSDev"))
            .filter_map(|child| child.attribute("name"))
            .collect();
        let os_info = |key: &str| element.children().find_map(|child| info(child, key));
        Ok(PciFacts {
            class,
            vendor,
            device,
            name: names.iter().rev().find(|name| !name.starts_with("card")).map(|name| (*name).to_owned()),
            model: os_info("GPUModel").or_else(|| info(element, "PCIDevice")).map(|model| model.trim().to_owned()),
            uuid: os_info("NVIDIAUUID").map(str::to_owned),
            index: names.iter().find_map(|name| name.strip_prefix("nvml")?.parse().ok()),
            locality: LocalityFacts { local_cpus, ..LocalityFacts::default() },
            ..PciFacts::at(address)
        })
    }

    /// `pci_type` is written as "0302 [10de:1db8] [10de:123b] a1": class, device, subsystem, revision.
    fn pci_type(&self, element: Element<'a, 'a>) -> Result<PciType, DiscoveryError> {
        let Some(text) = element.attribute("pci_type") else { return Ok((None, None, None)) };
        let read = || {
            let (class, rest) = text.split_once(" [")?;
            let (vendor, rest) = rest.split_once(':')?;
            let (device, _) = rest.split_once(']')?;
            let id = |digits| u16::from_str_radix(digits, 16).ok();
            Some((id(class)?, id(vendor)?, id(device)?))
        };
        let Some((class, vendor, device)) = read() else {
            return Err(self.error(element, format!("pci_type \"{}\" is not like 0302 [10de:1db8]", excerpt(text))));
        };
        Ok((Some(u32::from(class) << 8), Some(vendor), Some(device)))
    }
}
