//! Taking registrations, and reading the devices of those who registered.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use oarlock_device_plugin::ResourceName;
use oarlock_device_plugin::proto::v1beta1 as wire;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint as Dialled};
use tonic::{Request, Response, Status};
use wire::device_plugin_client::DevicePluginClient;

use super::{Endpoint, KubeletOptions, Reads, View};

/// As long as kubelet waits for a plugin while it registers.
const DIAL_BACK_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Registry {
    folder: PathBuf,
    options: KubeletOptions,
    view: Arc<watch::Sender<View>>,
    /// Cancelled when this kubelet dies.
    alive: CancellationToken,
}

impl Registry {
    pub(super) fn new(
        folder: PathBuf,
        options: KubeletOptions,
        view: Arc<watch::Sender<View>>,
        alive: CancellationToken,
    ) -> Self {
        Self { folder, options, view, alive }
    }

    async fn dial_back(&self, endpoint: &str) -> Result<Channel, Status> {
        let path = self.folder.join(endpoint);
        Dialled::from_shared(format!("unix://{}", path.display()))
            .unwrap()
            .origin("http://localhost".parse().unwrap())
            .connect_timeout(DIAL_BACK_WITHIN)
            .connect()
            .await
            .map_err(|error| Status::unknown(format!("failed to dial device plugin: {error:?}")))
    }

    async fn taken(&self, request: &wire::RegisterRequest) -> Result<Endpoint, Status> {
        if request.version != self.options.version {
            let (theirs, ours) = (&request.version, &self.options.version);
            return Err(Status::unknown(format!("requested API version {theirs:?} is not supported: {ours:?} is")));
        }
        request.resource_name.parse::<ResourceName>().map_err(|error| Status::unknown(error.to_string()))?;
        let channel = self.dial_back(&request.endpoint).await?;
        let options = DevicePluginClient::new(channel.clone()).get_device_plugin_options(wire::Empty {}).await?;
        Ok(Endpoint { channel, options: options.into_inner(), number: self.view.borrow().registrations.len() })
    }
}

#[tonic::async_trait]
impl wire::registration_server::Registration for Registry {
    async fn register(&self, request: Request<wire::RegisterRequest>) -> Result<Response<wire::Empty>, Status> {
        let request = request.into_inner();
        let endpoint = match self.taken(&request).await {
            Ok(endpoint) => endpoint,
            Err(refusal) => {
                self.view.send_modify(|view| view.refused += 1);
                return Err(refusal);
            }
        };
        let resource = request.resource_name.clone();
        self.view.send_modify(|view| {
            view.registrations.push(request);
            let known = view.resources.entry(resource.clone()).or_default();
            known.endpoint = Some(endpoint.clone());
            known.connected = true;
        });
        if self.options.reads == Reads::Never {
            return Ok(Response::new(wire::Empty {}));
        }
        let (view, options) = (Arc::clone(&self.view), self.options.clone());
        let alive = self.alive.clone();
        tokio::spawn(async move { alive.run_until_cancelled(read_devices(view, resource, endpoint, options)).await });
        Ok(Response::new(wire::Empty {}))
    }
}

/// Reads lists until the stream ends or another registration takes its place, then calls every device unhealthy, and
/// after the grace forgets them. There is no second try.
async fn read_devices(view: Arc<watch::Sender<View>>, resource: String, endpoint: Endpoint, options: KubeletOptions) {
    let number = endpoint.number;
    let is_current = |view: &View| {
        view.resources.get(&resource).and_then(|known| known.endpoint.as_ref()).is_some_and(|e| e.number == number)
    };
    let mut replaced = view.subscribe();
    let reading = async {
        let mut client = DevicePluginClient::new(endpoint.channel);
        let Ok(answer) = client.list_and_watch(wire::Empty {}).await else { return };
        let mut lists = answer.into_inner();
        while let Ok(Some(list)) = lists.message().await {
            view.send_if_modified(|view| {
                let current = is_current(view);
                if current && let Some(known) = view.resources.get_mut(&resource) {
                    known.devices = list.devices;
                    known.lists += 1;
                }
                current
            });
            if options.reads == Reads::Once {
                return;
            }
        }
    };
    tokio::select! {
        () = reading => {}
        _ = replaced.wait_for(|view| !is_current(view)) => return,
    }
    let mut registrations = 0;
    let ended = view.send_if_modified(|view| {
        registrations = view.registrations.len();
        let current = is_current(view);
        if current && let Some(known) = view.resources.get_mut(&resource) {
            known.connected = false;
            known.endpoint = None;
            for device in &mut known.devices {
                "Unhealthy".clone_into(&mut device.health);
            }
        }
        current
    });
    if ended {
        let anew =
            |view: &View| view.registrations[registrations..].iter().any(|later| later.resource_name == resource);
        let mut later = view.subscribe();
        if timeout(options.grace, later.wait_for(anew)).await.is_err() {
            view.send_modify(|view| drop(view.resources.remove(&resource)));
        }
    }
}
