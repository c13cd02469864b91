//! One resource as kubelet's calls see it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use oarlock_device_plugin::advertise::Offer;
use oarlock_device_plugin::allocate::{self, DeviceNodes, GpuAccess};
use oarlock_device_plugin::{AllocateError, Allocation, Backend, Device};
use tokio::sync::watch;

use crate::metrics::{Metrics, Outcome};
use crate::place::Given;

/// What is offered, and how it is given.
#[derive(Debug, Clone)]
pub(crate) struct Serving {
    pub(crate) offer: Offer,
    pub(crate) giving: Giving,
}

/// How the devices of a resource are given.
#[derive(Debug, Clone)]
pub(crate) enum Giving {
    /// As GPUs, with the device nodes of each item, by position.
    Gpus { access: GpuAccess, nodes: Vec<DeviceNodes> },
    /// As NUMA nodes.
    Nodes,
}

/// The answers for one resource: what it serves is replaced as a whole.
#[derive(Debug)]
pub(crate) struct Resource {
    serving: RwLock<Arc<Serving>>,
    devices: watch::Sender<Arc<Vec<Device>>>,
    metrics: Arc<Metrics>,
    given: Given,
}

impl Resource {
    /// A resource without devices so far.
    pub(crate) fn new(serving: Serving, metrics: Arc<Metrics>, given: Given) -> Self {
        Self { serving: RwLock::new(Arc::new(serving)), devices: watch::Sender::default(), metrics, given }
    }

    /// Serves this from now on; the devices whose id is in `sick` are unhealthy.
    pub(crate) fn publish(&self, serving: Serving, sick: &BTreeMap<String, String>) {
        let device = |item: &oarlock_device_plugin::advertise::Item| Device {
            id: item.id.clone(),
            healthy: !sick.contains_key(&item.id),
            nodes: item.nodes.clone(),
        };
        let devices: Vec<Device> = serving.offer.items.iter().map(device).collect();
        *self.serving.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(serving);
        self.devices.send_if_modified(|known| {
            let is_new = **known != devices;
            if is_new {
                *known = Arc::new(devices);
            }
            is_new
        });
    }

    fn serving(&self) -> Arc<Serving> {
        Arc::clone(&self.serving.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn given(&self, ids: &[String]) -> Result<Allocation, AllocateError> {
        let serving = self.serving();
        let items = &serving.offer.items;
        let chosen = allocate::select(items, ids)?;
        Ok(match &serving.giving {
            Giving::Nodes => allocate::nodes(&chosen),
            Giving::Gpus { access, nodes } => {
                let with_nodes = items.iter().zip(nodes);
                let chosen: Vec<(&str, &DeviceNodes)> = with_nodes
                    .filter(|(item, _)| chosen.iter().any(|chosen| chosen.id == item.id))
                    .map(|(item, nodes)| (item.id.as_str(), nodes))
                    .collect();
                allocate::gpus(access, &chosen)
            }
        })
    }
}

impl Backend for Resource {
    fn devices(&self) -> watch::Receiver<Arc<Vec<Device>>> {
        self.devices.subscribe()
    }

    fn prefer(&self, available: &[String], must_include: &[String], size: usize) -> Vec<String> {
        let since = Instant::now();
        let serving = self.serving();
        let preferred = serving.offer.prefer(available, must_include, size);
        self.metrics.preferred(&serving.offer.name, since.elapsed());
        preferred
    }

    fn allocate(&self, ids: &[String]) -> Result<Allocation, AllocateError> {
        let allocation = self.given(ids);
        if allocation.is_ok() {
            self.given.add(ids);
        }
        let outcome = if allocation.is_ok() { Outcome::Given } else { Outcome::Refused };
        self.metrics.allocated(&self.serving().offer.name, outcome);
        tracing::debug!(resource = %self.serving().offer.name, ?ids, ?outcome, "allocated");
        allocation
    }
}
