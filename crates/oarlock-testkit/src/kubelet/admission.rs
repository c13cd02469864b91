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

/// What a container is to its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It runs to its end before the others start, and its devices are theirs then.
    Init,
    /// An init container that goes on beside the others, and keeps its devices.
    Sidecar,
    /// An ordinary one.
    Main,
}

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
        self.admit_as(Kind::Main, pod, container, limits, aligned).await
    }

    /// The same for a container of another kind. kubelet admits a pod's init containers before the others.
    pub async fn admit_as(
        &self,
        kind: Kind,
        pod: &str,
        container: &str,
        limits: &[(&str, usize)],
        aligned: Option<&NodeSet>,
    ) -> Result<Admission, AdmissionError> {
        for (resource, count) in limits {
            let had = self.view.borrow().given(pod, container).find(|given| given.resource == *resource).cloned();
            if let Some(had) = had {
                if self.rebooted {
                    self.check_still_there(&had)?;
                }
                continue;
            }
            let reusable = self.view.borrow().reusable(pod, resource);
            let (ids, endpoint) = self.choose(resource, *count, aligned, reusable).await?;
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
            let reusable = kind == Kind::Init;
            let given = Given { pod, container, reusable, resource, ids, response };
            self.view.send_modify(|view| view.given.push(given));
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

    /// Whether a container that starts anew may have the devices that it had.
    fn check_still_there(&self, had: &Given) -> Result<(), AdmissionError> {
        let (view, resource) = (self.view.borrow(), &had.resource);
        let Some(known) = view.resources.get(resource) else {
            return refused(format!("cannot allocate unregistered device {resource}"));
        };
        let healthy: BTreeSet<&String> = known.healthy().map(|device| &device.id).collect();
        if healthy.is_empty() {
            return refused(format!("no healthy devices present; cannot allocate unhealthy devices {resource}"));
        }
        if !had.ids.iter().all(|id| healthy.contains(id)) {
            let why = "previously allocated devices are no longer healthy; cannot allocate unhealthy devices";
            return refused(format!("{why} {resource}"));
        }
        Ok(())
    }

    /// So many devices: first those that the pod's init containers had, then those on the aligned nodes, then any.
    async fn choose(
        &self,
        resource: &str,
        count: usize,
        aligned: Option<&NodeSet>,
        reusable: Vec<String>,
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
        let mut chosen = Vec::new();
        take(&mut chosen, count, reusable.iter());
        let needed = count - chosen.len();
        if needed == 0 {
            return Ok((chosen, endpoint));
        }
        if free.len() < needed {
            let free = free.len();
            return refused(format!("requested number of devices unavailable for {resource}: {needed} of {free}"));
        }
        let near = |device: &wire::Device| {
            let nodes = device.topology.iter().flat_map(|topology| &topology.nodes);
            aligned.is_some_and(|aligned| nodes.clone().any(|node| aligned.contains(node.id as u32)))
        };
        let ids =
            |devices: Vec<&wire::Device>| -> Vec<String> { devices.iter().map(|device| device.id.clone()).collect() };
        let (near, far): (Vec<&wire::Device>, Vec<&wire::Device>) = free.iter().partition(|device| near(device));
        let (near, far) = (ids(near), ids(far));
        if needed < near.len() {
            let advice = self.ask_preferred(&endpoint, &[&chosen[..], &near].concat(), &chosen, count).await?;
            take(&mut chosen, count, advice.iter().filter(|id| near.contains(id)));
            take(&mut chosen, count, near.iter());
        } else {
            take(&mut chosen, count, near.iter());
            if chosen.len() < count {
                let advice = self.ask_preferred(&endpoint, &[&chosen[..], &far].concat(), &chosen, count).await?;
                take(&mut chosen, count, advice.iter().filter(|id| far.contains(id)));
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
    /// What the pod's init containers had of a resource and no other of its containers has taken or keeps.
    fn reusable(&self, pod: &str, resource: &str) -> Vec<String> {
        let of_pod = || self.given.iter().filter(|given| given.pod == pod && given.resource == resource);
        let kept: BTreeSet<&String> = of_pod().filter(|given| !given.reusable).flat_map(|given| &given.ids).collect();
        let mut ids = Vec::new();
        for id in of_pod().filter(|given| given.reusable).flat_map(|given| &given.ids) {
            if !kept.contains(id) && !ids.contains(id) {
                ids.push(id.clone());
            }
        }
        ids
    }

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
