//! The ranks of this host that are held, from what the binder tells.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::binder::{How, Told};
use crate::desk::{Desk, RankPlace};
use crate::metrics::{Metrics, RankLabels};
use crate::tell::What;

/// What is known of the ranks of each container.
#[derive(Debug)]
pub(crate) struct Ranks {
    desk: Arc<Desk>,
    metrics: Arc<Metrics>,
    held: BTreeMap<String, Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// The labels of each rank that is held.
    ranks: BTreeMap<u32, RankLabels>,
    /// Whether it was told that all are.
    said: bool,
}

impl Ranks {
    pub(crate) fn new(desk: Arc<Desk>, metrics: Arc<Metrics>) -> Self {
        Self { desk, metrics, held: BTreeMap::new() }
    }

    /// Takes note of what the binder tells, and passes it on.
    pub(crate) fn hear(&mut self, told: Told) {
        match told {
            Told::Bound { id, rank, place, pid, known_by, how, took } => {
                tracing::info!(container = id, rank, pid, ?known_by, ?how, ?took, "a rank is held");
                if place != rank {
                    tracing::info!(container = id, rank, place, "the rank chose another's GPUs, and has its place");
                }
                let Some(place) = self.desk.place_of(&id, place) else { return };
                self.bound(&id, rank, how, &place);
                if let Some(took) = took {
                    self.metrics.ranks.bound_after(took);
                }
            }
            Told::Ended { id, rank } => {
                tracing::info!(container = id, rank, "a rank has ended");
                if let Some(labels) = self.held.get_mut(&id).and_then(|held| held.ranks.remove(&rank)) {
                    self.metrics.ranks.ended(&labels);
                }
            }
            Told::Gone { id } => {
                for labels in self.held.remove(&id).into_iter().flat_map(|held| held.ranks.into_values()) {
                    self.metrics.ranks.ended(&labels);
                }
            }
            Told::Unbound { id, why } => self.desk.tell(&id, What::RanksUnbound, why),
            Told::OtherCount { id, stated } => self.desk.replan(&id, Some(stated)),
            Told::Outside { id } => self.desk.replan(&id, None),
            Told::Drifted { id, rank, what } => {
                let words = format!("rank {rank} was given {what} by somebody else, and has its place back");
                self.desk.tell(&id, What::BindingDrifted, words);
            }
            Told::LauncherBinds { id, mode } => {
                let words = format!("the launcher binds its ranks itself (--numa-binding={mode})");
                self.desk.tell(&id, What::LauncherBinds, words);
            }
            Told::BoundItself { id, rank, cpus } => {
                tracing::info!(container = id, rank, %cpus, "a rank has bound itself to a part of its place");
            }
        }
    }

    fn bound(&mut self, id: &str, rank: u32, how: How, place: &RankPlace) {
        let labels = RankLabels {
            namespace: place.pod.namespace.clone(),
            pod: place.pod.name.clone(),
            container: place.container.clone(),
            rank,
            cpus: place.cpus.clone(),
            mems: if how == How::Cgroup { place.mems.clone() } else { String::new() },
        };
        let held = self.held.entry(id.to_owned()).or_default();
        if let Some(old) = held.ranks.insert(rank, labels.clone()).filter(|old| *old != labels) {
            self.metrics.ranks.ended(&old);
        }
        self.metrics.ranks.bound(&labels);
        if held.ranks.len() == place.of && !held.said {
            held.said = true;
            let words = |(rank, labels): (&u32, &RankLabels)| {
                let mems = if labels.mems.is_empty() { String::new() } else { format!(" and memory {}", labels.mems) };
                format!("{rank} on cpus {}{mems}", labels.cpus)
            };
            let ranks: Vec<String> = held.ranks.iter().map(words).collect();
            self.desk.tell(id, What::RanksBound, format!("all {} ranks are held: {}", place.of, ranks.join("; ")));
        }
    }
}
