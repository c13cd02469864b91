//! The agent as a plugin of the container runtime: every event goes to the desk, and its answer back.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oarlock_device_plugin::pod_resources::PodResources;
use oarlock_nri::proto::{
    Container, ContainerUpdate, CreateContainerResponse, Event, LinuxResources, PodSandbox, StopContainerResponse,
    UpdateContainerResponse,
};
use oarlock_nri::{Configuration, Events, HandlerError, Lost, Plugin, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use crate::desk::Desk;
use crate::metrics::{Handled, Metrics};

/// An answer that waits for kubelet's word comes after so long without it. The runtime cuts a plugin off that takes two
/// seconds, and every container of the host waits meanwhile.
const WORD_WITHIN: Duration = Duration::from_millis(400);
/// The runtime makes a change of ours between two events.
const CHANGE_WITHIN: Duration = Duration::from_secs(10);

/// Whether a pod's word has come, by the id of its sandbox.
type Asked = HashMap<String, watch::Receiver<bool>>;

/// What outlives the event that asked for it.
pub(crate) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The plugin.
#[derive(Debug)]
pub(crate) struct OfRuntime {
    desk: Arc<Desk>,
    kubelet: Arc<PodResources>,
    metrics: Arc<Metrics>,
    asked: Arc<Mutex<Asked>>,
    runtime: watch::Sender<Option<Runtime>>,
    work: mpsc::UnboundedSender<Work>,
}

impl OfRuntime {
    /// The plugin, and what it wants to be [done](do_all).
    pub(crate) fn new(
        desk: Arc<Desk>,
        kubelet: Arc<PodResources>,
        metrics: Arc<Metrics>,
    ) -> (Self, mpsc::UnboundedReceiver<Work>) {
        let (work, wanted) = mpsc::unbounded_channel();
        (Self { desk, kubelet, metrics, asked: Arc::default(), runtime: watch::Sender::new(None), work }, wanted)
    }

    /// Hands changes that no event is about to the runtime, until there are no more to come.
    pub(crate) fn change(
        &self,
        mut changes: mpsc::UnboundedReceiver<ContainerUpdate>,
    ) -> impl Future<Output = ()> + use<> {
        let mut runtime = self.runtime.subscribe();
        async move {
            while let Some(change) = changes.recv().await {
                let mut all = vec![change];
                while let Ok(more) = changes.try_recv() {
                    all.push(more);
                }
                // After a loss of the connection everything is looked at anew: nothing is kept for the next one.
                let Some(runtime) = runtime.borrow_and_update().clone() else { continue };
                match runtime.update_containers(all, CHANGE_WITHIN).await {
                    Ok(failed) => {
                        for failed in failed {
                            tracing::warn!(container = failed.container_id, "the runtime could not change its cpuset");
                        }
                    }
                    Err(error) => tracing::warn!("containers were not changed: {error}"),
                }
            }
        }
    }

    /// Asks kubelet what a pod holds; the answer goes to the desk.
    fn ask(&self, pod: &PodSandbox) -> watch::Receiver<bool> {
        let mut asked = self.asked();
        if let Some(answer) = asked.get(&pod.id) {
            return answer.clone();
        }
        let (done, answer) = watch::channel(false);
        asked.insert(pod.id.clone(), answer.clone());
        let (desk, kubelet, all) = (Arc::clone(&self.desk), Arc::clone(&self.kubelet), Arc::clone(&self.asked));
        let (id, namespace, name) = (pod.id.clone(), pod.namespace.clone(), pod.name.clone());
        self.work(async move {
            match kubelet.containers_of(&namespace, &name).await {
                Ok(word) => desk.word(&id, Arc::new(word)),
                Err(error) => {
                    tracing::debug!("{:#}", anyhow::Error::new(error));
                    // Whoever needs it next asks again.
                    all.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                }
            }
            // Nobody may be waiting.
            let _ = done.send(true);
        });
        answer
    }

    fn work(&self, work: impl Future<Output = ()> + Send + 'static) {
        // Where nobody does it any more, the agent ends.
        drop(self.work.send(Box::pin(work)));
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the word about a pod; false where it takes too long.
    async fn word_has_come(&self, pod: &PodSandbox) -> bool {
        let mut answer = self.ask(pod);
        matches!(timeout(WORD_WITHIN, answer.wait_for(|come| *come)).await, Ok(Ok(_)))
    }

    /// Gives a container its place as soon as it is known what its pod holds.
    fn settle_later(&self, pod: &PodSandbox, id: String) {
        let mut answer = self.ask(pod);
        let desk = Arc::clone(&self.desk);
        self.work(async move {
            // Its sender is only dropped with an answer.
            let _ = answer.wait_for(|come| *come).await;
            desk.settle(&id);
        });
    }
}

/// Does what is wanted, all at the same time, until something fails.
pub(crate) async fn do_all(mut wanted: mpsc::UnboundedReceiver<Work>) -> JoinError {
    let mut at_work = JoinSet::new();
    loop {
        tokio::select! {
            Some(work) = wanted.recv() => drop(at_work.spawn(work)),
            Some(ended) = at_work.join_next() => if let Err(error) = ended {
                return error;
            },
            else => std::future::pending().await,
        }
    }
}

impl Plugin for OfRuntime {
    fn events(&self) -> Events {
        Events::from([
            Event::RunPodSandbox,
            Event::RemovePodSandbox,
            Event::CreateContainer,
            Event::PostCreateContainer,
            Event::PostStartContainer,
            Event::UpdateContainer,
            Event::PostUpdateContainer,
            Event::StopContainer,
            Event::RemoveContainer,
        ])
    }

    async fn configure(&self, runtime: Runtime, configuration: Configuration) -> Result<(), HandlerError> {
        let version = configuration.nri_version.map_or_else(|| "unknown".to_owned(), |version| version.to_string());
        tracing::info!(
            runtime = configuration.runtime,
            version = configuration.runtime_version,
            nri = version,
            "connected to the container runtime"
        );
        self.desk.serve(configuration.nri_version);
        self.runtime.send_replace(Some(runtime));
        Ok(())
    }

    async fn synchronize(
        &self,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>, HandlerError> {
        let unsettled = self.desk.synchronize(&pods, &containers);
        self.asked().retain(|id, _| pods.iter().any(|pod| pod.id == *id));
        tracing::info!(pods = pods.len(), containers = containers.len(), unsettled = unsettled.len(), "synchronised");
        for (pod, container) in unsettled {
            self.settle_later(&pod, container.id);
        }
        // What the others hold counts as soon as their resources change.
        for container in &containers {
            if let Some(pod) = pods.iter().find(|pod| pod.id == container.pod_sandbox_id)
                && Desk::concerns_us(pod, container)
            {
                drop(self.ask(pod));
            }
        }
        self.metrics.ranks.runtime(true);
        Ok(Vec::new())
    }

    fn lost(&self, _why: &Lost) {
        self.runtime.send_replace(None);
        self.metrics.ranks.runtime(false);
    }

    async fn run_pod_sandbox(&self, pod: PodSandbox) -> Result<(), HandlerError> {
        self.desk.pod(&pod);
        if pod.annotations.keys().any(|key| key.starts_with(oarlock_core::request::PREFIX)) {
            drop(self.ask(&pod));
        }
        Ok(())
    }

    async fn remove_pod_sandbox(&self, pod: PodSandbox) -> Result<(), HandlerError> {
        self.asked().remove(&pod.id);
        self.desk.pod_gone(&pod.id);
        Ok(())
    }

    async fn create_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<CreateContainerResponse, HandlerError> {
        let began = Instant::now();
        let concerns_us = Desk::concerns_us(&pod, &container);
        if concerns_us {
            self.desk.pod(&pod);
        }
        if concerns_us && !self.word_has_come(&pod).await {
            tracing::warn!(
                pod = pod.name,
                container = container.name,
                "kubelet does not say in time what the pod holds"
            );
            self.desk.note(&container);
            self.settle_later(&pod, container.id);
            self.metrics.ranks.created(Handled::Late, began.elapsed());
            return Ok(CreateContainerResponse::default());
        }
        let created = self.desk.create(&pod, &container);
        self.metrics.ranks.created(if concerns_us { Handled::Managed } else { Handled::Unmanaged }, began.elapsed());
        let created = created.map_err(|refusal| format!("oarlock refuses to start this container: {refusal}"))?;
        Ok(CreateContainerResponse { adjust: created.adjust, update: created.update, evict: Vec::new() })
    }

    async fn post_create_container(&self, _pod: PodSandbox, container: Container) -> Result<(), HandlerError> {
        self.desk.made(&container.id);
        Ok(())
    }

    async fn post_start_container(&self, _pod: PodSandbox, container: Container) -> Result<(), HandlerError> {
        self.desk.started(&container);
        Ok(())
    }

    async fn update_container(
        &self,
        _pod: PodSandbox,
        container: Container,
        resources: LinuxResources,
    ) -> Result<UpdateContainerResponse, HandlerError> {
        Ok(UpdateContainerResponse { update: self.desk.update(&container, &resources), evict: Vec::new() })
    }

    async fn post_update_container(&self, _pod: PodSandbox, container: Container) -> Result<(), HandlerError> {
        self.desk.updated(&container.id);
        Ok(())
    }

    async fn stop_container(
        &self,
        _pod: PodSandbox,
        container: Container,
    ) -> Result<StopContainerResponse, HandlerError> {
        Ok(StopContainerResponse { update: self.desk.stopped(&container.id) })
    }

    async fn remove_container(&self, _pod: PodSandbox, container: Container) -> Result<(), HandlerError> {
        self.desk.removed(&container.id);
        Ok(())
    }
}
