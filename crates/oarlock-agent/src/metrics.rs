//! What Prometheus is told. Every label has a bounded set of values.

mod ranks;
mod told;

use std::collections::BTreeMap;
use std::time::Duration;

use oarlock_device_plugin::{ResourceName, State};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub(crate) use ranks::{ContainerLabels, Handled, RankLabels, RankMetrics};
pub(crate) use told::ToldMetrics;

/// Whether devices were given to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Outcome {
    Given,
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResource {
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeviceLabels {
    resource: String,
    health: &'static str,
    /// Empty for healthy devices.
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AllocationLabels {
    resource: String,
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct XidLabels {
    gpu: String,
    xid: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HeldLabels {
    namespace: String,
    pod: String,
    container: String,
    resource: String,
}

/// Containers that hold GPUs, as namespace, pod, container and resource, and how many each holds.
pub(crate) type Held = BTreeMap<[String; 4], usize>;

/// All metrics of the agent.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    devices: Family<DeviceLabels, Gauge>,
    allocations: Family<AllocationLabels, Counter>,
    preferred: Family<OfResource, Histogram>,
    registrations: Family<OfResource, Counter>,
    registered: Family<OfResource, Gauge>,
    xids: Family<XidLabels, Counter>,
    held: Family<HeldLabels, Gauge>,
    nvml_up: Gauge,
    /// Of annotated containers and their ranks.
    pub(crate) ranks: RankMetrics,
    /// Of what the API server is told.
    pub(crate) told: ToldMetrics,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("oarlock");
        // From 10 µs to 41 ms, four times wider each.
        let durations = || Histogram::new((0..7).map(|step| 1e-5 * 4_f64.powi(step)));
        let metrics = (
            Family::default(),
            Family::default(),
            Family::<OfResource, Histogram>::new_with_constructor(durations),
            Family::default(),
            Family::default(),
            Family::default(),
            Family::default(),
            Gauge::default(),
        );
        let (devices, allocations, preferred, registrations, registered, xids, held, nvml_up) = metrics;
        registry.register("build", "The agent that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("devices", "Devices offered to kubelet", Family::clone(&devices));
        registry.register("allocations", "Containers that asked for devices", Family::clone(&allocations));
        registry.register("preferred_duration_seconds", "Time to choose devices", Family::clone(&preferred));
        registry.register("registrations", "Registrations that kubelet accepted", Family::clone(&registrations));
        registry.register("registered", "Whether kubelet knows the resource and reads it", Family::clone(&registered));
        registry.register("xid_events", "Errors that GPUs reported, by NVIDIA's number", Family::clone(&xids));
        registry.register("held_gpus", "GPUs that a container holds, by kubelet's word", Family::clone(&held));
        registry.register("nvml_up", "Whether NVML answers", Gauge::clone(&nvml_up));
        let ranks = RankMetrics::registered(&mut registry);
        let told = ToldMetrics::registered(&mut registry);
        Self { registry, devices, allocations, preferred, registrations, registered, xids, held, nvml_up, ranks, told }
    }

    /// In Prometheus' text form.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }

    /// The devices of all resources: how many for each reason, the empty one for healthy devices.
    pub(crate) fn devices(&self, counts: &BTreeMap<(ResourceName, String), i64>) {
        self.devices.clear();
        for ((resource, reason), count) in counts {
            let health = if reason.is_empty() { "healthy" } else { "unhealthy" };
            let labels = DeviceLabels { resource: resource.to_string(), health, reason: reason.clone() };
            self.devices.get_or_create(&labels).set(*count);
        }
    }

    pub(crate) fn allocated(&self, resource: &ResourceName, outcome: Outcome) {
        self.allocations.get_or_create(&AllocationLabels { resource: resource.to_string(), outcome }).inc();
    }

    pub(crate) fn preferred(&self, resource: &ResourceName, took: Duration) {
        self.preferred.get_or_create(&OfResource { resource: resource.to_string() }).observe(took.as_secs_f64());
    }

    /// Where a plugin stands, and how many registrations are new.
    pub(crate) fn plugin(&self, resource: &ResourceName, state: &State, new_registrations: u64) {
        let labels = OfResource { resource: resource.to_string() };
        self.registrations.get_or_create(&labels).inc_by(new_registrations);
        self.registered.get_or_create(&labels).set(i64::from(state.is_ready()));
    }

    pub(crate) fn xid(&self, gpu: &str, xid: u64) {
        self.xids.get_or_create(&XidLabels { gpu: gpu.to_owned(), xid }).inc();
    }

    pub(crate) fn nvml(&self, up: bool) {
        self.nvml_up.set(i64::from(up));
    }

    pub(crate) fn held(&self, held: &Held) {
        self.held.clear();
        for ([namespace, pod, container, resource], count) in held {
            let labels = HeldLabels {
                namespace: namespace.clone(),
                pod: pod.clone(),
                container: container.clone(),
                resource: resource.clone(),
            };
            self.held.get_or_create(&labels).set(*count as i64);
        }
    }
}
