//! What happens to pods and containers, and how plugins are asked about it.

use oarlock_nri::proto::{
    Container, ContainerAdjustment, ContainerState, ContainerUpdate, CreateContainerRequest, CreateContainerResponse,
    Event, LinuxContainerUpdate, LinuxResources, PodSandbox, PostUpdatePodSandboxRequest, StateChangeEvent,
    StopContainerRequest, StopContainerResponse, UpdateContainerRequest, UpdateContainerResponse,
    UpdatePodSandboxRequest, ValidateContainerAdjustmentRequest, ValidateContainerAdjustmentResponse,
};
use prost::Message;

use super::conflict::{self, Owners};
use super::{Failure, NriRuntime, State, is_fatal, names};

impl NriRuntime {
    /// Makes a pod.
    pub async fn run_pod(&self, pod: &PodSandbox) -> Result<(), String> {
        let mut state = self.state.lock().await;
        state.pods.insert(pod.id.clone(), pod.clone());
        self.tell(&mut state, Event::RunPodSandbox, pod, None).await
    }

    /// Changes a pod's resources.
    pub async fn update_pod(
        &self,
        id: &str,
        overhead: LinuxResources,
        resources: LinuxResources,
    ) -> Result<(), String> {
        let mut state = self.state.lock().await;
        let pod = state.pods[id].clone();
        let request = UpdatePodSandboxRequest {
            pod: Some(pod.clone()),
            overhead_linux_resources: Some(overhead),
            linux_resources: Some(resources),
        };
        self.ask(&mut state, Event::UpdatePodSandbox, &request).await?;
        self.tell(&mut state, Event::PostUpdatePodSandbox, &pod, None).await
    }

    /// Stops a pod and removes it, with all its containers.
    pub async fn remove_pod(&self, id: &str) -> Result<(), String> {
        let of_it = |container: &&Container| container.pod_sandbox_id == id;
        let containers: Vec<String> =
            self.state.lock().await.containers.values().filter(of_it).map(|container| container.id.clone()).collect();
        for container in containers {
            self.remove_container(&container).await?;
        }
        let mut state = self.state.lock().await;
        let pod = state.pods[id].clone();
        self.tell(&mut state, Event::StopPodSandbox, &pod, None).await?;
        self.tell(&mut state, Event::RemovePodSandbox, &pod, None).await?;
        state.pods.remove(id);
        Ok(())
    }

    /// Makes a container of the pod that it names, and gives back what the plugins made of it. Where it fails, plugins are
    /// told that the container is stopped and removed.
    pub async fn create_container(&self, container: &Container) -> Result<ContainerAdjustment, String> {
        let mut state = self.state.lock().await;
        let pod = state.pods[&container.pod_sandbox_id].clone();
        match self.create(&mut state, &pod, container).await {
            Ok((container, adjust)) => {
                state.containers.insert(container.id.clone(), container.clone());
                self.tell(&mut state, Event::PostCreateContainer, &pod, Some(&container)).await?;
                Ok(adjust)
            }
            Err(why) => {
                let request = StopContainerRequest { pod: Some(pod.clone()), container: Some(container.clone()) };
                self.ask(&mut state, Event::StopContainer, &request).await?;
                self.tell(&mut state, Event::RemoveContainer, &pod, Some(container)).await?;
                Err(why)
            }
        }
    }

    async fn create(
        &self,
        state: &mut State,
        pod: &PodSandbox,
        container: &Container,
    ) -> Result<(Container, ContainerAdjustment), String> {
        let mut container = container.clone();
        let mut adjust = ContainerAdjustment::default();
        let mut updates: Vec<ContainerUpdate> = Vec::new();
        let mut owners = Owners::default();
        for plugin in names(state) {
            let request = CreateContainerRequest { pod: Some(pod.clone()), container: Some(container.clone()) };
            let Some(answer) = self.ask_one(state, &plugin, Event::CreateContainer, &request).await? else { continue };
            let answer = CreateContainerResponse::decode(&answer[..]).unwrap();
            if let Some(wanted) = &answer.adjust {
                owners.adjust(&plugin, &container.id, wanted)?;
                conflict::merge(&mut adjust, wanted);
                conflict::apply(&mut container, wanted);
            }
            for update in answer.update {
                if update.container_id == container.id {
                    return Err(format!("plugin {plugin} updates {}, which is being created", container.id));
                }
                owners.update(&plugin, &update)?;
                updates.push(update);
            }
        }
        let request = ValidateContainerAdjustmentRequest {
            pod: Some(pod.clone()),
            container: Some(container.clone()),
            adjust: Some(adjust.clone()),
            update: updates.clone(),
            ..ValidateContainerAdjustmentRequest::default()
        };
        for answer in self.ask(state, Event::ValidateContainerAdjustment, &request).await? {
            let answer = ValidateContainerAdjustmentResponse::decode(&answer[..]).unwrap();
            if answer.reject {
                return Err(format!("a validator rejects the adjustment: {}", answer.reason));
            }
        }
        state.owners = owners;
        self.change(state, &updates);
        container.state = ContainerState::ContainerCreated.into();
        Ok((container, adjust))
    }

    /// Starts a container that has been made.
    pub async fn start_container(&self, id: &str) -> Result<(), String> {
        let mut state = self.state.lock().await;
        let (pod, mut container) = found(&state, id);
        self.tell(&mut state, Event::StartContainer, &pod, Some(&container)).await?;
        container.state = ContainerState::ContainerRunning.into();
        state.containers.insert(id.to_owned(), container.clone());
        self.tell(&mut state, Event::PostStartContainer, &pod, Some(&container)).await
    }

    /// Changes a container's resources as kubelet does, and gives back what came of it.
    pub async fn update_container(&self, id: &str, resources: &LinuxResources) -> Result<Container, String> {
        let mut state = self.state.lock().await;
        let (pod, container) = found(&state, id);
        let request = UpdateContainerRequest {
            pod: Some(pod.clone()),
            container: Some(container.clone()),
            linux_resources: Some(resources.clone()),
        };
        let linux = Some(LinuxContainerUpdate { resources: Some(resources.clone()) });
        let mut wanted = vec![ContainerUpdate { container_id: id.to_owned(), linux, ignore_failure: false }];
        let mut owners = Owners::default();
        for plugin in names(&state) {
            let Some(answer) = self.ask_one(&mut state, &plugin, Event::UpdateContainer, &request).await? else {
                continue;
            };
            for update in UpdateContainerResponse::decode(&answer[..]).unwrap().update {
                owners.update(&plugin, &update)?;
                wanted.push(update);
            }
        }
        self.change(&mut state, &wanted);
        let (_, container) = found(&state, id);
        self.tell(&mut state, Event::PostUpdateContainer, &pod, Some(&container)).await?;
        Ok(container)
    }

    /// Stops a container and removes it.
    pub async fn remove_container(&self, id: &str) -> Result<(), String> {
        let mut state = self.state.lock().await;
        let (pod, mut container) = found(&state, id);
        container.state = ContainerState::ContainerStopped.into();
        let request = StopContainerRequest { pod: Some(pod.clone()), container: Some(container.clone()) };
        for answer in self.ask(&mut state, Event::StopContainer, &request).await? {
            self.change(&mut state, &StopContainerResponse::decode(&answer[..]).unwrap().update);
        }
        self.tell(&mut state, Event::RemoveContainer, &pod, Some(&container)).await?;
        state.containers.remove(id);
        Ok(())
    }

    /// Does what plugins ask for; what it cannot do is lost.
    fn change(&self, state: &mut State, updates: &[ContainerUpdate]) {
        for update in updates.iter().filter(|update| !self.options.stubborn.contains(&update.container_id)) {
            if let Some(container) = state.containers.get_mut(&update.container_id) {
                let linux = update.linux.clone().unwrap_or_default();
                conflict::change(container, &linux.resources.unwrap_or_default());
            }
        }
    }

    /// An event that has no answer.
    async fn tell(
        &self,
        state: &mut State,
        event: Event,
        pod: &PodSandbox,
        container: Option<&Container>,
    ) -> Result<(), String> {
        if self.options.state_change {
            let (pod, container) = (Some(pod.clone()), container.cloned());
            let request = StateChangeEvent { event: event.into(), pod, container };
            return self.ask_all(state, event, "StateChange", &request).await.map(drop);
        }
        // All these requests are alike: a pod, and a container where the event is about one.
        let Some(container) = container else {
            let request = PostUpdatePodSandboxRequest { pod: Some(pod.clone()) };
            return self.ask(state, event, &request).await.map(drop);
        };
        let request = CreateContainerRequest { pod: Some(pod.clone()), container: Some(container.clone()) };
        self.ask(state, event, &request).await.map(drop)
    }

    /// The answers of all plugins that want the event.
    async fn ask(&self, state: &mut State, event: Event, request: &impl Message) -> Result<Vec<Vec<u8>>, String> {
        self.ask_all(state, event, &method(event), request).await
    }

    async fn ask_all(
        &self,
        state: &mut State,
        event: Event,
        method: &str,
        request: &impl Message,
    ) -> Result<Vec<Vec<u8>>, String> {
        let mut answers = Vec::new();
        for plugin in names(state) {
            answers.extend(self.call(state, &plugin, event, method, request).await?);
        }
        Ok(answers)
    }

    async fn ask_one(
        &self,
        state: &mut State,
        plugin: &str,
        event: Event,
        request: &impl Message,
    ) -> Result<Option<Vec<u8>>, String> {
        self.call(state, plugin, event, &method(event), request).await
    }

    /// One plugin's answer. It goes on without a plugin that is late or gone, and fails with one that fails.
    async fn call(
        &self,
        state: &mut State,
        plugin: &str,
        event: Event,
        method: &str,
        request: &impl Message,
    ) -> Result<Option<Vec<u8>>, String> {
        let Some(place) = state.plugins.iter().position(|one| one.name == plugin) else { return Ok(None) };
        if state.plugins[place].events & (1 << (event as i32 - 1)) == 0 {
            return Ok(None);
        }
        match state.plugins[place].peer.call(method, request, self.options.request_timeout).await {
            Ok(answer) => Ok(Some(answer)),
            Err(failure) if is_fatal(&failure) => {
                state.plugins.remove(place);
                self.view.send_modify(|view| {
                    view.plugins = names(state);
                    view.closed.push((plugin.to_owned(), format!("{method}: {failure:?}")));
                });
                Ok(None)
            }
            Err(Failure::Status(status)) => Err(format!("plugin {plugin}: {}", status.message)),
            Err(failure) => Err(format!("plugin {plugin}: {failure:?}")),
        }
    }
}

fn found(state: &State, id: &str) -> (PodSandbox, Container) {
    let container = state.containers[id].clone();
    (state.pods[&container.pod_sandbox_id].clone(), container)
}

/// `RunPodSandbox` of `RUN_POD_SANDBOX`.
fn method(event: Event) -> String {
    format!("{event:?}")
}
