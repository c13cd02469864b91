//! What Prometheus is told of what the Kubernetes API is told.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ToldLabels {
    what: &'static str,
    outcome: &'static str,
}

/// The metrics of what was told.
#[derive(Debug)]
pub(crate) struct ToldMetrics {
    told: Family<ToldLabels, Counter>,
    requests: Counter,
}

impl ToldMetrics {
    /// Makes them, in this registry.
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let metrics = Self { told: Family::default(), requests: Counter::default() };
        let told = Family::clone(&metrics.told);
        registry.register("told", "What the Kubernetes API was to be told, by what became of it", told);
        registry.register("api_requests", "Requests to the Kubernetes API", metrics.requests.clone());
        metrics
    }

    /// What became of an `event` or an `annotation` of a pod, or of the host's `labels` or `topology`: `sent`, `failed`,
    /// `dropped` from a full box, or `repeated` and thus not sent.
    pub(crate) fn told(&self, what: &'static str, outcome: &'static str) {
        self.told.get_or_create(&ToldLabels { what, outcome }).inc();
    }

    /// The API server was asked.
    pub(crate) fn requested(&self) {
        self.requests.inc();
    }
}
