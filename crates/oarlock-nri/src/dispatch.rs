//! From the name of a call to the plugin's method, and back to an answer.

use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use crate::events::Events;
use crate::plugin::{Configuration, HandlerError, Plugin};
use crate::proto::{
    ConfigureRequest, ConfigureResponse, Container, CreateContainerRequest, Event, PodSandbox, StateChangeEvent,
    StopContainerRequest, SynchronizeRequest, SynchronizeResponse, UpdateContainerRequest, UpdatePodSandboxRequest,
    ValidateContainerAdjustmentRequest,
};
use crate::runtime::Runtime;
use crate::ttrpc::{Request, Status};
use crate::version::NriVersion;

/// The plugin's service.
const SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";

/// All pods and containers of a host have to fit into this many bytes. A large host has some thousand containers of a
/// few KiB each.
const LONGEST_SYNCHRONIZATION: usize = 64 << 20;

/// How long runtimes wait where they do not say.
const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection's way to its plugin.
#[derive(Debug)]
pub(crate) struct Dispatch<P> {
    plugin: Arc<P>,
    runtime: Runtime,
    state: Mutex<State>,
}

/// What a connection knows.
#[derive(Debug)]
struct State {
    /// Answered with success.
    configured: bool,
    events: Events,
    request_timeout: Duration,
    /// What came of a synchronisation in parts.
    parts: Parts,
    /// The first failure to configure or to synchronise: the runtime hangs up on it.
    unwilling: Option<(String, String)>,
}

#[derive(Debug, Default)]
struct Parts {
    pods: Vec<PodSandbox>,
    containers: Vec<Container>,
    /// Encoded.
    size: usize,
}

/// What a message says about a pod and a container.
#[derive(Clone, PartialEq, Message)]
struct About {
    #[prost(message, optional, tag = "1")]
    pod: Option<PodSandbox>,
    #[prost(message, optional, tag = "2")]
    container: Option<Container>,
}

impl<P: Plugin> Dispatch<P> {
    pub(crate) fn new(plugin: Arc<P>, runtime: Runtime) -> Self {
        let state = State {
            configured: false,
            events: Events::NONE,
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
            parts: Parts::default(),
            unwilling: None,
        };
        Self { plugin, runtime, state: Mutex::new(state) }
    }

    /// Nothing panics while it holds the lock.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the plugin has been configured.
    pub(crate) fn is_configured(&self) -> bool {
        self.state().configured
    }

    /// How long the runtime waits for an answer.
    pub(crate) fn request_timeout(&self) -> Duration {
        self.state().request_timeout
    }

    /// The call in which the plugin refused to go on, and its words.
    pub(crate) fn unwilling(&self) -> Option<(String, String)> {
        self.state().unwilling.clone()
    }

    /// Answers a call.
    pub(crate) async fn answer(&self, request: Request) -> Result<Bytes, Status> {
        if request.service != SERVICE {
            return Err(Status::unimplemented(format!("no service {:?} here", request.service)));
        }
        let result = self.call(&request.method, request.payload).await;
        if let Err(status) = &result
            && ["Configure", "Synchronize"].contains(&request.method.as_str())
        {
            self.state().unwilling = Some((request.method, status.message.clone()));
        }
        result
    }

    async fn call(&self, method: &str, payload: Bytes) -> Result<Bytes, Status> {
        match method {
            "Configure" => self.configure(decode(payload)?).await,
            "Synchronize" => self.synchronize(payload).await,
            "Shutdown" => {
                self.plugin.shutdown().await;
                Ok(Bytes::new())
            }
            "StateChange" => {
                let StateChangeEvent { event, pod, container } = decode(payload)?;
                match Event::try_from(event) {
                    Ok(event) => self.tell(event, About { pod, container }).await,
                    // A newer runtime may know more; nothing is amiss.
                    Err(_) => Ok(Bytes::new()),
                }
            }
            "CreateContainer" if self.wants(Event::CreateContainer) => {
                let CreateContainerRequest { pod, container } = decode(payload)?;
                encode(self.plugin.create_container(pod.unwrap_or_default(), container.unwrap_or_default()).await)
            }
            "UpdateContainer" if self.wants(Event::UpdateContainer) => {
                let UpdateContainerRequest { pod, container, linux_resources } = decode(payload)?;
                let (pod, container) = (pod.unwrap_or_default(), container.unwrap_or_default());
                encode(self.plugin.update_container(pod, container, linux_resources.unwrap_or_default()).await)
            }
            "StopContainer" if self.wants(Event::StopContainer) => {
                let StopContainerRequest { pod, container } = decode(payload)?;
                encode(self.plugin.stop_container(pod.unwrap_or_default(), container.unwrap_or_default()).await)
            }
            "UpdatePodSandbox" if self.wants(Event::UpdatePodSandbox) => {
                let UpdatePodSandboxRequest { pod, overhead_linux_resources, linux_resources } = decode(payload)?;
                let (overhead, resources) =
                    (overhead_linux_resources.unwrap_or_default(), linux_resources.unwrap_or_default());
                done(self.plugin.update_pod_sandbox(pod.unwrap_or_default(), overhead, resources).await)
            }
            "ValidateContainerAdjustment" if self.wants(Event::ValidateContainerAdjustment) => {
                let request: ValidateContainerAdjustmentRequest = decode(payload)?;
                encode(self.plugin.validate_container_adjustment(request).await)
            }
            // What is not wanted changes nothing: every empty answer is of no bytes.
            "CreateContainer"
            | "UpdateContainer"
            | "StopContainer"
            | "UpdatePodSandbox"
            | "ValidateContainerAdjustment" => Ok(Bytes::new()),
            "RunPodSandbox" => self.tell(Event::RunPodSandbox, decode(payload)?).await,
            "PostUpdatePodSandbox" => self.tell(Event::PostUpdatePodSandbox, decode(payload)?).await,
            "StopPodSandbox" => self.tell(Event::StopPodSandbox, decode(payload)?).await,
            "RemovePodSandbox" => self.tell(Event::RemovePodSandbox, decode(payload)?).await,
            "PostCreateContainer" => self.tell(Event::PostCreateContainer, decode(payload)?).await,
            "StartContainer" => self.tell(Event::StartContainer, decode(payload)?).await,
            "PostStartContainer" => self.tell(Event::PostStartContainer, decode(payload)?).await,
            "PostUpdateContainer" => self.tell(Event::PostUpdateContainer, decode(payload)?).await,
            "RemoveContainer" => self.tell(Event::RemoveContainer, decode(payload)?).await,
            _ => Err(Status::unimplemented(format!("no method {method:?} in {SERVICE}"))),
        }
    }

    fn wants(&self, event: Event) -> bool {
        self.state().events.contains(event)
    }

    /// The events whose answers say nothing. Older runtimes send them all in one call, newer ones each in its own.
    async fn tell(&self, event: Event, about: About) -> Result<Bytes, Status> {
        if !self.wants(event) {
            return Ok(Bytes::new());
        }
        let plugin = &self.plugin;
        let (pod, container) = (about.pod.unwrap_or_default(), about.container.unwrap_or_default());
        done(match event {
            Event::RunPodSandbox => plugin.run_pod_sandbox(pod).await,
            Event::PostUpdatePodSandbox => plugin.post_update_pod_sandbox(pod).await,
            Event::StopPodSandbox => plugin.stop_pod_sandbox(pod).await,
            Event::RemovePodSandbox => plugin.remove_pod_sandbox(pod).await,
            Event::PostCreateContainer => plugin.post_create_container(pod, container).await,
            Event::StartContainer => plugin.start_container(pod, container).await,
            Event::PostStartContainer => plugin.post_start_container(pod, container).await,
            Event::PostUpdateContainer => plugin.post_update_container(pod, container).await,
            Event::RemoveContainer => plugin.remove_container(pod, container).await,
            // These have answers, and come by calls of their own only.
            Event::Unknown
            | Event::CreateContainer
            | Event::UpdateContainer
            | Event::StopContainer
            | Event::UpdatePodSandbox
            | Event::ValidateContainerAdjustment => Ok(()),
        })
    }

    async fn configure(&self, request: ConfigureRequest) -> Result<Bytes, Status> {
        let nri_version = NriVersion::of_runtime(&request.nri_version, &request.runtime_name, &request.runtime_version);
        let wanted = self.plugin.events();
        let events = wanted.and(Events::known_to(nri_version));
        if events.is_empty() {
            let runtime = format!("{} {}", request.runtime_name, request.runtime_version);
            return Err(Status::unknown(format!("{runtime} knows none of the events that are wanted: {wanted:?}")));
        }
        let told = u64::try_from(request.request_timeout).ok().filter(|timeout| *timeout > 0);
        let request_timeout = told.map_or(DEFAULT_REQUEST_TIMEOUT, Duration::from_millis);
        let configuration = Configuration {
            text: request.config,
            runtime: request.runtime_name,
            runtime_version: request.runtime_version,
            nri_version,
            events,
            request_timeout,
        };
        {
            let mut state = self.state();
            state.events = events;
            state.request_timeout = request_timeout;
        }
        self.plugin.configure(self.runtime.clone(), configuration).await.map_err(failed)?;
        self.state().configured = true;
        Ok(ConfigureResponse { events: events.mask() }.encode_to_vec().into())
    }

    async fn synchronize(&self, payload: Bytes) -> Result<Bytes, Status> {
        let size = payload.len();
        let SynchronizeRequest { pods, containers, more } = decode(payload)?;
        let Parts { pods, containers, .. } = {
            let mut state = self.state();
            let parts = &mut state.parts;
            parts.size += size;
            if parts.size > LONGEST_SYNCHRONIZATION {
                return Err(Status::exhausted(format!(
                    "pods and containers of {} bytes: at most {LONGEST_SYNCHRONIZATION} are allowed",
                    parts.size
                )));
            }
            parts.pods.extend(pods);
            parts.containers.extend(containers);
            if more {
                return Ok(SynchronizeResponse { update: Vec::new(), more }.encode_to_vec().into());
            }
            std::mem::take(parts)
        };
        let update = self.plugin.synchronize(pods, containers).await.map_err(failed)?;
        Ok(SynchronizeResponse { update, more: false }.encode_to_vec().into())
    }
}

fn decode<M: Message + Default>(payload: Bytes) -> Result<M, Status> {
    M::decode(payload).map_err(|error| Status::invalid(error.to_string()))
}

fn encode<M: Message>(result: Result<M, HandlerError>) -> Result<Bytes, Status> {
    result.map(|answer| answer.encode_to_vec().into()).map_err(failed)
}

fn done(result: Result<(), HandlerError>) -> Result<Bytes, Status> {
    result.map(|()| Bytes::new()).map_err(failed)
}

/// The error with its causes, for a runtime that shows nothing else.
#[expect(clippy::needless_pass_by_value, reason = "it is the end of the error")]
fn failed(error: HandlerError) -> Status {
    let mut text = error.to_string();
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    Status::unknown(text)
}
