//! A container runtime as its NRI plugins meet it: it takes them one after the other, asks them in the order of their
//! indices under one lock, hangs up on those that are late, goes on without them, and fails what they refuse or disagree
//! about.

mod conflict;
mod lifecycle;
pub mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oarlock_nri::proto::{
    ConfigureRequest, ConfigureResponse, Container, ContainerUpdate, PodSandbox, RegisterPluginRequest,
    SynchronizeRequest, SynchronizeResponse, UpdateContainersRequest, UpdateContainersResponse,
};
use prost::Message as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use conflict::Owners;
use wire::{Asked, Failure, Peer, Status};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// How this runtime differs from a new containerd.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// As in `Configure`.
    pub name: String,
    /// As in `Configure`.
    pub version: String,
    /// As in `Configure`; runtimes before NRI 0.12.0 have none.
    pub nri_version: String,
    /// The mask of events that it knows; another bit fails the registration.
    pub known_events: i32,
    /// Whether it sends most events in one call, as all did before NRI 0.12.0.
    pub state_change: bool,
    /// The plugin's configuration.
    pub config: String,
    /// Between connection and registration.
    pub registration_timeout: Duration,
    /// For each answer.
    pub request_timeout: Duration,
    /// Pods and containers in one message of a synchronisation.
    pub objects_per_message: usize,
    /// The bytes in one frame.
    pub frame: usize,
    /// Containers that exist already.
    pub containers: Vec<Container>,
    /// Their pods.
    pub pods: Vec<PodSandbox>,
    /// The ids of containers that it cannot update.
    pub stubborn: Vec<String>,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        Self {
            name: "containerd".to_owned(),
            version: "v2.3.4".to_owned(),
            nri_version: "v0.12.0".to_owned(),
            known_events: (1 << 14) - 1,
            state_change: false,
            config: String::new(),
            registration_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(2),
            objects_per_message: usize::MAX,
            frame: 4096,
            containers: Vec::new(),
            pods: Vec::new(),
            stubborn: Vec::new(),
        }
    }
}

impl RuntimeOptions {
    /// A containerd 1.7 or 2.1: it tells no version of NRI, and sends most events in one call.
    pub fn old(version: &str) -> Self {
        Self {
            version: version.to_owned(),
            nri_version: String::new(),
            known_events: (1 << 11) - 1,
            state_change: true,
            ..Self::default()
        }
    }
}

/// What has happened, for tests to look at.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The registrations that it took, in their order.
    pub registrations: Vec<RegisterPluginRequest>,
    /// The event mask of each plugin, by `index-name`.
    pub events: BTreeMap<String, i32>,
    /// Why plugins were not taken.
    pub refused: Vec<String>,
    /// The plugins in service.
    pub plugins: Vec<String>,
    /// The plugins that it hung up on, and why.
    pub closed: Vec<(String, String)>,
    /// All updates that it was asked for outside of events.
    pub unsolicited: Vec<ContainerUpdate>,
    /// Messages of the last synchronisation.
    pub synchronisation: usize,
}

/// A plugin in service.
#[derive(Debug)]
struct Plugin {
    name: String,
    events: i32,
    peer: Arc<Peer>,
}

/// What the one lock guards.
#[derive(Debug, Default)]
struct State {
    plugins: Vec<Plugin>,
    pods: BTreeMap<String, PodSandbox>,
    containers: BTreeMap<String, Container>,
    owners: Owners,
}

/// A running runtime. Dropping it is its death: the socket stays behind.
#[derive(Debug)]
pub struct NriRuntime {
    options: Arc<RuntimeOptions>,
    state: Arc<Mutex<State>>,
    view: Arc<watch::Sender<View>>,
    _alive: DropGuard,
}

impl NriRuntime {
    /// Starts a runtime that listens at `socket`, in place of whoever did before.
    ///
    /// # Panics
    ///
    /// Where the socket cannot be made, and outside of an async runtime.
    pub fn start(socket: &Path, options: RuntimeOptions) -> Self {
        let _ = fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let state = State {
            pods: options.pods.iter().map(|pod| (pod.id.clone(), pod.clone())).collect(),
            containers: options.containers.iter().map(|one| (one.id.clone(), one.clone())).collect(),
            ..State::default()
        };
        let alive = CancellationToken::new();
        let reception = Reception {
            options: Arc::new(options),
            state: Arc::new(Mutex::new(state)),
            view: Arc::new(watch::Sender::new(View::default())),
            alive: alive.clone(),
        };
        let (options, state, view) = (reception.options.clone(), reception.state.clone(), reception.view.clone());
        tokio::spawn(async move {
            let alive = reception.alive.clone();
            tokio::select! {
                () = reception.take_plugins(listener) => {}
                () = alive.cancelled() => {}
            }
        });
        Self { options, state, view, _alive: alive.drop_guard() }
    }

    /// What has happened so far.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Waits until what has happened is as wanted.
    ///
    /// # Panics
    ///
    /// Where that takes too long.
    pub async fn until(&self, wanted: impl FnMut(&View) -> bool) -> View {
        let mut receiver = self.view.subscribe();
        let Ok(view) = timeout(PATIENCE, receiver.wait_for(wanted)).await else {
            panic!("this has not come: {:?}", self.view());
        };
        view.unwrap().clone()
    }

    /// Waits until that many plugins are in service.
    pub async fn until_plugins(&self, count: usize) {
        self.until(|view| view.plugins.len() == count).await;
    }

    /// Holds the lock that a runtime holds while it is busy: no event is sent, no update made, no plugin synchronised.
    pub async fn busy(&self) -> impl Drop {
        Arc::clone(&self.state).lock_owned().await
    }

    /// A container as it is now.
    pub async fn container(&self, id: &str) -> Option<Container> {
        self.state.lock().await.containers.get(id).cloned()
    }

    /// Hangs up on all plugins, for no reason.
    pub async fn hang_up(&self) {
        self.state.lock().await.plugins.clear();
        self.view.send_modify(|view| view.plugins.clear());
    }
}

/// Where plugins come in.
#[derive(Debug, Clone)]
struct Reception {
    options: Arc<RuntimeOptions>,
    state: Arc<Mutex<State>>,
    view: Arc<watch::Sender<View>>,
    alive: CancellationToken,
}

impl Reception {
    /// One after the other: a slow one delays the next.
    async fn take_plugins(&self, listener: UnixListener) {
        while let Ok((socket, _)) = listener.accept().await {
            if let Err(why) = self.take(socket).await {
                self.view.send_modify(|view| view.refused.push(why));
            }
        }
    }

    async fn take(&self, socket: UnixStream) -> Result<(), String> {
        let (peer, mut asks) = Peer::over(socket, self.options.frame);
        let peer = Arc::new(peer);
        let asked = timeout(self.options.registration_timeout, asks.recv()).await;
        let asked = asked.map_err(|_| "plugin registration timed out")?.ok_or("the plugin hung up")?;
        let register = RegisterPluginRequest::decode(&asked.payload[..]).unwrap();
        let (index, name) = (&register.plugin_idx, &register.plugin_name);
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
        if asked.method != "RegisterPlugin" || index.len() != 2 || name.is_empty() || !name.chars().all(fits) {
            let message = format!("invalid plugin {index}-{name}");
            peer.answer(asked.stream, Err(Status { code: wire::UNKNOWN, message: message.clone() })).await;
            return Err(message);
        }
        peer.answer(asked.stream, Ok(wire::nothing())).await;
        let name = format!("{index}-{name}");
        self.view.send_modify(|view| view.registrations.push(register));
        let events = self.configure(&peer).await?;
        self.view.send_modify(|view| {
            view.events.insert(name.clone(), events);
        });
        let mut state = self.state.lock().await;
        let updates = self.synchronize(&peer, &state).await?;
        self.update(&mut state, &updates);
        state.plugins.push(Plugin { name, events, peer: Arc::clone(&peer) });
        state.plugins.sort_by(|one, other| one.name.cmp(&other.name));
        self.view.send_modify(|view| view.plugins = names(&state));
        let (reception, weak) = (self.clone(), Arc::downgrade(&peer));
        tokio::spawn(async move {
            let alive = reception.alive.clone();
            let serving = async {
                while let Some(asked) = asks.recv().await {
                    let Some(peer) = weak.upgrade() else { return };
                    reception.serve(&peer, asked).await;
                }
                reception.gone(weak.upgrade().as_ref()).await;
            };
            tokio::select! {
                () = serving => {}
                () = alive.cancelled() => reception.state.lock().await.plugins.clear(),
            }
        });
        Ok(())
    }

    /// A plugin has hung up.
    async fn gone(&self, peer: Option<&Arc<Peer>>) {
        let Some(peer) = peer else { return };
        let mut state = self.state.lock().await;
        state.plugins.retain(|plugin| !Arc::ptr_eq(&plugin.peer, peer));
        self.view.send_modify(|view| view.plugins = names(&state));
    }

    async fn configure(&self, peer: &Peer) -> Result<i32, String> {
        let options = &self.options;
        let request = ConfigureRequest {
            config: options.config.clone(),
            runtime_name: options.name.clone(),
            runtime_version: options.version.clone(),
            registration_timeout: options.registration_timeout.as_millis() as i64,
            request_timeout: options.request_timeout.as_millis() as i64,
            nri_version: options.nri_version.clone(),
        };
        let answer = peer.call("Configure", &request, options.request_timeout).await;
        let answer = answer.map_err(|failure| format!("failed to configure plugin: {failure:?}"))?;
        let events = ConfigureResponse::decode(&answer[..]).unwrap().events;
        match events & !options.known_events {
            0 if events == 0 => Ok(options.known_events),
            0 => Ok(events),
            extra => Err(format!("invalid plugin events: {extra:#x}")),
        }
    }

    /// All that there is, in as many messages as it takes; one timeout for all of them.
    async fn synchronize(&self, peer: &Peer, state: &State) -> Result<Vec<ContainerUpdate>, String> {
        let most = self.options.objects_per_message;
        let mut pods: Vec<_> = state.pods.values().cloned().collect();
        let mut containers: Vec<_> = state.containers.values().cloned().collect();
        let mut messages = 0;
        let parts = async {
            loop {
                let later_pods = pods.split_off(most.min(pods.len()));
                let later_containers = containers.split_off(most.min(containers.len()));
                let more = !later_pods.is_empty() || !later_containers.is_empty();
                let request = SynchronizeRequest {
                    pods: std::mem::replace(&mut pods, later_pods),
                    containers: std::mem::replace(&mut containers, later_containers),
                    more,
                };
                messages += 1;
                let answer = peer.call("Synchronize", &request, self.options.request_timeout).await;
                let answer = answer.map_err(|failure| format!("failed to synchronize plugin: {failure:?}"))?;
                let answer = SynchronizeResponse::decode(&answer[..]).unwrap();
                if !more {
                    return Ok(answer.update);
                }
                if !answer.update.is_empty() || !answer.more {
                    return Err("plugin does not handle split sync requests".to_owned());
                }
            }
        };
        let result = timeout(self.options.request_timeout, parts).await;
        self.view.send_modify(|view| view.synchronisation = messages);
        result.unwrap_or_else(|_| Err("failed to synchronize plugin: timed out".to_owned()))
    }

    /// What a plugin asks once it is in service. It has to wait for the lock like everyone.
    async fn serve(&self, peer: &Peer, asked: Asked) {
        if asked.method != "UpdateContainers" {
            let message = format!("method {}", asked.method);
            return peer.answer(asked.stream, Err(Status { code: 12, message })).await;
        }
        let request = UpdateContainersRequest::decode(&asked.payload[..]).unwrap();
        let mut state = self.state.lock().await;
        self.view.send_modify(|view| view.unsolicited.extend(request.update.iter().cloned()));
        let failed = self.update(&mut state, &request.update);
        peer.answer(asked.stream, Ok(UpdateContainersResponse { failed }.encode_to_vec())).await;
    }

    /// Changes containers, and gives back what could not be done. Those that it does not know are passed over.
    fn update(&self, state: &mut State, updates: &[ContainerUpdate]) -> Vec<ContainerUpdate> {
        let mut failed = Vec::new();
        for update in updates {
            let Some(container) = state.containers.get_mut(&update.container_id) else { continue };
            if !self.options.stubborn.contains(&update.container_id) {
                let linux = update.linux.clone().unwrap_or_default();
                conflict::change(container, &linux.resources.unwrap_or_default());
            } else if !update.ignore_failure {
                failed.push(update.clone());
            }
        }
        failed
    }
}

fn names(state: &State) -> Vec<String> {
    state.plugins.iter().map(|plugin| plugin.name.clone()).collect()
}

/// How a failed call of a plugin ends: it is hung up on, or it has failed what it was asked about.
fn is_fatal(failure: &Failure) -> bool {
    !matches!(failure, Failure::Status(_))
}
