//! NVLinks and what else joins two GPUs, as NVML tells it.

use std::collections::BTreeMap;

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::PciInfo;
use nvml_wrapper::{Device, enum_wrappers::device::TopologyLevel};
use oarlock_core::link::Link;
use oarlock_core::pci::PciAddress;

use super::fault::optional;

/// No GPU has more NVLinks than this; NVML refuses the first number beyond its own bound.
const MOST_LINKS: u32 = 64;
/// PCI vendor of IBM, whose processors have NVLinks of their own.
const IBM: u32 = 0x1014;

/// Where the active NVLinks of one GPU go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ports {
    /// How many to each PCI device that is no switch, be it a known GPU or not.
    direct: BTreeMap<PciAddress, u32>,
    /// How many to a device that is no known GPU and no processor: an NVSwitch.
    switch: u32,
}

impl Ports {
    /// Asks for every link. The wrapper's own call for the kind of the far end always answers "unknown", so the far end's
    /// address and vendor decide.
    pub(super) fn read(device: &Device<'_>, is_gpu: impl Fn(PciAddress) -> bool) -> Result<Self, NvmlError> {
        let mut ports = Self::default();
        for number in 0..MOST_LINKS {
            let link = device.link_wrapper_for(number);
            match link.is_active() {
                Ok(true) => {}
                Err(NvmlError::InvalidArg | NvmlError::FailedToLoadSymbol(_)) => break,
                answer => {
                    optional(answer)?;
                    continue;
                }
            }
            if let Some(remote) = optional(link.remote_pci_info())? {
                ports.add(&remote, &is_gpu);
            }
        }
        Ok(ports)
    }

    fn add(&mut self, remote: &PciInfo, is_gpu: impl Fn(PciAddress) -> bool) {
        match remote.bus_id.parse() {
            Ok(address) if is_gpu(address) => *self.direct.entry(address).or_default() += 1,
            _ if remote.pci_device_id & 0xffff == IBM => {}
            // A switch that a virtual machine cannot see has no address that means anything.
            _ => self.switch += 1,
        }
    }

    /// The NVLinks between two GPUs: those that join them directly, else as many as both have to switches. A GPU with
    /// direct links has none to switches: what looks so goes to a GPU that NVML lost.
    pub(super) fn between(one: (PciAddress, &Self), other: (PciAddress, &Self)) -> Option<Link> {
        let to = |ports: &Self, address| ports.direct.get(&address).copied().unwrap_or(0);
        let through = |ports: &Self| if ports.direct.is_empty() { ports.switch } else { 0 };
        let direct = to(one.1, other.0).max(to(other.1, one.0));
        let count = if direct > 0 { direct } else { through(one.1).min(through(other.1)) };
        (count > 0).then_some(Link::NvLink(count))
    }
}

/// NVML's class of a path over PCIe.
pub(super) fn path(level: TopologyLevel) -> Link {
    match level {
        // Two GPUs on one board share its switch.
        TopologyLevel::Internal | TopologyLevel::Single => Link::Switch,
        TopologyLevel::Multiple => Link::Switches,
        TopologyLevel::HostBridge => Link::HostBridge,
        TopologyLevel::Node => Link::Node,
        TopologyLevel::System => Link::System,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NVSWITCH: u32 = 0x22a3_10de;

    fn address(bus: u8) -> PciAddress {
        PciAddress { domain: 0, bus, device: 0, function: 0 }
    }

    /// The ports whose far ends are these, where buses below 10 are GPUs.
    fn ports(remotes: &[(&str, u32)]) -> Ports {
        let mut ports = Ports::default();
        for (bus_id, device) in remotes {
            let remote = PciInfo {
                bus: 0,
                bus_id: (*bus_id).to_owned(),
                device: 0,
                domain: 0,
                pci_device_id: *device,
                pci_sub_system_id: None,
            };
            ports.add(&remote, |address| address.bus < 0x10);
        }
        ports
    }

    fn between(one: &Ports, other: &Ports) -> Option<Link> {
        Ports::between((address(1), one), (address(2), other))
    }

    #[test]
    fn direct_links_count_by_the_address_of_the_far_end() {
        let one = ports(&[("00000000:02:00.0", 0), ("00000000:02:00.0", 0), ("00000000:03:00.0", 0)]);
        assert_eq!(between(&one, &Ports::default()), Some(Link::NvLink(2)));
        assert_eq!(between(&Ports::default(), &one), None);
    }

    #[test]
    fn switches_join_as_many_links_as_both_have() {
        let hidden = ("FFFFFFFF:FFFF:FF.0", NVSWITCH);
        let one = ports(&[("00000000:C1:00.0", NVSWITCH), ("00000000:C2:00.0", NVSWITCH), hidden]);
        assert_eq!(between(&one, &ports(&[hidden, hidden])), Some(Link::NvLink(2)));
        assert_eq!(between(&one, &Ports::default()), None);
    }

    #[test]
    fn links_to_a_lost_peer_are_no_way_through_a_switch() {
        let mesh = |peer| ports(&[(peer, 0), ("00000000:C1:00.0", 0x1db1_10de)]);
        assert_eq!(between(&mesh("00000000:03:00.0"), &mesh("00000000:04:00.0")), None);
    }

    #[test]
    fn links_to_a_processor_join_no_gpus() {
        let one = ports(&[("00000004:C1:00.0", 0x04ea_1014), ("00000004:C2:00.0", 0x04ea_1014)]);
        assert_eq!(between(&one, &one), None);
    }
}
