//! What Prometheus is told of annotated containers and their ranks. A container's labels go when it ends.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::desk::Memory;
use crate::tell::What;

/// What kind of container the runtime asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Handled {
    /// It asks for a place.
    Managed,
    /// It does not.
    Unmanaged,
    /// It does, and was let go for now, since it was not known in time what it holds.
    Late,
}

/// A rank that is held.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RankLabels {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) container: String,
    pub(crate) rank: u32,
    pub(crate) cpus: String,
    /// Empty where its memory is not enforced.
    pub(crate) mems: String,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ContainerLabels {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) container: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MemoryLabels {
    namespace: String,
    pod: String,
    container: String,
    place: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: Handled,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// The metrics of annotated containers and their ranks.
#[derive(Debug)]
pub(crate) struct RankMetrics {
    runtime_up: Gauge,
    created: Family<KindLabels, Histogram>,
    bound: Family<RankLabels, Gauge>,
    bound_after: Histogram,
    notices: Family<ReasonLabels, Counter>,
    drifts: Family<ContainerLabels, Counter>,
    bound_itself: Family<ContainerLabels, Counter>,
    memory: Family<MemoryLabels, Gauge>,
}

impl RankLabels {
    /// Without the rank.
    pub(crate) fn of_container(&self) -> ContainerLabels {
        ContainerLabels { namespace: self.namespace.clone(), pod: self.pod.clone(), container: self.container.clone() }
    }
}

impl RankMetrics {
    /// Makes them, in this registry.
    pub(super) fn registered(registry: &mut Registry) -> Self {
        // From 50 µs to 0.8 s, four times wider each.
        let durations = || Histogram::new((0..8).map(|step| 5e-5 * 4_f64.powi(step)));
        let metrics = Self {
            runtime_up: Gauge::default(),
            created: Family::new_with_constructor(durations),
            bound: Family::default(),
            bound_after: durations(),
            notices: Family::default(),
            drifts: Family::default(),
            bound_itself: Family::default(),
            memory: Family::default(),
        };
        let created: Family<KindLabels, Histogram> = Family::clone(&metrics.created);
        registry.register("runtime_up", "Whether the container runtime is connected", metrics.runtime_up.clone());
        registry.register("create_container_duration_seconds", "Time to answer about a new container", created);
        registry.register("rank_bound", "Ranks that are held at their place", Family::clone(&metrics.bound));
        let after = metrics.bound_after.clone();
        registry.register("rank_bound_after_seconds", "From a rank's exec until it is held", after);
        let notices = Family::clone(&metrics.notices);
        registry.register("notices", "What was told about containers, by the reason of the pod's event", notices);
        let drifts = Family::clone(&metrics.drifts);
        registry.register("rank_drifts", "Places of ranks that somebody changed, and that were put back", drifts);
        let itself = Family::clone(&metrics.bound_itself);
        registry.register("rank_bound_itself", "Times that a rank was seen to use a part of its CPUs only", itself);
        let memory = Family::clone(&metrics.memory);
        let help = "Own memory of a container's processes on the nodes of its ranks, and elsewhere";
        registry.register_with_unit("container_memory", help, Unit::Bytes, memory);
        metrics
    }

    pub(crate) fn runtime(&self, up: bool) {
        self.runtime_up.set(i64::from(up));
    }

    pub(crate) fn created(&self, kind: Handled, took: Duration) {
        self.created.get_or_create(&KindLabels { kind }).observe(took.as_secs_f64());
    }

    /// A rank is held.
    pub(crate) fn bound(&self, rank: &RankLabels) {
        self.bound.get_or_create(rank).set(1);
    }

    /// A rank was held so long after its exec.
    pub(crate) fn bound_after(&self, took: Duration) {
        self.bound_after.observe(took.as_secs_f64());
    }

    pub(crate) fn ended(&self, rank: &RankLabels) {
        self.bound.remove(rank);
    }

    /// The place of a rank of this container was changed.
    pub(crate) fn drifted(&self, container: &ContainerLabels) {
        self.drifts.get_or_create(container).inc();
    }

    /// A rank of this container bound itself.
    pub(crate) fn bound_itself(&self, container: &ContainerLabels) {
        self.bound_itself.get_or_create(container).inc();
    }

    /// A container is no longer looked after.
    pub(crate) fn gone(&self, container: &ContainerLabels) {
        self.drifts.remove(container);
        self.bound_itself.remove(container);
    }

    /// Where the memory of all containers is.
    pub(crate) fn memory(&self, all: Vec<Memory>) {
        self.memory.clear();
        for Memory { container: ContainerLabels { namespace, pod, container }, planned, elsewhere } in all {
            let of = |place| MemoryLabels {
                namespace: namespace.clone(),
                pod: pod.clone(),
                container: container.clone(),
                place,
            };
            for (place, bytes) in [("planned", planned), ("elsewhere", elsewhere)] {
                self.memory.get_or_create(&of(place)).set(i64::try_from(bytes).unwrap_or(i64::MAX));
            }
        }
    }

    pub(crate) fn notice(&self, what: What) {
        self.notices.get_or_create(&ReasonLabels { reason: what.reason() }).inc();
    }
}
