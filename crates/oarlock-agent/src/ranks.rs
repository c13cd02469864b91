//! The ranks of this host that are held, from what the binder tells.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::binder::{How, Told};
use crate::desk::{Desk, RankPlace};
use crate::metrics::{ContainerLabels, Metrics, RankLabels, RankMetrics};
use crate::tell::What;

/// What is known of the ranks of each container.
#[derive(Debug)]
pub(crate) struct Ranks {
    desk: Arc<Desk>,
    metrics: Arc<Metrics>,
    held: BTreeMap<String, Held>,
}

#[derive(Debug)]
struct Held {
    container: ContainerLabels,
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
                let Some(held) = self.held.remove(&id) else { return };
                for labels in held.ranks.values() {
                    self.metrics.ranks.ended(labels);
                }
                self.metrics.ranks.gone(&held.container);
            }
            Told::Unbound { id, why } => self.desk.tell(&id, What::RanksUnbound, why),
            Told::OtherCount { id, stated } => self.desk.replan(&id, Some(stated)),
            Told::Outside { id } => self.desk.replan(&id, None),
            Told::Drifted { id, rank, what } => {
                self.count(&id, RankMetrics::drifted);
                let words = format!("rank {rank} was given {what} by somebody else, and has its place back");
                self.desk.tell(&id, What::BindingDrifted, words);
            }
            Told::LauncherBinds { id, mode } => {
                let words = format!("the launcher binds its ranks itself (--numa-binding={mode})");
                self.desk.tell(&id, What::LauncherBinds, words);
            }
            Told::BoundItself { id, rank, cpus } => {
                self.count(&id, RankMetrics::bound_itself);
                tracing::info!(container = id, rank, %cpus, "a rank has bound itself to a part of its place");
            }
        }
    }

    /// Counts something of a container.
    fn count(&self, id: &str, count: fn(&RankMetrics, &ContainerLabels)) {
        if let Some(held) = self.held.get(id) {
            count(&self.metrics.ranks, &held.container);
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
        let held = self.held.entry(id.to_owned()).or_insert_with(|| Held {
            container: labels.of_container(),
            ranks: BTreeMap::new(),
            said: false,
        });
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
