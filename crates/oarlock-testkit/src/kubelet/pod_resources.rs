//! The pod-resources socket: who holds what, for callers who do not ask too often.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use oarlock_device_plugin::proto::{v1 as wire, v1beta1};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::View;

/// Calls in a burst, and a second.
const BURST: f64 = 10.0;
const RATE: f64 = 100.0;

#[derive(Debug)]
pub(super) struct Lister {
    view: Arc<watch::Sender<View>>,
    knows_get: bool,
    /// What may still be asked now, and since when that is so.
    budget: Mutex<(f64, Instant)>,
}

impl Lister {
    pub(super) fn new(view: Arc<watch::Sender<View>>, knows_get: bool) -> Self {
        Self { view, knows_get, budget: Mutex::new((BURST, Instant::now())) }
    }

    fn spend(&self) -> Result<(), Status> {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let left = (budget.0 + now.duration_since(budget.1).as_secs_f64() * RATE).min(BURST);
        *budget = (left, now);
        if left < 1.0 {
            return Err(Status::resource_exhausted("rejected by rate limit"));
        }
        budget.0 -= 1.0;
        Ok(())
    }

    fn pods(&self) -> Vec<wire::PodResources> {
        let view = self.view.borrow();
        let mut pods: BTreeMap<&String, BTreeMap<&String, Vec<wire::ContainerDevices>>> = BTreeMap::new();
        for given in &view.given {
            let held = pods.entry(&given.pod).or_default().entry(&given.container).or_default();
            let known = view.resources.get(&given.resource);
            for id in &given.ids {
                let device = known.and_then(|known| known.devices.iter().find(|device| device.id == *id));
                let topology = device.and_then(topology);
                let (resource_name, device_ids) = (given.resource.clone(), vec![id.clone()]);
                held.push(wire::ContainerDevices { resource_name, device_ids, topology });
            }
        }
        let container = |(name, devices): (&String, Vec<wire::ContainerDevices>)| wire::ContainerResources {
            name: name.clone(),
            devices,
            ..wire::ContainerResources::default()
        };
        pods.into_iter()
            .map(|(name, containers)| wire::PodResources {
                name: name.clone(),
                namespace: "default".to_owned(),
                containers: containers.into_iter().map(container).collect(),
                ..wire::PodResources::default()
            })
            .collect()
    }
}

fn topology(device: &v1beta1::Device) -> Option<wire::TopologyInfo> {
    device.topology.as_ref().map(|topology| wire::TopologyInfo {
        nodes: topology.nodes.iter().map(|node| wire::NumaNode { id: node.id }).collect(),
    })
}

#[tonic::async_trait]
impl wire::pod_resources_lister_server::PodResourcesLister for Lister {
    async fn list(
        &self,
        _: Request<wire::ListPodResourcesRequest>,
    ) -> Result<Response<wire::ListPodResourcesResponse>, Status> {
        self.spend()?;
        Ok(Response::new(wire::ListPodResourcesResponse { pod_resources: self.pods() }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<wire::AllocatableResourcesRequest>,
    ) -> Result<Response<wire::AllocatableResourcesResponse>, Status> {
        self.spend()?;
        let view = self.view.borrow();
        let of = |name: &String, device: &v1beta1::Device| wire::ContainerDevices {
            resource_name: name.clone(),
            device_ids: vec![device.id.clone()],
            topology: topology(device),
        };
        let resources = view.resources.iter();
        let devices =
            resources.flat_map(|(name, resource)| resource.healthy().map(move |device| of(name, device))).collect();
        Ok(Response::new(wire::AllocatableResourcesResponse { devices, ..Default::default() }))
    }

    async fn get(
        &self,
        request: Request<wire::GetPodResourcesRequest>,
    ) -> Result<Response<wire::GetPodResourcesResponse>, Status> {
        self.spend()?;
        if !self.knows_get {
            return Err(Status::unimplemented("PodResources API Get method disabled"));
        }
        let request = request.into_inner();
        let is_asked =
            |pod: &wire::PodResources| pod.name == request.pod_name && pod.namespace == request.pod_namespace;
        match self.pods().into_iter().find(is_asked) {
            Some(pod) => Ok(Response::new(wire::GetPodResourcesResponse { pod_resources: Some(pod) })),
            None => Err(Status::not_found(format!(
                "pod {} in namespace {} not found",
                request.pod_name, request.pod_namespace
            ))),
        }
    }
}
