//! NVIDIA GPUs as NVML knows them: UUID, index, address, memory node, links, MIG devices, and how they are. All calls to
//! NVML are in this folder; all of them block, and none decides what a fault means.
//!
//! A [`Session`] is NVML opened once. When the driver is unloaded or replaced, its calls fail with [`Fault::Over`], or fail
//! for every GPU: drop it, and open another. An open session can keep the driver from being unloaded.

mod fault;
mod links;
mod read;
mod watch;

use std::collections::BTreeSet;
use std::ffi::{OsStr, c_ulong};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use oarlock_core::NodeSet;
use oarlock_core::link::Link;
use oarlock_core::pci::PciAddress;

use fault::optional;
use links::Ports;

pub use fault::{Fault, OpenError};
pub(crate) use read::{Known, read};
pub use watch::{Event, EventKind, Watch};

/// The name that a driver and a container toolkit both install; the one without the number comes with development files.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// More processes on one GPU than this are left out.
const MOST_PROCESSES: usize = 4096;
/// `NVML_AFFINITY_SCOPE_NODE`.
const NODE_SCOPE: u32 = 0;
/// Words of 64 nodes, enough for every kernel.
const NODE_WORDS: usize = 16;
/// How often a call that fails for no reason of the GPU's is made, and how long between.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(20);

/// NVML, opened.
#[derive(Debug)]
pub struct Session {
    nvml: Nvml,
}

/// One GPU as NVML describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// NVML's number of it. Shown to people; never an identity.
    pub index: u32,
    /// Its address.
    pub pci: PciAddress,
    /// Its UUID (`GPU-…`).
    pub uuid: Option<String>,
    /// What the vendor calls it.
    pub name: Option<String>,
    /// The number in the name of its device node, `/dev/nvidia0`.
    pub minor: Option<u32>,
    /// `nvmlDeviceGetNumaNodeId`: the GPU's own memory, and not the node to run on.
    pub memory_node: Option<u32>,
    /// The memory nodes that NVML calls near, at node scope.
    pub memory_affinity: Option<NodeSet>,
    /// Its MIG devices, ascending by number; `None` where MIG is off.
    pub mig: Option<Vec<MigDevice>>,
}

/// A MIG device: a part of a GPU with a UUID of its own. Its place is its GPU's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigDevice {
    /// Its number on the GPU. Numbers have gaps.
    pub number: u32,
    /// Its UUID (`MIG-…`).
    pub uuid: String,
    /// Its profile (`1g.10gb`), as its name ends.
    pub profile: Option<String>,
}

/// What NVML lists: the GPUs it describes, and those that it counts and cannot reach.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// The GPUs, ascending by index.
    pub gpus: Vec<Gpu>,
    /// Index and reason of each GPU that cannot be reached.
    pub unreachable: Vec<(u32, Fault)>,
}

impl Session {
    /// Opens NVML: this library, else the one of the usual name.
    pub fn open(library: Option<&Path>) -> Result<Self, OpenError> {
        let name = library.map_or(OsStr::new(LIBRARY), Path::as_os_str);
        let shown = || name.to_string_lossy().into_owned();
        let mut patience = Patience::new();
        loop {
            match Nvml::builder().lib_path(name).init() {
                Ok(nvml) => return Ok(Self { nvml }),
                Err(NvmlError::LibloadingError(error)) => {
                    return Err(OpenError::Library { library: shown(), source: error.into() });
                }
                Err(NvmlError::DriverNotLoaded) => return Err(OpenError::Driver { library: shown() }),
                Err(error @ NvmlError::FailedToLoadSymbol(_)) => {
                    return Err(OpenError::Start { library: shown(), source: error });
                }
                Err(error) if patience.with(&Fault::from(&error)) => {}
                Err(source) => return Err(OpenError::Start { library: shown(), source }),
            }
        }
    }

    /// All GPUs, each with its MIG devices.
    pub fn list(&self) -> Result<Listing, Fault> {
        let count = patiently(|| self.nvml.device_count())?;
        let mut listing = Listing::default();
        for index in 0..count {
            match patiently(|| self.gpu(index)) {
                Ok(gpu) => listing.gpus.push(gpu),
                Err(fault @ Fault::Over(_)) => return Err(fault),
                Err(fault) => listing.unreachable.push((index, fault)),
            }
        }
        Ok(listing)
    }

    /// How these GPUs are joined, a row and a column for each; a pair of which NVML says nothing is unknown.
    pub fn links(&self, gpus: &[Gpu]) -> Vec<Vec<Link>> {
        let addresses: BTreeSet<PciAddress> = gpus.iter().map(|gpu| gpu.pci).collect();
        let device = |gpu: &Gpu| self.nvml.device_by_pci_bus_id(gpu.pci.to_string());
        let ports = |gpu| patiently(|| Ports::read(&device(gpu)?, |address| addresses.contains(&address)));
        let ports: Vec<Ports> = gpus.iter().map(|gpu| ports(gpu).unwrap_or_default()).collect();
        let ancestor = |one, other| patiently(|| device(one)?.topology_common_ancestor(device(other)?));
        let mut links = vec![vec![Link::Unknown; gpus.len()]; gpus.len()];
        for (at, one) in gpus.iter().enumerate() {
            for (to, other) in gpus.iter().enumerate().take(at) {
                let nvlink = Ports::between((one.pci, &ports[at]), (other.pci, &ports[to]));
                let link = nvlink.or_else(|| ancestor(one, other).ok().map(links::path)).unwrap_or(Link::Unknown);
                (links[at][to], links[to][at]) = (link, link);
            }
        }
        links
    }

    /// Whether the GPU or MIG device of this UUID answers: one call, as cheap as any that reaches the device itself.
    pub fn probe(&self, uuid: &str) -> Result<(), Fault> {
        let device = self.nvml.device_by_uuid(uuid)?;
        // Names and addresses are answered from what the library remembers; processes are not.
        optional(device.running_compute_processes_count())?;
        Ok(())
    }

    /// The processes that compute on each of these GPUs, by the host's numbers, as far as NVML tells: it does where the caller
    /// is in the host's own pid namespace. A GPU of which it does not tell is left out, as is one with MIG devices.
    pub fn processes(&self, gpus: &[Gpu]) -> Result<Vec<(PciAddress, Vec<u32>)>, Fault> {
        let mut all = Vec::new();
        for gpu in gpus.iter().filter(|gpu| gpu.mig.is_none()) {
            let device = self.nvml.device_by_pci_bus_id(gpu.pci.to_string());
            match device.and_then(|device| device.running_compute_processes()).map_err(Fault::from) {
                Ok(processes) => {
                    let pids = processes.iter().map(|process| process.pid).filter(|&pid| pid != 0);
                    all.push((gpu.pci, pids.take(MOST_PROCESSES).collect()));
                }
                Err(fault @ Fault::Over(_)) => return Err(fault),
                Err(_) => {}
            }
        }
        Ok(all)
    }

    /// Starts to listen to these GPUs. One that cannot be listened to does not stop the others:
    /// [`Watch::unwatched`] names it.
    pub fn watch(&self, gpus: &[Gpu]) -> Result<Watch<'_>, Fault> {
        Watch::new(self, gpus)
    }

    fn gpu(&self, index: u32) -> Result<Gpu, NvmlError> {
        let device = self.nvml.device_by_index(index)?;
        let address = device.pci_info()?.bus_id;
        let affinity = optional(device.memory_affinity(NODE_WORDS, NODE_SCOPE))?;
        Ok(Gpu {
            index,
            pci: address.parse().map_err(|_| NvmlError::GetPciInfoFailed)?,
            // A lost GPU still has an address; that it has no UUID is what tells.
            uuid: optional(device.uuid())?,
            name: optional(device.name())?,
            minor: optional(device.minor_number())?,
            memory_node: optional(device.numa_node_id())?,
            memory_affinity: affinity.map(|words| nodes(&words)),
            mig: mig(&device)?,
        })
    }
}

/// Few tries at what fails for no reason.
#[derive(Debug)]
struct Patience {
    left: u32,
}

impl Patience {
    fn new() -> Self {
        Self { left: TRIES - 1 }
    }

    /// Whether to try again after this fault; pauses before it says so.
    fn with(&mut self, fault: &Fault) -> bool {
        if self.left == 0 || !fault.passes() {
            return false;
        }
        self.left -= 1;
        thread::sleep(PAUSE);
        true
    }
}

fn patiently<T>(mut call: impl FnMut() -> Result<T, NvmlError>) -> Result<T, Fault> {
    let mut patience = Patience::new();
    loop {
        match call().map_err(Fault::from) {
            Err(fault) if patience.with(&fault) => {}
            done => return done,
        }
    }
}

fn mig(device: &Device<'_>) -> Result<Option<Vec<MigDevice>>, NvmlError> {
    if optional(device.mig_mode())?.is_none_or(|mode| mode.current == 0) {
        return Ok(None);
    }
    let most = optional(device.mig_device_count())?.unwrap_or(0);
    let mut found = Vec::new();
    for number in 0..most {
        let Some(mig) = optional(device.mig_device_by_index(number))? else { continue };
        let profile = optional(mig.name())?.and_then(|name| Some(name.rsplit_once(" MIG ")?.1.to_owned()));
        found.push(MigDevice { number, uuid: mig.uuid()?, profile });
    }
    Ok(Some(found))
}

fn nodes(words: &[c_ulong]) -> NodeSet {
    let mut nodes = NodeSet::new();
    for (word, base) in words.iter().zip((0..).step_by(c_ulong::BITS as usize)) {
        for bit in (0..c_ulong::BITS).filter(|bit| word & (1 << bit) != 0) {
            nodes.insert(base + bit);
        }
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_words_count_from_the_lowest_bit_of_the_first() {
        assert_eq!(nodes(&[1 << 3, 0, 1]).to_string(), "3,128");
    }

    #[test]
    fn what_fails_for_no_reason_is_tried_again_and_what_is_lost_is_not() {
        let mut calls = 0;
        let mut third_time = || {
            calls += 1;
            if calls < 3 { Err(NvmlError::Unknown) } else { Ok(calls) }
        };
        assert_eq!(patiently(&mut third_time), Ok(3));
        let mut calls = 0;
        let lost = patiently(|| -> Result<(), _> {
            calls += 1;
            Err(NvmlError::GpuLost)
        });
        assert!(matches!(lost, Err(Fault::Lost(_))) && calls == 1, "{lost:?} after {calls}");
    }
}
