//! CPUs that containers have for themselves: who holds which, and what that leaves to the others.

use std::collections::BTreeSet;

use oarlock_core::CpuSet;
use oarlock_core::ledger::{Holding, Ledger};
use oarlock_core::machine::Gpu;
use oarlock_core::rankenv::RankEnv;
use oarlock_kernel::ledger::Source;
use oarlock_nri::proto::ContainerUpdate;

use super::known::{Known, Stage, change};
use super::{Desk, State};

impl Desk {
    /// Moves all others off the CPUs that a container has for itself.
    pub(super) fn make_room(&self, state: &mut State, holder: &str) -> Vec<ContainerUpdate> {
        let ids: Vec<String> = state.containers.keys().filter(|id| *id != holder).cloned().collect();
        let mut changes = Vec::new();
        for id in ids {
            let Some(mut known) = state.containers.get(&id).cloned() else { continue };
            let taken = state.taken_from(&known);
            let of_ranks = || known.placement.as_ref().map(|placement| cpus_of_ranks(&placement.ranks));
            let has = known.sets().0.or_else(of_ranks).or_else(|| known.given.cpus.clone());
            let has = has.unwrap_or_else(|| state.knowledge.machine.cpus());
            if known.unpinned || !has.intersects(&taken) {
                continue;
            }
            if known.placement.is_some() {
                self.place_again(state, &mut known);
                if known.stage == Stage::Running {
                    self.keep(state, &known);
                }
            } else {
                known.kept_to = state.kept_to(&known);
            }
            self.write(state, &known);
            changes.extend(known.change());
            state.containers.insert(id, known);
        }
        changes
    }

    /// Gives others back what a container had for itself.
    pub(super) fn give_back(&self, state: &mut State) -> Vec<ContainerUpdate> {
        let mut changes = Vec::new();
        for id in state.containers.keys().cloned().collect::<Vec<_>>() {
            let Some(mut known) = state.containers.get(&id).cloned() else { continue };
            if known.unpinned || known.placement.is_some() || known.kept_to.is_none() {
                continue;
            }
            let kept_to = state.kept_to(&known);
            if kept_to == known.kept_to {
                continue;
            }
            known.kept_to = kept_to;
            // An empty set is no change: what was not set before gets all.
            let all = || known.given.cpus.clone().unwrap_or_else(|| state.knowledge.machine.cpus());
            let cpus = known.kept_to.clone().unwrap_or_else(all);
            changes.extend(change(&id, Some(&cpus), None));
            match known.kept_to {
                Some(_) => self.write(state, &known),
                None => self.erase(&id),
            }
            state.containers.insert(id, known);
        }
        changes
    }
}

/// All CPUs of a container's ranks.
fn cpus_of_ranks(ranks: &RankEnv) -> CpuSet {
    ranks.ranks.iter().filter_map(|rank| rank.cpus.as_ref()).fold(CpuSet::new(), |all, cpus| all.union(cpus))
}

impl State {
    /// The GPUs of these ranks, as the machine has them.
    pub(super) fn gpus_of(&self, ranks: &RankEnv) -> Vec<Gpu> {
        let indices: BTreeSet<u32> = ranks.ranks.iter().flat_map(|rank| rank.gpus.iter().copied()).collect();
        self.knowledge.machine.gpus.iter().filter(|gpu| indices.contains(&gpu.index)).cloned().collect()
    }

    pub(super) fn uid_of(&self, known: &Known) -> String {
        self.pods.get(&known.sandbox).map(|pod| pod.pod.uid.clone()).unwrap_or_default()
    }

    /// Whether another container of the same pod was placed by GPUs.
    pub(super) fn sandbox_has_gpus(&self, known: &Known) -> bool {
        let others =
            self.containers.values().filter(|other| other.sandbox == known.sandbox && other.name != known.name);
        let mut ranks =
            others.filter_map(|other| other.placement.as_ref()).flat_map(|placement| &placement.ranks.ranks);
        ranks.any(|rank| !rank.gpus.is_empty())
    }

    /// Who holds CPUs for itself, without this container.
    pub(super) fn holdings(&mut self, without: &str) -> Ledger {
        let mut holdings = Vec::new();
        for known in self.containers.values().filter(|known| known.id != without && !known.unpinned) {
            let cpus = known.exclusive();
            if cpus.is_empty() {
                continue;
            }
            let pod = self.pods.get(&known.sandbox).map(|pod| &pod.pod);
            let pod = pod.map_or_else(String::new, |pod| format!("{}/{}", pod.namespace, pod.name));
            holdings.push(Holding { holder: format!("{pod}/{}", known.name), cpus });
        }
        // What the hook placed the runtime does not tell.
        if let Ok(contents) = self.reader.read() {
            let hooks = contents.entries().filter(|entry| entry.source == Source::Hook && !entry.unpinned);
            let hooks = hooks.filter(|entry| entry.id != without && !self.containers.contains_key(&entry.id));
            holdings.extend(hooks.filter(|entry| !entry.exclusive.is_empty()).map(|entry| Holding {
                holder: format!("{}/{}/{}", entry.pod.namespace, entry.pod.name, entry.name),
                cpus: entry.exclusive.clone(),
            }));
        }
        Ledger { holdings }
    }

    /// The CPUs that others have alone.
    fn taken_from(&self, known: &Known) -> CpuSet {
        let others = self.containers.values().filter(|other| other.id != known.id && !other.unpinned);
        let alone = others.filter(|other| other.placement.as_ref().is_some_and(|placement| placement.alone));
        alone.fold(CpuSet::new(), |all, other| all.union(&other.exclusive()))
    }

    /// What is left to a container without a place, while others have CPUs alone; `None` where all is left, and where nothing
    /// would be.
    pub(super) fn kept_to(&self, known: &Known) -> Option<CpuSet> {
        let taken = self.taken_from(known);
        let has = known.given.cpus.clone().unwrap_or_else(|| self.knowledge.machine.cpus());
        let left = has.difference(&taken);
        (left != has && !left.is_empty()).then_some(left)
    }
}
