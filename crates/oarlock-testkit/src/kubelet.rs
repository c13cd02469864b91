//! A kubelet as its plugins meet it: it wipes sockets when it starts, dials back while it registers, reads devices once
//! and never again, gives them to pods, keeps what it gave, and answers for it on the pod-resources socket.

mod admission;
mod checkpoint;
mod pod_resources;
mod registration;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oarlock_device_plugin::KubeletPaths;
use oarlock_device_plugin::proto::v1::pod_resources_lister_server::PodResourcesListerServer;
use oarlock_device_plugin::proto::v1beta1 as wire;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Server};
use wire::registration_server::RegistrationServer;

pub use admission::{Admission, AdmissionError, Kind};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// The file that outlives a kubelet.
const CHECKPOINT: &str = "kubelet_internal_checkpoint";

/// How this kubelet differs from a usual one.
#[derive(Debug, Clone)]
pub struct KubeletOptions {
    /// The only version that it takes.
    pub version: String,
    /// Whether its pod-resources socket knows `Get`; kubelets before 1.34 do not by default.
    pub knows_get: bool,
    /// What it does about `ListAndWatch`.
    pub reads: Reads,
    /// How long it remembers the devices of a plugin that has ended.
    pub grace: Duration,
    /// Whether the host was started anew: no container runs, and pods that have their devices are admitted once more.
    pub rebooted: bool,
}

/// How a kubelet reads the devices of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// It reads on.
    On,
    /// It ends the stream after the first list.
    Once,
    /// It never asks.
    Never,
}

impl Default for KubeletOptions {
    fn default() -> Self {
        Self {
            version: "v1beta1".to_owned(),
            knows_get: true,
            reads: Reads::On,
            grace: Duration::from_secs(300),
            rebooted: false,
        }
    }
}

/// A resource, as kubelet sees it.
#[derive(Debug, Clone, Default)]
pub struct Resource {
    /// The last list, with every device unhealthy once the stream has ended.
    pub devices: Vec<wire::Device>,
    /// Whether the stream is open.
    pub connected: bool,
    /// Lists that came.
    pub lists: usize,
    endpoint: Option<Endpoint>,
}

/// The plugin's side of a registration.
#[derive(Debug, Clone)]
struct Endpoint {
    channel: Channel,
    options: wire::DevicePluginOptions,
    /// Which registration made it.
    number: usize,
}

impl Resource {
    /// All devices, healthy or not.
    pub fn capacity(&self) -> usize {
        self.devices.len()
    }

    /// The healthy devices.
    pub fn allocatable(&self) -> usize {
        self.healthy().count()
    }

    fn healthy(&self) -> impl Iterator<Item = &wire::Device> {
        self.devices.iter().filter(|device| device.health == "Healthy")
    }
}

/// A device set given to a container.
#[derive(Debug, Clone)]
struct Given {
    pod: String,
    container: String,
    /// Whether the pod's later containers have these devices too: it is an ordinary init container's.
    reusable: bool,
    resource: String,
    ids: Vec<String>,
    response: wire::ContainerAllocateResponse,
}

/// All that a kubelet knows, for tests to look at.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The resources that were ever registered with it.
    pub resources: BTreeMap<String, Resource>,
    /// The registrations that it took, in their order.
    pub registrations: Vec<wire::RegisterRequest>,
    /// The registrations that it refused.
    pub refused: usize,
    /// The requests for advice that it made.
    pub preferred: Vec<wire::ContainerPreferredAllocationRequest>,
    /// The allocations that it asked for.
    pub allocated: Vec<wire::ContainerAllocateRequest>,
    given: Vec<Given>,
}

impl View {
    /// A resource by name, empty where it never registered.
    pub fn resource(&self, name: &str) -> Resource {
        self.resources.get(name).cloned().unwrap_or_default()
    }
}

/// A running kubelet. Dropping it is its death: sockets stay behind.
#[derive(Debug)]
pub struct Kubelet {
    paths: KubeletPaths,
    rebooted: bool,
    view: Arc<watch::Sender<View>>,
    tasks: JoinSet<()>,
    _alive: DropGuard,
}

impl Kubelet {
    /// Starts a usual kubelet whose folder is `root`.
    pub fn start(root: &Path) -> Self {
        Self::start_with(root, &KubeletOptions::default())
    }

    /// Starts a kubelet whose folder is `root`: all sockets in its folder of plugins are removed, then its own appear.
    ///
    /// # Panics
    ///
    /// Where the folder cannot be written, and outside of an async runtime.
    pub fn start_with(root: &Path, options: &KubeletOptions) -> Self {
        let paths = KubeletPaths::new(root);
        let folder = paths.device_plugins();
        fs::create_dir_all(&folder).unwrap();
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_socket() {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        let view = Arc::new(watch::Sender::new(checkpoint::read(&folder.join(CHECKPOINT))));
        let mut tasks = JoinSet::new();

        let alive = CancellationToken::new();
        let registration = registration::Registry::new(folder, options.clone(), Arc::clone(&view), alive.clone());
        let incoming = UnixListenerStream::new(UnixListener::bind(paths.registration()).unwrap());
        let server = Server::builder().serve_with_incoming(RegistrationServer::new(registration), incoming);
        tasks.spawn(async move { server.await.unwrap() });

        let socket = paths.pod_resources();
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&socket);
        let lister = pod_resources::Lister::new(Arc::clone(&view), options.knows_get);
        let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let server = Server::builder().serve_with_incoming(PodResourcesListerServer::new(lister), incoming);
        tasks.spawn(async move { server.await.unwrap() });

        Self { paths, rebooted: options.rebooted, view, tasks, _alive: alive.drop_guard() }
    }

    /// What it knows now.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Waits until what it knows is as `wanted`, and gives it.
    ///
    /// # Panics
    ///
    /// Where that does not come.
    pub async fn wait_for(&self, what: &str, mut wanted: impl FnMut(&View) -> bool) -> View {
        let mut receiver = self.view.subscribe();
        let Ok(view) = timeout(PATIENCE, receiver.wait_for(|view| wanted(view))).await else {
            panic!("never came: {what}; kubelet knows {:#?}", self.view())
        };
        view.unwrap().clone()
    }

    /// Waits until `resource` has so many devices that may be given away.
    pub async fn wait_for_allocatable(&self, resource: &str, devices: usize) -> View {
        let what = format!("{devices} allocatable {resource}");
        self.wait_for(&what, |view| {
            view.resource(resource).allocatable() == devices && view.resources.contains_key(resource)
        })
        .await
    }

    /// Ends as a kubelet that is told to: it removes its socket.
    pub async fn stop(self) {
        let socket = self.paths.registration();
        self.kill().await;
        let _ = fs::remove_file(socket);
    }

    /// Ends as a kubelet that is killed: its sockets stay, and nobody answers.
    pub async fn kill(mut self) {
        self.tasks.shutdown().await;
        // The channels to plugins end with what holds them.
        self.view.send_modify(|view| view.resources.clear());
    }

    fn checkpoint(&self) -> PathBuf {
        self.paths.device_plugins().join(CHECKPOINT)
    }
}
