//! A plugin that notes what it is told and does what a test says.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oarlock_nri::proto::{
    Container, ContainerUpdate, CreateContainerResponse, LinuxContainer, LinuxContainerAdjustment,
    LinuxContainerUpdate, LinuxCpu, LinuxResources, PodSandbox, StopContainerResponse, UpdateContainerResponse,
    ValidateContainerAdjustmentRequest, ValidateContainerAdjustmentResponse,
};
use oarlock_nri::{Configuration, Events, HandlerError, Identity, Lost, Plugin, Runtime, Settings, run};
use oarlock_testkit::runtime::{NriRuntime, RuntimeOptions};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

type Creation = dyn Fn(&Container) -> Result<CreateContainerResponse, HandlerError> + Send + Sync;
type Update = dyn Fn(&Container) -> Vec<ContainerUpdate> + Send + Sync;

/// What a test's plugin does.
pub(crate) struct Behaviour {
    pub(crate) events: Events,
    /// How long handlers take.
    pub(crate) slowness: Duration,
    /// Those that do: how they begin.
    pub(crate) slow: &'static str,
    pub(crate) configure: Result<(), &'static str>,
    pub(crate) synchronize: Result<Vec<ContainerUpdate>, &'static str>,
    pub(crate) create: Box<Creation>,
    pub(crate) update: Box<Update>,
    pub(crate) stop: Box<Update>,
    pub(crate) reject: Option<&'static str>,
    /// Handlers make a call of their own to the runtime.
    pub(crate) calls_back: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            events: Events::ALL,
            slowness: Duration::ZERO,
            slow: "",
            configure: Ok(()),
            synchronize: Ok(Vec::new()),
            create: Box::new(|_| Ok(CreateContainerResponse::default())),
            update: Box::new(|_| Vec::new()),
            stop: Box::new(|_| Vec::new()),
            reject: None,
            calls_back: false,
        }
    }
}

/// What the plugin has been told, in its order.
#[derive(Default, Clone)]
pub(crate) struct Told {
    pub(crate) calls: Vec<String>,
    pub(crate) configurations: Vec<Configuration>,
    pub(crate) synchronized: Vec<(Vec<PodSandbox>, Vec<Container>)>,
    pub(crate) lost: Vec<String>,
    pub(crate) called_back: Vec<String>,
    pub(crate) runtime: Option<Runtime>,
}

pub(crate) struct TestPlugin {
    pub(crate) behaviour: Mutex<Arc<Behaviour>>,
    pub(crate) told: watch::Sender<Told>,
}

impl TestPlugin {
    pub(crate) fn new(behaviour: Behaviour) -> Arc<Self> {
        Arc::new(Self { behaviour: Mutex::new(Arc::new(behaviour)), told: watch::Sender::default() })
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = Arc::new(behaviour);
    }

    pub(crate) fn told(&self) -> Told {
        self.told.borrow().clone()
    }

    pub(crate) async fn until(&self, wanted: impl FnMut(&Told) -> bool) -> Told {
        let mut receiver = self.told.subscribe();
        let Ok(told) = timeout(PATIENCE, receiver.wait_for(wanted)).await else {
            panic!("this has not come: {:?}, {:?}", self.told().calls, self.told().lost);
        };
        told.unwrap().clone()
    }

    /// The runtime at the other end of the last connection.
    pub(crate) fn runtime(&self) -> Runtime {
        self.told().runtime.unwrap()
    }

    async fn note(&self, call: String) -> Arc<Behaviour> {
        let behaviour = Arc::clone(&self.behaviour.lock().unwrap());
        let slow = call.starts_with(behaviour.slow);
        self.told.send_modify(|told| told.calls.push(call));
        if slow {
            tokio::time::sleep(behaviour.slowness).await;
        }
        if behaviour.calls_back {
            let result = self.runtime().update_containers(Vec::new(), PATIENCE).await;
            self.told.send_modify(|told| told.called_back.push(format!("{result:?}")));
        }
        behaviour
    }

    async fn of_pod(&self, call: &str, pod: &PodSandbox) -> Result<(), HandlerError> {
        self.note(format!("{call} {}", pod.id)).await;
        Ok(())
    }

    async fn of_container(&self, call: &str, pod: &PodSandbox, container: &Container) -> Result<(), HandlerError> {
        self.note(format!("{call} {}/{}", pod.id, container.id)).await;
        Ok(())
    }
}

impl Plugin for TestPlugin {
    fn events(&self) -> Events {
        self.behaviour.lock().unwrap().events
    }

    async fn configure(&self, runtime: Runtime, configuration: Configuration) -> Result<(), HandlerError> {
        self.told.send_modify(|told| {
            told.runtime = Some(runtime);
            told.configurations.push(configuration);
        });
        Ok(self.note("configure".to_owned()).await.configure?)
    }

    async fn synchronize(
        &self,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>, HandlerError> {
        self.told.send_modify(|told| told.synchronized.push((pods, containers)));
        Ok(self.note("synchronize".to_owned()).await.synchronize.clone()?)
    }

    async fn shutdown(&self) {
        self.note("shutdown".to_owned()).await;
    }

    fn lost(&self, why: &Lost) {
        self.told.send_modify(|told| told.lost.push(why.to_string()));
    }

    async fn run_pod_sandbox(&self, pod: PodSandbox) -> Result<(), HandlerError> {
        self.of_pod("run pod", &pod).await
    }

    async fn update_pod_sandbox(
        &self,
        pod: PodSandbox,
        overhead: LinuxResources,
        resources: LinuxResources,
    ) -> Result<(), HandlerError> {
        let cpus = |resources: LinuxResources| resources.cpu.unwrap_or_default().cpus;
        self.note(format!("update pod {} {} {}", pod.id, cpus(overhead), cpus(resources))).await;
        Ok(())
    }

    async fn post_update_pod_sandbox(&self, pod: PodSandbox) -> Result<(), HandlerError> {
        self.of_pod("post update pod", &pod).await
    }

    async fn stop_pod_sandbox(&self, pod: PodSandbox) -> Result<(), HandlerError> {
        self.of_pod("stop pod", &pod).await
    }

    async fn remove_pod_sandbox(&self, pod: PodSandbox) -> Result<(), HandlerError> {
        self.of_pod("remove pod", &pod).await
    }

    async fn create_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<CreateContainerResponse, HandlerError> {
        let behaviour = self.note(format!("create {}/{}", pod.id, container.id)).await;
        (behaviour.create)(&container)
    }

    async fn post_create_container(&self, pod: PodSandbox, container: Container) -> Result<(), HandlerError> {
        self.of_container("post create", &pod, &container).await
    }

    async fn start_container(&self, pod: PodSandbox, container: Container) -> Result<(), HandlerError> {
        self.of_container("start", &pod, &container).await
    }

    async fn post_start_container(&self, pod: PodSandbox, container: Container) -> Result<(), HandlerError> {
        self.of_container("post start", &pod, &container).await
    }

    async fn update_container(
        &self,
        pod: PodSandbox,
        container: Container,
        resources: LinuxResources,
    ) -> Result<UpdateContainerResponse, HandlerError> {
        let cpus = resources.cpu.unwrap_or_default().cpus;
        let behaviour = self.note(format!("update {}/{} to {cpus}", pod.id, container.id)).await;
        Ok(UpdateContainerResponse { update: (behaviour.update)(&container), evict: Vec::new() })
    }

    async fn post_update_container(&self, pod: PodSandbox, container: Container) -> Result<(), HandlerError> {
        self.of_container("post update", &pod, &container).await
    }

    async fn stop_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<StopContainerResponse, HandlerError> {
        let behaviour = self.note(format!("stop {}/{}", pod.id, container.id)).await;
        Ok(StopContainerResponse { update: (behaviour.stop)(&container) })
    }

    async fn remove_container(&self, pod: PodSandbox, container: Container) -> Result<(), HandlerError> {
        self.of_container("remove", &pod, &container).await
    }

    async fn validate_container_adjustment(
        &self,
        request: ValidateContainerAdjustmentRequest,
    ) -> Result<ValidateContainerAdjustmentResponse, HandlerError> {
        let cpus = request.adjust.unwrap_or_default().linux.unwrap_or_default().resources.unwrap_or_default();
        let behaviour = self.note(format!("validate {}", cpus.cpu.unwrap_or_default().cpus)).await;
        let reason = behaviour.reject.unwrap_or_default().to_owned();
        Ok(ValidateContainerAdjustmentResponse { reject: behaviour.reject.is_some(), reason })
    }
}

/// A folder with a socket.
pub(crate) struct Host {
    folder: TempDir,
    shutdown: CancellationToken,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), shutdown: CancellationToken::new() }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("nri.sock")
    }

    pub(crate) fn runtime(&self) -> NriRuntime {
        self.runtime_with(RuntimeOptions::default())
    }

    pub(crate) fn runtime_with(&self, options: RuntimeOptions) -> NriRuntime {
        NriRuntime::start(&self.socket(), options)
    }

    /// Keeps a plugin connected.
    pub(crate) fn plug(&self, index: &str, name: &str, plugin: &Arc<TestPlugin>) -> JoinHandle<()> {
        let identity = Identity::new(index, name).unwrap();
        let settings = Settings { socket: self.socket(), ..Settings::new(identity) };
        let (plugin, shutdown) = (Arc::clone(plugin), self.shutdown.clone());
        tokio::spawn(async move { run(&settings, plugin, &shutdown).await })
    }

    /// Plugins that are told to end.
    pub(crate) fn shut_down(&self) {
        self.shutdown.cancel();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A runtime with one plugin in service.
pub(crate) async fn served(
    host: &Host,
    options: RuntimeOptions,
    behaviour: Behaviour,
) -> (NriRuntime, Arc<TestPlugin>) {
    let runtime = host.runtime_with(options);
    let plugin = TestPlugin::new(behaviour);
    host.plug("10", "test", &plugin);
    runtime.until_plugins(1).await;
    (runtime, plugin)
}

/// A pod by its id.
pub(crate) fn pod(id: &str) -> PodSandbox {
    PodSandbox { id: id.to_owned(), name: format!("name-of-{id}"), ..PodSandbox::default() }
}

/// A container that kubelet gave the CPUs 0-15.
pub(crate) fn container(pod: &str, id: &str) -> Container {
    let linux = LinuxContainer { resources: Some(cpus("0-15")), ..LinuxContainer::default() };
    Container {
        id: id.to_owned(),
        pod_sandbox_id: pod.to_owned(),
        env: vec!["PATH=/bin".to_owned()],
        linux: Some(linux),
        ..Container::default()
    }
}

/// CPUs alone.
pub(crate) fn cpus(cpus: &str) -> LinuxResources {
    LinuxResources { cpu: Some(LinuxCpu { cpus: cpus.to_owned(), ..LinuxCpu::default() }), ..LinuxResources::default() }
}

/// The CPUs of a container.
pub(crate) fn cpus_of(container: &Container) -> String {
    let linux = container.linux.clone().unwrap_or_default();
    linux.resources.unwrap_or_default().cpu.unwrap_or_default().cpus
}

/// An adjustment of CPUs and memory nodes.
pub(crate) fn placed(cpus: &str, mems: &str) -> CreateContainerResponse {
    let cpu = LinuxCpu { cpus: cpus.to_owned(), mems: mems.to_owned(), ..LinuxCpu::default() };
    let resources = Some(LinuxResources { cpu: Some(cpu), ..LinuxResources::default() });
    let linux = Some(LinuxContainerAdjustment { resources, ..LinuxContainerAdjustment::default() });
    let adjust = oarlock_nri::proto::ContainerAdjustment { linux, ..Default::default() };
    CreateContainerResponse { adjust: Some(adjust), ..CreateContainerResponse::default() }
}

/// Other CPUs for a container.
pub(crate) fn update(container: &str, to: &str) -> ContainerUpdate {
    let linux = Some(LinuxContainerUpdate { resources: Some(cpus(to)) });
    ContainerUpdate { container_id: container.to_owned(), linux, ignore_failure: false }
}
