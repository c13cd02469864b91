//! What a plugin does.

use std::error::Error;
use std::time::Duration;

use crate::events::Events;
use crate::lost::Lost;
use crate::proto::{
    Container, ContainerUpdate, CreateContainerResponse, LinuxResources, PodSandbox, StopContainerResponse,
    UpdateContainerResponse, ValidateContainerAdjustmentRequest, ValidateContainerAdjustmentResponse,
};
use crate::runtime::Runtime;
use crate::version::NriVersion;

/// Why a handler fails. The runtime is told the error and its causes, and lets the operation fail.
pub type HandlerError = Box<dyn Error + Send + Sync>;

/// What the runtime says about itself and the plugin once they know each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// The plugin's configuration as the runtime keeps it, empty where it keeps none.
    pub text: String,
    /// The runtime's name: `containerd`, `cri-o`.
    pub runtime: String,
    /// Its version, in its own form.
    pub runtime_version: String,
    /// Its version of NRI, told by itself or known from its release.
    pub nri_version: Option<NriVersion>,
    /// The events that the plugin will be told: those that it wants and the runtime knows.
    pub events: Events,
    /// How long the runtime waits for an answer before it hangs up.
    pub request_timeout: Duration,
}

/// A plugin: it says which events it wants, and implements their methods. All others need not be there.
///
/// **Errors are meant.** An error fails the operation: the container is not created, not updated, not started. Where the
/// plugin would rather let it go on, it answers with nothing changed.
///
/// **Time.** The runtime makes every container operation of the host wait for the answer, and cuts the plugin off where
/// it waits longer than [`Configuration::request_timeout`]; the operation then goes on without it. What takes time
/// belongs into a task of its own, and its result into [`Runtime::update_containers`].
///
/// **Concurrency.** Each call runs as a task. Runtimes make one call at a time, but nothing here relies on it. Where the
/// connection ends, handlers at work are dropped where they wait.
///
/// A pod or container that the runtime leaves out of a message is an empty one here.
pub trait Plugin: Send + Sync + 'static {
    /// The events that the plugin wants, at least one. Others do not reach it.
    fn events(&self) -> Events;

    /// The runtime has taken the plugin. `runtime` is good until the connection ends.
    fn configure(
        &self,
        _runtime: Runtime,
        _configuration: Configuration,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        async { Ok(()) }
    }

    /// All pods and containers that there are, in full, after each connection; answers with changes to them. Creation of
    /// containers waits meanwhile.
    fn synchronize(
        &self,
        _pods: Vec<PodSandbox>,
        _containers: Vec<Container>,
    ) -> impl Future<Output = Result<Vec<ContainerUpdate>, HandlerError>> + Send {
        async { Ok(Vec::new()) }
    }

    /// The runtime says that it ends. containerd (1.7.24, 2.1.9) never does: it hangs up.
    fn shutdown(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// There is no connection, or no longer; [`run`](crate::run) tries again.
    fn lost(&self, _why: &Lost) {}

    /// A pod is made.
    fn run_pod_sandbox(&self, _pod: PodSandbox) -> impl Future<Output = Result<(), HandlerError>> + Send {
        async { Ok(()) }
    }

    /// A pod's resources are about to change: its overhead, and the sum over its containers.
    fn update_pod_sandbox(
        &self,
        _pod: PodSandbox,
        _overhead: LinuxResources,
        _resources: LinuxResources,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        async { Ok(()) }
    }

    /// A pod's resources have changed.
    fn post_update_pod_sandbox(&self, _pod: PodSandbox) -> impl Future<Output = Result<(), HandlerError>> + Send {
        async { Ok(()) }
    }

    /// A pod stops.
    fn stop_pod_sandbox(&self, _pod: PodSandbox) -> impl Future<Output = Result<(), HandlerError>> + Send {
        async { Ok(()) }
    }

    /// A pod is removed.
    fn remove_pod_sandbox(&self, _pod: PodSandbox) -> impl Future<Output = Result<(), HandlerError>> + Send {
        async { Ok(()) }
    }

    /// A container is about to be made: its adjustment, and changes to other containers.
    ///
    /// A field that is empty in the adjustment changes nothing. A field that another plugin has set as well makes the
    /// runtime fail the creation.
    fn create_container(
        &self,
        _pod: PodSandbox,
        _container: Container,
    ) -> impl Future<Output = Result<CreateContainerResponse, HandlerError>> + Send {
        async { Ok(CreateContainerResponse::default()) }
    }

    /// A container has been made.
    fn post_create_container(
        &self,
        _pod: PodSandbox,
        _container: Container,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        async { Ok(()) }
    }

    /// A container is about to start.
    fn start_container(
        &self,
        _pod: PodSandbox,
        _container: Container,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        async { Ok(()) }
    }

    /// A container has started.
    fn post_start_container(
        &self,
        _pod: PodSandbox,
        _container: Container,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        async { Ok(()) }
    }

    /// A container's resources are about to change to those given. A change of the answer that carries the container's id
    /// takes their place, others are for other containers.
    fn update_container(
        &self,
        _pod: PodSandbox,
        _container: Container,
        _resources: LinuxResources,
    ) -> impl Future<Output = Result<UpdateContainerResponse, HandlerError>> + Send {
        async { Ok(UpdateContainerResponse::default()) }
    }

    /// A container's resources have changed.
    fn post_update_container(
        &self,
        _pod: PodSandbox,
        _container: Container,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        async { Ok(()) }
    }

    /// A container has stopped: changes to others.
    fn stop_container(
        &self,
        _pod: PodSandbox,
        _container: Container,
    ) -> impl Future<Output = Result<StopContainerResponse, HandlerError>> + Send {
        async { Ok(StopContainerResponse::default()) }
    }

    /// A container is removed, also one whose creation failed.
    fn remove_container(
        &self,
        _pod: PodSandbox,
        _container: Container,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        async { Ok(()) }
    }

    /// What all plugins together changed in a container that is being made, for a last word.
    fn validate_container_adjustment(
        &self,
        _request: ValidateContainerAdjustmentRequest,
    ) -> impl Future<Output = Result<ValidateContainerAdjustmentResponse, HandlerError>> + Send {
        async { Ok(ValidateContainerAdjustmentResponse::default()) }
    }
}
