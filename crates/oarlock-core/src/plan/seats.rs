//! Which GPUs each rank drives.

use crate::explain::Warning;
use crate::locality::Locality;
use crate::machine::{Gpu, Machine};
use crate::pci::PciAddress;
use crate::refusal::Refusal;
use crate::request::{CpuMap, GpuChoice, GpuRef, MemMap, Request};

/// A rank and its GPUs.
pub(super) struct Seat<'a> {
    pub(super) rank: u32,
    pub(super) gpus: Vec<SeatGpu<'a>>,
    /// Whether the container holds GPUs at all, this rank's or others'.
    pub(super) container_has_gpus: bool,
}

/// A GPU, or a PCI device that counts as one because its address was asked for.
#[derive(Clone, Copy)]
pub(super) struct SeatGpu<'a> {
    /// The machine's index; for a device that is no GPU, the next free number.
    pub(super) index: u32,
    pub(super) address: Option<PciAddress>,
    pub(super) locality: &'a Locality,
    pub(super) memory_node: Option<u32>,
}

impl<'a> From<&'a Gpu> for SeatGpu<'a> {
    fn from(gpu: &'a Gpu) -> Self {
        Self { index: gpu.index, address: gpu.pci, locality: &gpu.locality, memory_node: gpu.memory_node }
    }
}

impl SeatGpu<'_> {
    /// `gpu 0 (0000:07:00.0)`.
    pub(super) fn name(&self) -> String {
        match self.address {
            Some(address) => format!("gpu {} ({address})", self.index),
            None => format!("gpu {}", self.index),
        }
    }

    /// Why its node is unknown; empty where it is known.
    pub(super) fn why_unknown(&self) -> &str {
        match self.locality {
            Locality::Unknown { why } => why,
            Locality::Node { .. } => "",
        }
    }
}

/// The ranks of the request with their GPUs, in rank order.
pub(super) fn seats<'a>(machine: &'a Machine, request: &Request) -> Result<Vec<Seat<'a>>, Refusal> {
    let gpus = container_gpus(machine, &request.gpus)?;
    let ranks = request.ranks.unwrap_or(match gpus.len() {
        0 => 1,
        count => count as u32,
    });
    let per_rank: Vec<Vec<SeatGpu<'a>>> = match &request.rank_gpus {
        Some(lists) => by_lists(&gpus, lists, ranks)?,
        None => by_order(&gpus, ranks),
    };
    let container_has_gpus = !gpus.is_empty();
    Ok((0..ranks).zip(per_rank).map(|(rank, gpus)| Seat { rank, gpus, container_has_gpus }).collect())
}

/// Rank i has GPU i; where the GPUs divide evenly, the i-th k of them.
fn by_order<'a>(gpus: &[SeatGpu<'a>], ranks: u32) -> Vec<Vec<SeatGpu<'a>>> {
    let ranks = ranks as usize;
    let each = if gpus.len().is_multiple_of(ranks) { gpus.len() / ranks } else { 1 };
    (0..ranks).map(|rank| gpus.iter().skip(rank.saturating_mul(each)).take(each).copied().collect()).collect()
}

fn by_lists<'a>(gpus: &[SeatGpu<'a>], lists: &[Vec<u32>], ranks: u32) -> Result<Vec<Vec<SeatGpu<'a>>>, Refusal> {
    const KEY: &str = "rank-gpus";
    let text = || {
        let entries: Vec<String> =
            lists.iter().map(|list| list.iter().map(u32::to_string).collect::<Vec<_>>().join(",")).collect();
        entries.join(";")
    };
    if lists.len() != ranks as usize {
        return Err(Refusal::wrong_length(KEY, text(), lists.len(), ranks));
    }
    lists
        .iter()
        .enumerate()
        .map(|(rank, list)| {
            list.iter()
                .map(|&position| {
                    gpus.get(position as usize).copied().ok_or_else(|| {
                        Refusal::new(
                            KEY,
                            text(),
                            "positions among the container's GPUs, counted from 0",
                            format!(
                                "entry {} (rank {rank}): there is no gpu {position} among {}",
                                rank + 1,
                                gpus.len()
                            ),
                        )
                    })
                })
                .collect()
        })
        .collect()
}

fn container_gpus<'a>(machine: &'a Machine, choice: &GpuChoice) -> Result<Vec<SeatGpu<'a>>, Refusal> {
    const KEY: &str = "gpus";
    let all = || machine.gpus.iter().map(SeatGpu::from);
    match choice {
        GpuChoice::All => Ok(all().collect()),
        GpuChoice::Count(count) => {
            let gpus: Vec<_> = all().take(*count as usize).collect();
            if gpus.len() < *count as usize {
                return Err(Refusal::of_fact(
                    KEY,
                    count.to_string(),
                    "the machine has the GPUs that are asked for",
                    format!("machine \"{}\" has {} gpus", machine.name, gpus.len()),
                ));
            }
            Ok(gpus)
        }
        GpuChoice::Some(refs) => {
            let mut next = machine.gpus.iter().map(|gpu| gpu.index.saturating_add(1)).max().unwrap_or(0);
            refs.iter()
                .map(|gpu| {
                    find(machine, gpu, &mut next).ok_or_else(|| {
                        let names: Vec<String> = refs.iter().map(ToString::to_string).collect();
                        Refusal::of_fact(
                            KEY,
                            names.join(", "),
                            "each is a GPU of the machine by index, UUID or PCI address, or any PCI device by address",
                            format!("machine \"{}\" has no {gpu}", machine.name),
                        )
                    })
                })
                .collect()
        }
    }
}

fn find<'a>(machine: &'a Machine, wanted: &GpuRef, next: &mut u32) -> Option<SeatGpu<'a>> {
    let gpu = machine.gpus.iter().find(|gpu| match wanted {
        GpuRef::Index(index) => gpu.index == *index,
        GpuRef::Address(address) => gpu.pci == Some(*address),
        GpuRef::Uuid(uuid) => gpu.uuid.as_ref() == Some(uuid),
    });
    if let Some(gpu) = gpu {
        return Some(gpu.into());
    }
    let GpuRef::Address(address) = wanted else { return None };
    let device = machine.devices.iter().find(|device| device.address == *address)?;
    let index = *next;
    *next = next.saturating_add(1);
    Some(SeatGpu { index, address: Some(device.address), locality: &device.locality, memory_node: None })
}

/// What is doubtful about the pairing. A count of GPUs is planned with the first ones: which ones kubelet will give is not
/// known before. GPUs that no rank drives leave their node out of the container.
pub(super) fn warnings(machine: &Machine, request: &Request, seats: &[Seat<'_>]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let held = match &request.gpus {
        GpuChoice::All => machine.gpus.len(),
        GpuChoice::Some(gpus) => gpus.len(),
        GpuChoice::Count(count) => *count as usize,
    };
    if matches!(request.gpus, GpuChoice::Count(_)) && (1..machine.gpus.len()).contains(&held) {
        warnings.push(Warning::GpusNotKnown { count: held as u32, of: machine.gpus.len() });
    }
    let mut driven: Vec<u32> = seats.iter().flat_map(|seat| seat.gpus.iter().map(|gpu| gpu.index)).collect();
    driven.sort_unstable();
    driven.dedup();
    let asked = request.cpu_map != CpuMap::None || request.mem_map != MemMap::None;
    if asked && driven.len() < held {
        warnings.push(Warning::GpusWithoutRank { driven: driven.len(), held });
    }
    warnings
}
