//! Ranks that their environment does not name: found, and held as the others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use oarlock_core::pci::PciAddress;

use super::super::late::{self, Unnamed};
use super::{Binding, KnownBy, State, is_below, place_of};

/// Whoever has not called itself a rank for so long does not.
pub(super) const LATE: Duration = Duration::from_secs(10);
/// The order of more processes than this is not looked at.
const MOST_UNNAMED: usize = 1024;

impl Binding {
    /// Whether some container's ranks are not all known, and one of its other processes may be one.
    pub(crate) fn lacks_ranks(&self) -> bool {
        self.wards.values().any(State::lacks_ranks)
    }

    /// These processes use the GPUs: those that are ranks by that, and by nothing else, are held.
    pub(crate) fn used(&mut self, used: &[(PciAddress, Vec<u32>)]) {
        self.nvml_tells = !used.is_empty();
        let lacking: Vec<String> =
            self.wards.iter().filter(|(_, state)| state.lacks_ranks()).map(|(id, _)| id.clone()).collect();
        for id in lacking {
            let Some(state) = self.wards.get(&id) else { continue };
            let mut using: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
            for (gpu, pids) in used.iter().filter_map(|(pci, pids)| Some((state.ward.gpu_at(*pci)?, pids))) {
                for &pid in pids.iter().filter(|pid| state.others.contains(pid) && state.ward.init != Some(**pid)) {
                    using.entry(pid).or_default().insert(gpu);
                }
            }
            let ranks = late::by_gpu(&state.ward.ranks.ranks, &using);
            self.bind_late(&id, ranks, KnownBy::Gpu);
        }
    }

    /// Ranks that nobody names, some time after their container began: where NVML tells nothing of their GPUs, they are
    /// known by their order.
    pub(crate) fn order_all(&mut self) {
        for id in self.wards.keys().cloned().collect::<Vec<_>>() {
            let Some(state) = self.wards.get_mut(&id) else { continue };
            let on_gpus = self.nvml_tells && state.ward.ranks.ranks.iter().any(|entry| !entry.gpus.is_empty());
            if on_gpus
                || state.is_named
                || !state.bound.is_empty()
                || state.since.elapsed() < LATE
                || state.others.len() > MOST_UNNAMED
                || state.others == state.ordered
            {
                continue;
            }
            state.ordered.clone_from(&state.others);
            let (planned, pids) = (state.ward.ranks.ranks.len(), state.others.clone());
            let unnamed: Vec<Unnamed> = pids.into_iter().filter_map(|pid| self.unnamed(pid)).collect();
            let ranks = (0..).zip(late::by_order(&unnamed, planned)).collect();
            self.bind_late(&id, ranks, KnownBy::Order);
        }
    }

    fn unnamed(&self, pid: u32) -> Option<Unnamed> {
        let process = self.process(pid)?;
        Some(Unnamed {
            pid,
            parent: process.status().ok()?.here()?.parent,
            started: process.started().ok()?.here()?,
            arguments: process.arguments().ok()?.here()?,
        })
    }

    /// Holds these processes of a ward as these ranks, those that have no other process.
    fn bind_late(&mut self, id: &str, ranks: Vec<(u32, u32)>, known_by: KnownBy) {
        for (rank, pid) in ranks {
            let Some(state) = self.wards.get(id).filter(|state| !state.bound.contains_key(&rank)) else { continue };
            if let Some(process) = self.process(pid)
                && let Some(place) = place_of(&process)
                && is_below(&place, &state.ward.cgroup)
            {
                self.bind(id, (rank, rank), known_by, &process, &place, &|| None);
            }
        }
    }
}

impl State {
    fn lacks_ranks(&self) -> bool {
        let is_lacking = |rank: u32| !self.bound.contains_key(&rank) && self.ward.wall(rank).is_some();
        !self.others.is_empty() && (0..self.ward.ranks.ranks.len() as u32).any(is_lacking)
    }
}
