//! A plugin under test: real sockets in a folder of its own, devices that the test sets.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oarlock_core::NodeSet;
use oarlock_device_plugin::proto::v1beta1::device_plugin_client::DevicePluginClient;
use oarlock_device_plugin::{AllocateError, Allocation, Backend, Device, KubeletPaths, State, serve};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const GPU: &str = "oarlock.dev/gpu";

/// A device on one node.
pub(crate) fn device(id: &str, node: u32) -> Device {
    Device { id: id.to_owned(), healthy: true, nodes: NodeSet::of(node) }
}

/// Eight devices, the first four on node 1, the others on node 0: the order of ids is not that of nodes.
pub(crate) fn eight() -> Vec<Device> {
    (0..8).map(|index| device(&format!("GPU-{index}"), u32::from(index < 4))).collect()
}

/// Devices that a test sets, and how the backend answers.
pub(crate) struct Devices {
    pub(crate) list: watch::Sender<Arc<Vec<Device>>>,
    pub(crate) prefer: fn(&[String], &[String], usize) -> Vec<String>,
    pub(crate) allocate: fn(&[String]) -> Result<Allocation, AllocateError>,
}

impl Devices {
    pub(crate) fn new(list: Vec<Device>) -> Self {
        Self { list: watch::Sender::new(Arc::new(list)), prefer: last, allocate: |ids| Ok(named(ids)) }
    }

    pub(crate) fn set(&self, list: Vec<Device>) {
        self.list.send_replace(Arc::new(list));
    }
}

/// The last of the available: what no order of kubelet's own would choose.
fn last(available: &[String], _: &[String], size: usize) -> Vec<String> {
    available.iter().rev().take(size).cloned().collect()
}

/// The ids in the environment.
fn named(ids: &[String]) -> Allocation {
    let mut allocation = Allocation::default();
    allocation.envs.insert("DEVICES".to_owned(), ids.join(","));
    allocation
}

impl Backend for Devices {
    fn devices(&self) -> watch::Receiver<Arc<Vec<Device>>> {
        self.list.subscribe()
    }

    fn prefer(&self, available: &[String], must_include: &[String], size: usize) -> Vec<String> {
        (self.prefer)(available, must_include, size)
    }

    fn allocate(&self, ids: &[String]) -> Result<Allocation, AllocateError> {
        (self.allocate)(ids)
    }
}

/// The socket of [`GPU`] under kubelet's folder `root`.
pub(crate) fn socket(root: &Path) -> PathBuf {
    KubeletPaths::new(root).device_plugins().join("oarlock.dev_gpu.sock")
}

/// A client of the plugin that serves [`GPU`].
pub(crate) async fn client(root: &Path) -> DevicePluginClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket(root).display())).unwrap();
    DevicePluginClient::new(endpoint.connect().await.unwrap())
}

/// A running plugin.
pub(crate) struct Plugin {
    pub(crate) devices: Arc<Devices>,
    pub(crate) state: watch::Receiver<State>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Plugin {
    /// Serves eight devices under kubelet's folder `root`.
    pub(crate) fn start(root: &Path) -> Self {
        Self::serving(root, GPU, Devices::new(eight()))
    }

    pub(crate) fn serving(root: &Path, resource: &str, devices: Devices) -> Self {
        let devices = Arc::new(devices);
        let state = watch::Sender::new(State::default());
        let receiver = state.subscribe();
        let shutdown = CancellationToken::new();
        let (resource, paths) = (resource.parse().unwrap(), KubeletPaths::new(root));
        let (backend, until) = (Arc::clone(&devices), shutdown.clone());
        let task = tokio::spawn(async move { serve(resource, backend, &paths, state, until).await.unwrap() });
        Self { devices, state: receiver, shutdown, task }
    }

    /// Waits until it stands as `wanted`.
    pub(crate) async fn wait_for(&self, what: &str, mut wanted: impl FnMut(&State) -> bool) -> State {
        let mut states = self.state.clone();
        let Ok(state) = timeout(PATIENCE, states.wait_for(|state| wanted(state))).await else {
            panic!("never came: {what}; it stands at {:?}", *self.state.borrow())
        };
        state.unwrap().clone()
    }

    pub(crate) async fn ready(&self) -> State {
        self.wait_for("readiness", State::is_ready).await
    }

    /// Tells it to end, and waits for that.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }

    /// Ends it as SIGKILL does, but for what other tasks hold.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}
