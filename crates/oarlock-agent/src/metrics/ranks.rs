//! What Prometheus is told of annotated containers and their ranks. A container's labels go when it ends.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

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
        };
        let created: Family<KindLabels, Histogram> = Family::clone(&metrics.created);
        registry.register("runtime_up", "Whether the container runtime is connected", metrics.runtime_up.clone());
        registry.register("create_container_duration_seconds", "Time to answer about a new container", created);
        registry.register("rank_bound", "Ranks that are held at their place", Family::clone(&metrics.bound));
        let after = metrics.bound_after.clone();
        registry.register("rank_bound_after_seconds", "From a rank's exec until it is held", after);
        let notices = Family::clone(&metrics.notices);
        registry.register("notices", "What was told about containers, by the reason of the pod's event", notices);
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

    pub(crate) fn notice(&self, what: What) {
        self.notices.get_or_create(&ReasonLabels { reason: what.reason() }).inc();
    }
}
