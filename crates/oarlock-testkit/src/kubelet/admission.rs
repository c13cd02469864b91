//! Giving devices to containers, in kubelet's order of preference.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_core::NodeSet;
use oarlock_device_plugin::proto::v1beta1 as wire;
use wire::device_plugin_client::DevicePluginClient;

use super::{Endpoint, Given, Kubelet, checkpoint};

/// What a container that may start gets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Admission {
    /// The devices of each resource.
    pub devices: BTreeMap<String, Vec<String>>,
    /// The plugins' answers, merged: for the same name the first wins.
    pub response: wire::ContainerAllocateResponse,
}

/// Why a pod fails before it starts, for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("UnexpectedAdmissionError: {0}")]
pub struct AdmissionError(pub String);

fn refused<T>(reason: impl Into<String>) -> Result<T, AdmissionError> {
    Err(AdmissionError(reason.into()))
}

impl Kubelet {
    /// Admits a container whose limits are `limits`. `aligned` are the nodes that the Topology Manager has chosen; none
    /// where it has no say. A container that has its devices already keeps them.
    pub async fn admit(
        &self,
        pod: &str,
        container: &str,
        limits: &[(&str, usize)],
        aligned: Option<&NodeSet>,
    ) -> Result<Admission, AdmissionError> {
        for (resource, count) in limits {
            if self.view.borrow().given(pod, container).any(|given| given.resource == *resource) {
                continue;
            }
            let (ids, endpoint) = self.choose(resource, *count, aligned).await?;
            let request = wire::ContainerAllocateRequest { devices_ids: ids.clone() };
            self.view.send_modify(|view| view.allocated.push(request.clone()));
            let request = wire::AllocateRequest { container_requests: vec![request] };
            let answer = DevicePluginClient::new(endpoint.channel).allocate(request).await;
            let responses = match answer {
                Ok(answer) => answer.into_inner().container_responses,
                Err(status) => return refused(format!("Allocate failed due to {}", status.message())),
            };
            let Some(response) = responses.into_iter().next() else {
                return refused("no containers return in allocation response");
            };
            let (pod, container, resource) = (pod.to_owned(), container.to_owned(), (*resource).to_owned());
            self.view.send_modify(|view| view.given.push(Given { pod, container, resource, ids, response }));
            checkpoint::write(&self.checkpoint(), &self.view.borrow());
        }
        Ok(self.start_container(pod, container))
    }

    /// Starts a container anew, from what was answered when it was admitted. No plugin is asked.
    pub fn start_container(&self, pod: &str, container: &str) -> Admission {
        let mut admission = Admission::default();
        for given in self.view.borrow().given(pod, container) {
            admission.devices.insert(given.resource.clone(), given.ids.clone());
            merge(&mut admission.response, given.response.clone());
        }
        admission
    }

    /// Forgets a pod that is gone.
    pub fn remove_pod(&self, pod: &str) {
        self.view.send_modify(|view| view.given.retain(|given| given.pod != pod));
        checkpoint::write(&self.checkpoint(), &self.view.borrow());
    }

    async fn choose(
        &self,
        resource: &str,
        count: usize,
        aligned: Option<&NodeSet>,
    ) -> Result<(Vec<String>, Endpoint), AdmissionError> {
        let view = self.view();
        let Some(known) = view.resources.get(resource) else {
            return refused(format!("can't allocate unregistered device {resource}"));
        };
        let (Some(endpoint), true) = (known.endpoint.clone(), known.healthy().next().is_some()) else {
            return refused(format!("no healthy devices present; cannot allocate unhealthy devices {resource}"));
        };
        let in_use: BTreeSet<&String> =
            view.given.iter().filter(|given| given.resource == resource).flat_map(|given| &given.ids).collect();
        let free: Vec<&wire::Device> = known.healthy().filter(|device| !in_use.contains(&device.id)).collect();
        if free.len() < count {
            let free = free.len();
            return refused(format!("requested number of devices unavailable for {resource}: {count} of {free}"));
        }
        let near = |device: &wire::Device| {
            let nodes = device.topology.iter().flat_map(|topology| &topology.nodes);
            aligned.is_some_and(|aligned| nodes.clone().any(|node| aligned.contains(node.id as u32)))
        };
        let ids =
            |devices: Vec<&wire::Device>| -> Vec<String> { devices.iter().map(|device| device.id.clone()).collect() };
        let (near, far): (Vec<&wire::Device>, Vec<&wire::Device>) = free.iter().partition(|device| near(device));
        let (near, far) = (ids(near), ids(far));
        let mut chosen = Vec::new();
        if count < near.len() {
            let advice = self.ask_preferred(&endpoint, &near, &[], count).await?;
            take(&mut chosen, count, advice.iter().filter(|id| near.contains(id)));
            take(&mut chosen, count, near.iter());
        } else {
            take(&mut chosen, count, near.iter());
            if chosen.len() < count {
                let free = ids(free);
                let advice = self.ask_preferred(&endpoint, &free, &chosen, count).await?;
                take(&mut chosen, count, advice.iter().filter(|id| free.contains(id)));
                take(&mut chosen, count, far.iter());
            }
        }
        Ok((chosen, endpoint))
    }

    async fn ask_preferred(
        &self,
        endpoint: &Endpoint,
        available: &[String],
        must_include: &[String],
        size: usize,
    ) -> Result<Vec<String>, AdmissionError> {
        if !endpoint.options.get_preferred_allocation_available {
            return Ok(Vec::new());
        }
        let request = wire::ContainerPreferredAllocationRequest {
            available_device_i_ds: available.to_vec(),
            must_include_device_i_ds: must_include.to_vec(),
            allocation_size: size as i32,
        };
        self.view.send_modify(|view| view.preferred.push(request.clone()));
        let request = wire::PreferredAllocationRequest { container_requests: vec![request] };
        match DevicePluginClient::new(endpoint.channel.clone()).get_preferred_allocation(request).await {
            Ok(answer) => {
                let responses = answer.into_inner().container_responses;
                Ok(responses.into_iter().next().map(|response| response.device_i_ds).unwrap_or_default())
            }
            Err(status) => refused(format!("GetPreferredAllocation failed due to {}", status.message())),
        }
    }
}

impl super::View {
    fn given(&self, pod: &str, container: &str) -> impl Iterator<Item = &Given> {
        self.given.iter().filter(move |given| given.pod == pod && given.container == container)
    }
}

/// Takes ids, each once, until there are `count`.
fn take<'a>(chosen: &mut Vec<String>, count: usize, ids: impl Iterator<Item = &'a String>) {
    for id in ids {
        if chosen.len() < count && !chosen.contains(id) {
            chosen.push(id.clone());
        }
    }
}

/// Adds what another resource answered: what is there already stays.
fn merge(into: &mut wire::ContainerAllocateResponse, more: wire::ContainerAllocateResponse) {
    for (name, value) in more.envs {
        into.envs.entry(name).or_insert(value);
    }
    for (name, value) in more.annotations {
        into.annotations.entry(name).or_insert(value);
    }
    for mount in more.mounts {
        if into.mounts.iter().all(|held| held.container_path != mount.container_path) {
            into.mounts.push(mount);
        }
    }
    for device in more.devices {
        if into.devices.iter().all(|held| held.container_path != device.container_path) {
            into.devices.push(device);
        }
    }
    for device in more.cdi_devices {
        if !into.cdi_devices.contains(&device) {
            into.cdi_devices.push(device);
        }
    }
}
