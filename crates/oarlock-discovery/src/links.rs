//! How GPUs are joined over PCIe, from where their devices sit in the kernel's tree, and with what NVML adds to that.

use std::collections::BTreeMap;

use oarlock_core::link::Link;
use oarlock_core::machine::Gpu;
use oarlock_core::pci::PciAddress;

use crate::nvml::Known;

/// The way from a PCI device up to its host bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PciPath {
    /// The bridges, the nearest first. A switch is two of them: one port towards the device, one towards the host.
    pub(crate) bridges: Vec<PciAddress>,
    /// The host bridge, as the kernel names its folder (`pci0000:00`).
    pub(crate) host: String,
}

/// The links between `gpus`, in their order: NVML's, else what follows from the tree. `None` where nothing is known of any
/// pair.
pub(crate) fn between(gpus: &[Gpu], paths: &BTreeMap<PciAddress, PciPath>, nvml: &Known) -> Option<Vec<Vec<Link>>> {
    let place = |gpu: &Gpu| nvml.gpus.iter().position(|known| Some(known.pci) == gpu.pci);
    let places: Vec<Option<usize>> = gpus.iter().map(place).collect();
    let stated = |one: usize, other: usize| Some(nvml.links[places[one]?][places[other]?]);
    let path = |gpu: &Gpu| gpu.pci.and_then(|address| paths.get(&address));
    let link = |one: usize, other: usize| match stated(one, other) {
        _ if one == other => Link::Unknown,
        None | Some(Link::Unknown) => {
            over_pci((path(&gpus[one]), gpus[one].locality.node()), (path(&gpus[other]), gpus[other].locality.node()))
        }
        Some(link) => link,
    };
    let links: Vec<Vec<Link>> =
        (0..gpus.len()).map(|one| (0..gpus.len()).map(|other| link(one, other)).collect()).collect();
    links.iter().flatten().any(|link| *link != Link::Unknown).then_some(links)
}

/// The class of the way between two devices, each with its path and its node.
fn over_pci(one: (Option<&PciPath>, Option<u32>), other: (Option<&PciPath>, Option<u32>)) -> Link {
    if let (Some(one), Some(other)) = (one.0, other.0)
        && one.host == other.host
    {
        let below = one.bridges.iter().position(|bridge| other.bridges.contains(bridge));
        let meeting = below.and_then(|at| Some((at, other.bridges.iter().position(|b| *b == one.bridges[at])?)));
        return match meeting {
            // Below the port of a switch towards the host, each device has its own port towards it.
            Some((0 | 1, 0 | 1)) => Link::Switch,
            Some(_) => Link::Switches,
            None => Link::HostBridge,
        };
    }
    match (one.1, other.1) {
        (Some(one), Some(other)) if one != other => Link::System,
        // Without the tree nothing says how much closer than that they are.
        (Some(_), Some(_)) if one.0.is_some() && other.0.is_some() => Link::Node,
        _ => Link::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_core::locality::{Evidence, Locality};

    fn path(host: &str, bridges: &[u8]) -> PciPath {
        let address = |bus: &u8| PciAddress { domain: 0, bus: *bus, device: 0, function: 0 };
        PciPath { bridges: bridges.iter().map(address).collect(), host: host.to_owned() }
    }

    #[test]
    fn the_nearest_common_bridge_decides_and_else_the_host_bridge_and_else_the_node() {
        // A switch is a port towards the host (2, 10) with ports towards the devices (3 to 6, 11, 12) below it.
        let one = path("pci0000:00", &[3, 2, 1]);
        for (other, node, expected) in [
            (path("pci0000:00", &[4, 2, 1]), 0, Link::Switch),
            // Two functions of one card, and a card below a switch of its own on the same port.
            (path("pci0000:00", &[3, 2, 1]), 0, Link::Switch),
            (path("pci0000:00", &[11, 10, 4, 2, 1]), 0, Link::Switches),
            (path("pci0000:00", &[1]), 0, Link::Switches),
            (path("pci0000:00", &[9]), 0, Link::HostBridge),
            (path("pci0000:00", &[]), 7, Link::HostBridge),
            (path("pci0000:80", &[3, 2, 1]), 0, Link::Node),
            (path("pci0000:80", &[3, 2, 1]), 1, Link::System),
        ] {
            assert_eq!(over_pci((Some(&one), Some(0)), (Some(&other), Some(node))), expected, "{other:?}");
            assert_eq!(over_pci((Some(&other), Some(node)), (Some(&one), Some(0))), expected, "{other:?}");
        }
    }

    #[test]
    fn what_no_tree_and_no_node_tells_is_unknown() {
        let known = path("pci0000:00", &[]);
        assert_eq!(over_pci((None, Some(0)), (None, Some(0))), Link::Unknown);
        assert_eq!(over_pci((Some(&known), Some(0)), (None, Some(0))), Link::Unknown);
        assert_eq!(over_pci((None, Some(0)), (None, Some(1))), Link::System);
        assert_eq!(over_pci((Some(&known), None), (Some(&path("pci0000:80", &[])), Some(0))), Link::Unknown);
    }

    #[test]
    fn nvmls_word_counts_by_address_and_the_tree_fills_its_gaps() {
        let gpu = |index, bus| Gpu {
            index,
            pci: Some(PciAddress { domain: 0, bus, device: 0, function: 0 }),
            uuid: None,
            model: None,
            locality: Locality::Node { node: 0, from: Evidence::NumaNode },
            local_cpus: None,
            memory_node: None,
        };
        let known = |index, bus| crate::nvml::Gpu {
            index,
            pci: PciAddress { domain: 0, bus, device: 0, function: 0 },
            uuid: None,
            name: None,
            minor: None,
            memory_node: None,
            memory_affinity: None,
            mig: None,
        };
        let gpus = [gpu(0, 9), gpu(1, 8), gpu(2, 7)];
        let paths = gpus.iter().map(|gpu| (gpu.pci.unwrap(), path("pci0000:00", &[]))).collect();
        let (nv, un) = (Link::NvLink(6), Link::Unknown);
        let nvml = Known { gpus: vec![known(2, 7), known(0, 9)], links: vec![vec![un, nv], vec![nv, un]] };
        let phb = Link::HostBridge;
        let expected = vec![vec![un, phb, nv], vec![phb, un, phb], vec![nv, phb, un]];
        assert_eq!(between(&gpus, &paths, &nvml), Some(expected));
        assert_eq!(between(&gpus[..1], &paths, &nvml), None);
        assert_eq!(between(&gpus[..0], &paths, &Known::default()), None);
    }
}
