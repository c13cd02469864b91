//! Containers that the OCI hook has placed. No runtime tells of them here: the ledger does.

use std::collections::BTreeMap;

use oarlock_kernel::ledger::{Entry, Source};

use super::{Desk, RankPlace, State};
use crate::binder::{Order, Ward};
use crate::tell::{Notice, What};

/// Those whose ranks are held, by id, as the ledger had them when that was ordered.
pub(super) type Hooked = BTreeMap<String, Entry>;

impl Desk {
    /// Has the ranks of containers held that the hook has placed, for as long as the ledger has them.
    pub(crate) fn heed_hooks(&self) {
        let mut state = self.state();
        let state = &mut *state;
        // A hook that is done has written what is to be done.
        let Ok(contents) = state.reader.read() else { return };
        let is_placed = |entry: &&Entry| entry.source == Source::Hook && entry.cgroup.is_some() && !entry.unpinned;
        let known = &state.containers;
        let placed: BTreeMap<&str, &Entry> = contents
            .entries()
            .filter(|entry| is_placed(entry) && !known.contains_key(&entry.id))
            .map(|entry| (entry.id.as_str(), entry))
            .collect();
        let ended: Vec<String> = state.hooked.keys().filter(|id| !placed.contains_key(id.as_str())).cloned().collect();
        let is_new = |entry: &&&Entry| state.hooked.get(&entry.id) != Some(**entry);
        let new: Vec<Entry> = placed.values().filter(is_new).map(|entry| (*entry).clone()).collect();
        for id in ended {
            state.hooked.remove(&id);
            if !state.containers.contains_key(&id) {
                self.order(Order::Forget(id));
            }
        }
        for entry in new {
            if let (Some(cgroup), false) = (&entry.cgroup, entry.ranks.ranks.is_empty()) {
                self.order(Order::Keep(Box::new(Ward {
                    id: entry.id.clone(),
                    cgroup: cgroup.clone(),
                    init: None,
                    gpus: state.gpus_of(&entry.ranks),
                    ranks: entry.ranks.clone(),
                })));
            }
            state.hooked.insert(entry.id.clone(), entry);
        }
    }

    /// Forgets containers whose cgroup is gone, though no hook has said so: it may have been killed.
    pub(crate) fn forget_hooked(&self) {
        let there: Vec<(String, String)> = {
            let state = self.state();
            state.hooked.values().filter_map(|entry| Some((entry.id.clone(), entry.cgroup.clone()?))).collect()
        };
        for (id, _) in there.iter().filter(|(_, cgroup)| self.cgroups.is_gone(cgroup)) {
            self.erase(id);
        }
    }

    /// The place of a rank of such a container, in words.
    pub(super) fn place_of_hooked(state: &State, id: &str, rank: u32) -> Option<RankPlace> {
        let entry = state.hooked.get(id)?;
        RankPlace::of(&entry.ranks, rank, entry.pod.clone(), entry.name.clone())
    }

    /// Tells about such a container. One without a pod is nobody's at the API server.
    pub(super) fn tell_of_hooked(&self, state: &State, id: &str, what: What, words: String) {
        let Some(entry) = state.hooked.get(id) else { return };
        if entry.pod.uid == entry.id {
            tracing::info!(container = id, ?what, "{words}");
            return;
        }
        drop(self.out.notices.send(Notice { pod: entry.pod.clone(), container: entry.name.clone(), what, words }));
    }
}
