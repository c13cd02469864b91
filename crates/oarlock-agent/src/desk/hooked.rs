//! Containers that the OCI hook has placed. No runtime tells of them here: the ledger does.

use std::collections::BTreeMap;

use anyhow::{Error, Result, bail};
use oarlock_core::place::Held;
use oarlock_core::request::GpuRef;
use oarlock_kernel::cgroup::cgroups_of;
use oarlock_kernel::ledger::{ContainerSets, Entry, Source};

use super::resume::{LEFT_ALONE, MOST_REPLANS};
use super::{Desk, LEDGER_PATIENCE, RankPlace, State};
use crate::binder::{Order, Ward};
use crate::place::{Ask, Decision, decide};
use crate::tell::{Notice, What};

/// Those whose ranks are held, by id.
pub(super) type Hooked = BTreeMap<String, Kept>;

/// One whose ranks are held.
#[derive(Debug)]
pub(super) struct Kept {
    /// As the ledger had it when that was ordered.
    entry: Entry,
    /// How often its plan was made anew because it did not fit.
    replans: u32,
}

impl Desk {
    /// Has the ranks of containers held that the hook has placed, for as long as the ledger has them.
    pub(crate) fn heed_hooks(&self) {
        self.heed(&mut self.state());
    }

    fn heed(&self, state: &mut State) {
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
        let is_new = |entry: &&&Entry| state.hooked.get(&entry.id).map(|kept| &kept.entry) != Some(**entry);
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
            let replans = state.hooked.get(&entry.id).map_or(0, |kept| kept.replans);
            state.hooked.insert(entry.id.clone(), Kept { entry, replans });
        }
    }

    /// Forgets containers whose cgroup is gone, though no hook has said so: it may have been killed.
    pub(crate) fn forget_hooked(&self) {
        let there: Vec<(String, String)> = {
            let state = self.state();
            let kept = state.hooked.values().map(|kept| &kept.entry);
            kept.filter_map(|entry| Some((entry.id.clone(), entry.cgroup.clone()?))).collect()
        };
        for (id, _) in there.iter().filter(|(_, cgroup)| self.cgroups.is_gone(cgroup)) {
            self.erase(id);
        }
    }

    /// The binder found that such a container has not what was planned, or has another number of ranks: it is planned anew,
    /// where its hook has noted what it asked for.
    pub(super) fn replan_hooked(&self, state: &mut State, id: &str, stated: Option<u32>) {
        let Some(kept) = state.hooked.get_mut(id) else { return };
        if kept.entry.asked.is_some() {
            kept.replans += 1;
            let replans = kept.replans;
            if replans == MOST_REPLANS {
                self.tell_of_hooked(state, id, What::RanksUnbound, LEFT_ALONE.to_owned());
                self.order(Order::Forget(id.to_owned()));
            }
            if replans >= MOST_REPLANS {
                return;
            }
        }
        match (self.place_hooked_again(state, id, stated), stated) {
            (Ok(()), _) => self.heed(state),
            (Err(why), Some(stated)) => {
                let words =
                    format!("the launcher states {stated} local ranks, and was planned for another number: {why:#}");
                self.tell_of_hooked(state, id, What::RanksUnbound, words);
            }
            (Err(why), None) => tracing::debug!(container = id, "not planned anew: {why:#}"),
        }
    }

    /// Plans it for this number of ranks, else for as many as before, gives it its cpuset and writes so. On an error all is as
    /// it was.
    fn place_hooked_again(&self, state: &mut State, id: &str, stated: Option<u32>) -> Result<()> {
        // Hooks plan too, and somebody may be about to unpin it.
        let locked = self.ledger.lock(LEDGER_PATIENCE)?;
        let entry = state.reader.read()?.get(id).filter(|entry| !entry.unpinned).cloned();
        let Some((entry, cgroup)) = entry.as_ref().and_then(|entry| Some((entry, entry.cgroup.as_ref()?))) else {
            return Ok(());
        };
        let Some(asked) = &entry.asked else { bail!("its hook has not noted what it asked for") };
        let ranks = stated.unwrap_or(entry.ranks.ranks.len() as u32);
        let cgroups = cgroups_of(id, cgroup);
        let (within, is_as_given) = self.cgroups.around(&cgroups, entry)?;
        let ask = Ask {
            annotations: &asked.annotations,
            name: &entry.name,
            env: &BTreeMap::new(),
            held: &Held { gpus: asked.gpus.iter().copied().map(GpuRef::Index).collect(), ..Held::default() },
            stated_ranks: Some(ranks),
            // It was meant when it was placed.
            others_hold_gpus: false,
            cpus: entry.before.cpus.clone(),
            mems: entry.before.mems.clone(),
            within,
            memory_limit: asked.memory_limit,
            reserved: &asked.reserved,
        };
        let holdings = state.holdings(id);
        let placement = match decide(&state.knowledge.machine, &holdings, &ask) {
            Decision::Place(placement) if placement.ranks.ranks.len() == ranks as usize => *placement,
            Decision::Place(_) | Decision::Leave => bail!("the pod states its number itself"),
            Decision::Unbound(refusal) | Decision::Refuse(refusal) => return Err(refusal.into()),
        };
        let mut container = ContainerSets::from(&placement);
        if is_as_given {
            // Memory that is taken from it would be moved now, while others wait: its ranks have walls of their own.
            container.mems.extend(&entry.container.all_mems());
        }
        let new = Entry {
            ranks: placement.ranks,
            container,
            exclusive: placement.exclusive,
            reasons: placement.reasons,
            warnings: placement.warnings,
            ..entry.clone()
        };
        let exchange = |from: &Entry, to: &Entry| {
            if is_as_given { self.cgroups.exchange(&cgroups, &from.container, &to.container) } else { Ok(()) }
        };
        exchange(entry, &new).map_err(Error::new).and_then(|()| Ok(locked.put(&new)?)).inspect_err(|_| {
            // What cannot be given back is as the kernel has it.
            drop(exchange(&new, entry));
        })
    }

    /// The place of a rank of such a container, in words.
    pub(super) fn place_of_hooked(state: &State, id: &str, rank: u32) -> Option<RankPlace> {
        let entry = &state.hooked.get(id)?.entry;
        RankPlace::of(&entry.ranks, rank, entry.pod.clone(), entry.name.clone())
    }

    /// Tells about such a container. One without a pod is nobody's at the API server.
    pub(super) fn tell_of_hooked(&self, state: &State, id: &str, what: What, words: String) {
        let Some(Kept { entry, .. }) = state.hooked.get(id) else { return };
        if entry.pod.uid == entry.id {
            tracing::info!(container = id, ?what, "{words}");
            return;
        }
        drop(self.out.notices.send(Notice { pod: entry.pod.clone(), container: entry.name.clone(), what, words }));
    }
}
