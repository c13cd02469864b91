//! Another plugin for the same resource, at a socket of its own, which takes the resource back whenever it loses it.

use std::path::Path;
use std::time::{Duration, Instant};

use oarlock_device_plugin::KubeletPaths;
use oarlock_device_plugin::proto::v1beta1 as wire;
use oarlock_testkit::kubelet::Kubelet;
use tempfile::tempdir;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};
use wire::device_plugin_server::{DevicePlugin, DevicePluginServer};
use wire::registration_client::RegistrationClient;

use crate::plugin::{GPU, Plugin};

/// The only device that it has.
const DEVICE: &str = "contended";

/// What kubelet sees of it. Each stream is kept open until kubelet drops it.
struct Service {
    streams: mpsc::UnboundedSender<mpsc::Sender<Result<wire::ListAndWatchResponse, Status>>>,
}

#[tonic::async_trait]
impl DevicePlugin for Service {
    async fn get_device_plugin_options(
        &self,
        _: Request<wire::Empty>,
    ) -> Result<Response<wire::DevicePluginOptions>, Status> {
        Ok(Response::new(wire::DevicePluginOptions::default()))
    }

    type ListAndWatchStream = ReceiverStream<Result<wire::ListAndWatchResponse, Status>>;

    async fn list_and_watch(&self, _: Request<wire::Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        let device = wire::Device { id: DEVICE.to_owned(), health: "Healthy".to_owned(), topology: None };
        sender.send(Ok(wire::ListAndWatchResponse { devices: vec![device] })).await.unwrap();
        self.streams.send(sender).unwrap();
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn allocate(&self, _: Request<wire::AllocateRequest>) -> Result<Response<wire::AllocateResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn get_preferred_allocation(
        &self,
        _: Request<wire::PreferredAllocationRequest>,
    ) -> Result<Response<wire::PreferredAllocationResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn pre_start_container(
        &self,
        _: Request<wire::PreStartContainerRequest>,
    ) -> Result<Response<wire::PreStartContainerResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

/// Serves and registers, and registers at once again when kubelet has turned away. It ends when what is returned is dropped.
fn contend(root: &Path) -> JoinSet<()> {
    let paths = KubeletPaths::new(root);
    let listener = UnixListener::bind(paths.device_plugins().join("other.sock")).unwrap();
    let (streams, mut opened) = mpsc::unbounded_channel();
    let server = Server::builder()
        .serve_with_incoming(DevicePluginServer::new(Service { streams }), UnixListenerStream::new(listener));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { server.await.unwrap() });
    tasks.spawn(async move {
        loop {
            register(&paths.registration()).await;
            let stream: mpsc::Sender<_> = opened.recv().await.unwrap();
            stream.closed().await;
        }
    });
    tasks
}

async fn register(kubelet: &Path) {
    let endpoint = Endpoint::from_shared(format!("unix://{}", kubelet.display())).unwrap();
    let request = wire::RegisterRequest {
        version: "v1beta1".to_owned(),
        endpoint: "other.sock".to_owned(),
        resource_name: GPU.to_owned(),
        options: None,
    };
    RegistrationClient::new(endpoint.connect().await.unwrap()).register(request).await.unwrap();
}

#[tokio::test]
async fn two_plugins_for_one_resource_replace_each_other_ever_more_slowly_and_the_one_that_stays_has_it() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let plugin = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    let since = Instant::now();
    let other = contend(root.path());
    let state = plugin.wait_for("an error", |state| state.last_error.is_some()).await;
    let error = state.last_error.unwrap();
    assert!(error.contains("another plugin may have registered for the resource"), "{error}");
    kubelet
        .wait_for("four registrations more", |view| {
            view.registrations.iter().filter(|registration| registration.endpoint == "oarlock.dev_gpu.sock").count()
                >= 5
        })
        .await;
    // 0.2 s, 0.4 s, 0.8 s and 1.6 s lie between them.
    assert!(since.elapsed() >= Duration::from_secs(3), "{:?}", since.elapsed());
    drop(other);
    kubelet.wait_for_allocatable(GPU, 8).await;
    plugin.stop().await;
}
