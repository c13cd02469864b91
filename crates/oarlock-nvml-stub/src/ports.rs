//! Which NVLink of a GPU goes where, from the number of links that a topology printout gives for each pair.

use nvml_wrapper_sys::bindings::NVML_NVLINK_MAX_LINKS;
use oarlock_core::link::Link;

/// The far end of one NVLink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    /// Another GPU, by its number.
    Gpu(usize),
    /// An NVSwitch, by its number.
    Switch(usize),
}

/// The NVSwitches of a machine share the links of each GPU evenly.
const SWITCHES: usize = 6;

/// The NVLinks of GPU `gpu`, whose row of the matrix this is. Direct links to every peer, as long as a GPU has that many;
/// a printout that adds up to more counts the same links for every peer, and those go to switches.
pub(crate) fn of(gpu: usize, row: &[Link]) -> Vec<Port> {
    let links = |link: &Link| if let Link::NvLink(count) = link { *count } else { 0 };
    let peers = || row.iter().enumerate().filter(|(peer, _)| *peer != gpu);
    let direct: u64 = peers().map(|(_, link)| u64::from(links(link))).sum();
    if direct <= u64::from(NVML_NVLINK_MAX_LINKS) {
        return peers().flat_map(|(peer, link)| (0..links(link)).map(move |_| Port::Gpu(peer))).collect();
    }
    let shared = peers().map(|(_, link)| links(link)).max().unwrap_or(0).min(NVML_NVLINK_MAX_LINKS);
    (0..shared as usize).map(|link| Port::Switch(link % SWITCHES)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(words: &str) -> Vec<Link> {
        words.split(' ').map(Link::from_word).collect()
    }

    #[test]
    fn a_mesh_that_a_gpu_has_links_for_is_direct() {
        // DGX-1: six links to four of seven peers.
        let ports = of(0, &row("X NV1 NV2 NV1 SYS SYS SYS NV2"));
        assert_eq!(ports, [1, 2, 2, 3, 7, 7].map(Port::Gpu));
        assert_eq!(of(1, &row("NV18 X")), [Port::Gpu(0); 18]);
        assert_eq!(of(1, &row("SYS X PHB")), []);
    }

    #[test]
    fn more_links_than_a_gpu_has_are_the_same_ones_through_switches() {
        let ports = of(2, &row("NV12 NV12 X NV12 NV12 NV12 NV12 NV12"));
        assert_eq!(ports.len(), 12);
        assert!(ports.iter().all(|port| matches!(port, Port::Switch(_))));
        assert_eq!(of(0, &row("X NV4294967295 NV4294967295")).len(), 18);
    }
}
