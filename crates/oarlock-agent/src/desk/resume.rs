//! What the desk does about containers that no event asks about: after a connection, after a late word, at the binder's
//! wish, and where somebody unpinned one by hand.

use std::collections::BTreeMap;

use oarlock_kernel::ledger::{Before, Entry, Source};
use oarlock_nri::proto::{Container, ContainerState, PodSandbox};

use super::known::{Known, Stage, change};
use super::{Desk, PodKnown, State};
use crate::binder::Order;
use crate::place::{Decision, Placement};
use crate::tell::What;

/// A container whose plan does not fit so many times is left alone.
const MOST_REPLANS: u32 = 8;

impl Desk {
    /// All that there is, after a connection: what the ledger knows keeps its place. Returns the containers to be
    /// [settled](Self::settle): those that ask for a place and have none, and those that were given another cpuset, both while
    /// nobody was here.
    pub(crate) fn synchronize(&self, pods: &[PodSandbox], containers: &[Container]) -> Vec<(PodSandbox, Container)> {
        // One that has stopped is still listed, until it is removed.
        let containers: Vec<&Container> =
            containers.iter().filter(|container| container.state() != ContainerState::ContainerStopped).collect();
        let mut state = self.state();
        let state = &mut *state;
        let mut old = std::mem::take(&mut state.pods);
        let mut word = |id: &str| old.remove(id).and_then(|pod| pod.word);
        state.pods = pods.iter().map(|pod| (pod.id.clone(), PodKnown::new(pod, word(&pod.id)))).collect();
        for gone in old.into_values() {
            self.pod_has_gone(state, gone.pod.uid);
        }
        let before = std::mem::take(&mut state.containers);
        let is_here = |id: &str| containers.iter().any(|container| container.id == id);
        let entries = self.entries(state, is_here);
        for id in before.keys().filter(|id| !is_here(id) && !entries.contains_key(*id)) {
            self.order(Order::Forget(id.clone()));
        }
        for entry in entries.values().filter(|entry| entry.source == Source::Nri && !is_here(&entry.id)) {
            // Where the runtime has forgotten the pod too, it goes by its uid.
            let listed = pods.iter().find(|pod| pod.uid == entry.pod.uid);
            let sandbox = listed.map_or_else(|| entry.pod.uid.clone(), |pod| pod.id.clone());
            state.pods.entry(sandbox.clone()).or_insert_with(|| PodKnown::of_entry(entry));
            let known = before.get(&entry.id).cloned().unwrap_or_else(|| Known::of_entry(entry));
            if !before.contains_key(&entry.id) {
                self.keep(state, &known);
            }
            state.containers.insert(known.id.clone(), Known { unlisted: true, sandbox, ..known });
        }
        let mut unsettled = Vec::new();
        for container in containers {
            let runs = matches!(container.state(), ContainerState::ContainerRunning | ContainerState::ContainerPaused);
            let mut known = self.meet(container);
            let (listed, memory_limit) = (known.given.clone(), known.memory_limit);
            known.stage = if runs { Stage::Running } else { Stage::Made };
            if let Some(old) = before.get(&known.id) {
                known = Known { env: known.env, unlisted: false, ..old.clone() };
                known.stage = known.stage.max(if runs { Stage::Running } else { Stage::Made });
            } else if let Some(entry) = entries.get(&known.id) {
                known.restore(entry);
            }
            self.find(&mut known, container);
            if known.placement.is_some() {
                known.memory_limit = memory_limit.or(known.memory_limit);
                // A runtime that was restarted may tell of what was long ago: what counts the kernel has.
                if known.cgroup.as_deref().and_then(|cgroup| self.cgroups.own_sets(cgroup)).as_ref() == Some(&listed) {
                    known.catch_up(&listed);
                }
                self.write(state, &known);
                if known.stage == Stage::Running && !known.unpinned && !known.outdated {
                    self.keep(state, &known);
                }
            }
            if (known.placement.is_none() || known.outdated)
                && let Some(pod) = pods.iter().find(|pod| pod.id == known.sandbox)
                && Self::concerns_us(pod, container)
            {
                unsettled.push((pod.clone(), container.clone()));
            }
            state.containers.insert(known.id.clone(), known);
        }
        let alone = |known: &&Known| known.placement.as_ref().is_some_and(|placement| placement.alone);
        let holders: Vec<String> = state.containers.values().filter(alone).map(|known| known.id.clone()).collect();
        for holder in holders {
            for change in self.make_room(state, &holder) {
                self.send(Some(change));
            }
        }
        for change in self.give_back(state) {
            self.send(Some(change));
        }
        unsettled
    }

    /// What the ledger knows of containers that the runtime lists, or whose processes live on. What it has of others goes.
    fn entries(&self, state: &mut State, is_here: impl Fn(&str) -> bool) -> BTreeMap<String, Entry> {
        let contents = match state.reader.read() {
            Ok(contents) => contents,
            Err(error) => {
                tracing::warn!("{:#}", anyhow::Error::new(error));
                return BTreeMap::new();
            }
        };
        let mut gone: Vec<&str> = contents.stale().collect();
        for (id, fault) in contents.faults() {
            tracing::warn!(container = id, "{fault}");
            gone.push(id);
        }
        // What the hook wrote is the hook's: its containers may be another runtime's.
        let ours = contents.entries().filter(|entry| entry.source == Source::Nri);
        let lives = |entry: &Entry| entry.cgroup.as_deref().is_some_and(|path| self.cgroups.has_processes(path));
        gone.extend(ours.filter(|entry| !is_here(&entry.id) && !lives(entry)).map(|entry| entry.id.as_str()));
        for id in &gone {
            self.erase(id);
        }
        let there = contents.entries().filter(|entry| !gone.contains(&entry.id.as_str()));
        there.map(|entry| (entry.id.clone(), entry.clone())).collect()
    }

    /// Containers that the runtime does not list are over with their last process.
    pub(crate) fn heed_ended(&self) {
        let ended: Vec<String> = {
            let state = self.state();
            let unlisted = state.containers.values().filter(|known| known.unlisted);
            let lives = |known: &&Known| known.cgroup.as_deref().is_some_and(|path| self.cgroups.has_processes(path));
            unlisted.filter(|known| !lives(known)).map(|known| known.id.clone()).collect()
        };
        for id in ended {
            self.removed(&id);
        }
    }

    /// Gives a container that exists already the place that it asks for, or the one that it has inside another cpuset. Its
    /// environment stays as it is.
    pub(crate) fn settle(&self, id: &str) {
        let mut state = self.state();
        let state = &mut *state;
        let Some(mut known) = state.containers.get(id).cloned() else { return };
        let outdated = std::mem::take(&mut known.outdated);
        if known.unpinned || (known.placement.is_some() && !outdated) {
            return;
        }
        let was_alone = known.placement.as_ref().is_some_and(|placement| placement.alone);
        if let Some(before) = known.placement.clone() {
            // Without kubelet's word it may look as if it held less than it does.
            let is_sure = state.pods.get(&known.sandbox).is_some_and(|pod| pod.word.is_some());
            match self.decide(state, &known) {
                Decision::Place(now) if is_sure || holds_the_same(&now, &before) => known.placement = Some(*now),
                Decision::Unbound(_) | Decision::Refuse(_) if is_sure => self.place_again(state, &mut known),
                _ => {}
            }
        } else {
            match self.decide(state, &known) {
                Decision::Leave => return,
                // It runs already: it is not killed for a place that it cannot have.
                Decision::Unbound(refusal) | Decision::Refuse(refusal) => {
                    self.notice(state, &known, What::RanksUnbound, refusal.to_string());
                    return;
                }
                Decision::Place(placement) => known.placement = Some(*placement),
            }
        }
        self.write(state, &known);
        self.send(known.change());
        if known.stage == Stage::Running {
            self.keep(state, &known);
        }
        let alone = known.placement.as_ref().is_some_and(|placement| placement.alone);
        state.containers.insert(known.id.clone(), known);
        let changes = match (was_alone, alone) {
            (_, true) => self.make_room(state, id),
            (true, false) => self.give_back(state),
            (false, false) => Vec::new(),
        };
        for change in changes {
            self.send(Some(change));
        }
    }

    /// The binder found that a container has not what was planned, or has another number of ranks: it is planned anew, within
    /// what it has.
    pub(crate) fn replan(&self, id: &str, stated: Option<u32>) {
        let mut state = self.state();
        let state = &mut *state;
        let Some(mut known) = state.containers.get(id).cloned() else {
            if let Some(stated) = stated {
                let words = format!("the launcher states {stated} local ranks, and was planned for another number");
                self.tell_of_hooked(state, id, What::RanksUnbound, words);
            }
            return;
        };
        // The binder finds it again, if it is so then too.
        if stated.is_none() && known.is_changing() {
            return;
        }
        known.replans += 1;
        if known.replans > MOST_REPLANS || known.placement.is_none() {
            return;
        }
        if known.replans == MOST_REPLANS {
            self.notice(
                state,
                &known,
                What::RanksUnbound,
                "its plan did not fit again and again: it is left alone".to_owned(),
            );
            self.order(Order::Forget(id.to_owned()));
        } else if stated.is_some() {
            known.stated = stated;
            self.place_again(state, &mut known);
            let fits = known.placement.as_ref().is_some_and(|place| Some(place.ranks.ranks.len() as u32) == stated);
            // Where the pod states a number itself, the plan is the same as before.
            if fits {
                self.send(known.change());
                self.keep(state, &known);
            } else {
                let words =
                    format!("the launcher states {} local ranks, for which there is no plan", stated.unwrap_or(0));
                self.notice(state, &known, What::RanksUnbound, words);
            }
        } else if let Some((cpus, mems)) = known.cgroup.as_deref().map(|cgroup| self.cgroups.in_effect(cgroup)) {
            // Of the two the one that is ours was given by nobody else.
            known.catch_up(&Before { cpus, mems });
            known.outdated = false;
            self.place_again(state, &mut known);
            self.keep(state, &known);
        }
        self.write(state, &known);
        state.containers.insert(known.id.clone(), known);
    }

    /// Containers that were unpinned by hand are left alone from now on.
    pub(crate) fn heed_unpinned(&self) {
        let mut state = self.state();
        let state = &mut *state;
        let Ok(contents) = state.reader.read() else { return };
        let mut unpinned = Vec::new();
        for entry in contents.entries().filter(|entry| entry.unpinned) {
            let machine = &state.knowledge.machine;
            if let Some(known) = state.containers.get_mut(&entry.id).filter(|known| !known.unpinned) {
                known.unpinned = true;
                self.order(Order::Forget(entry.id.clone()));
                // The runtime would make the cpuset ours again with its next change. It knows no empty one.
                let (cpus, mems) = known.sets();
                let cpus = cpus.map(|_| known.given.cpus.clone().unwrap_or_else(|| machine.cpus()));
                let all_nodes = || machine.nodes.iter().map(|node| node.id).collect();
                let mems = mems.map(|_| known.given.mems.clone().unwrap_or_else(all_nodes));
                self.send(change(&entry.id, cpus.as_ref(), mems.as_ref()));
                unpinned.push(known.clone());
            }
        }
        for known in &unpinned {
            self.annotate(state, known);
        }
    }
}

/// Whether both are of a container with the same GPUs for each rank, and the same nodes for itself.
fn holds_the_same(one: &Placement, other: &Placement) -> bool {
    let gpus = |placement: &Placement| placement.ranks.ranks.iter().map(|rank| rank.gpus.clone()).collect::<Vec<_>>();
    one.alone == other.alone && gpus(one) == gpus(other)
}
