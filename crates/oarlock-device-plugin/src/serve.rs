//! One resource from its socket to kubelet, for as long as the host lives: serve, see that the socket answers, register,
//! and begin again whenever kubelet, the folder or the socket is no longer the one that was registered with.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

use crate::backend::Backend;
use crate::connection::{self, Place};
use crate::folder::{Folder, Sight};
use crate::paths::KubeletPaths;
use crate::proto::v1beta1::device_plugin_server::DevicePluginServer;
use crate::register::{self, CallError};
use crate::resource_name::{ResourceName, SocketPathTooLong};
use crate::service::Service;
use crate::socket::{Socket, SocketError};
use crate::state::{Phase, State};
use crate::stream::Streams;

/// Between attempts: the first wait, which doubles, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A registration that has held so long was a good one: the next failure begins at the first wait again.
const HELD_WELL: Duration = Duration::from_secs(60);

/// kubelet opens `ListAndWatch` as soon as it has accepted a registration.
const WATCHED_WITHIN: Duration = Duration::from_secs(10);

/// How long a kubelet that has stopped reading may take to show that it is there.
const REACHED_WITHIN: Duration = Duration::from_secs(1);

/// How long running calls may take when the socket is given up.
const GRACE: Duration = Duration::from_secs(2);

/// How often a client has to show that it lives, and how long it may take for that.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A request of the most ids that are taken, of the longest kind, is well below.
const LARGEST_REQUEST: usize = 2 * 1024 * 1024;

/// Why a resource can never be served, whatever the host does.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// kubelet's folder and the resource's name together are too long for a unix socket.
    #[error("cannot serve {resource}")]
    SocketPath {
        /// The resource.
        resource: ResourceName,
        /// The path, and the bound.
        source: SocketPathTooLong,
    },
}

/// What went wrong, and is tried again.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("cannot look at {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("the own socket does not answer")]
    SelfDial(#[source] CallError),
    #[error("cannot register with kubelet")]
    Register(#[source] CallError),
    #[error("kubelet accepted the registration, and did not ask for devices within {} s", WATCHED_WITHIN.as_secs())]
    NotWatched,
    #[error("kubelet has gone")]
    KubeletGone(#[source] CallError),
    #[error("kubelet is there, and no longer reads the devices: another plugin may have registered for the resource")]
    NoLongerWatched,
    #[error("the server of the socket ended")]
    ServerEnded(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Serves `resource` to kubelet until `shutdown` is cancelled, then removes its socket. Whatever kubelet or its folder
/// do meanwhile is told in `state`, and answered by trying again; only what can never be mended is an error.
///
/// All tasks that this starts end before it does.
pub async fn serve(
    resource: ResourceName,
    backend: Arc<dyn Backend>,
    paths: &KubeletPaths,
    state: watch::Sender<State>,
    shutdown: CancellationToken,
) -> Result<(), PluginError> {
    let socket = resource
        .socket_in(&paths.device_plugins())
        .map_err(|source| PluginError::SocketPath { resource: resource.clone(), source })?;
    let plugin = Plugin { streams: Arc::new(Streams::new(state.clone())), resource, backend, state, shutdown, socket };
    plugin.run(paths).await;
    Ok(())
}

struct Plugin {
    resource: ResourceName,
    backend: Arc<dyn Backend>,
    state: watch::Sender<State>,
    shutdown: CancellationToken,
    socket: PathBuf,
    streams: Arc<Streams>,
}

impl Plugin {
    async fn run(&self, paths: &KubeletPaths) {
        let mut folder = Folder::watched(paths.device_plugins(), paths.registration(), self.socket.clone());
        let mut waits = Waits::default();
        // At the start a living predecessor gives way; later it is this one that gives way to a successor.
        let mut replace = true;
        while !self.shutdown.is_cancelled() {
            let outcome = self.round(&mut folder, paths, &mut replace).await;
            let wait = match outcome {
                Ok(()) => {
                    waits = Waits::default();
                    continue;
                }
                Err(trouble) => {
                    self.tell(&trouble);
                    waits.next()
                }
            };
            let before = folder.look().ok();
            tokio::select! {
                () = self.shutdown.cancelled() => {}
                () = sleep(wait) => {}
                // What stands there now may do better: it is tried at once.
                () = until_changed(&mut folder, before) => waits = Waits::default(),
            }
        }
        self.set_phase(Phase::Stopped);
    }

    /// From a look at the folder to the next change in it.
    async fn round(&self, folder: &mut Folder, paths: &KubeletPaths, replace: &mut bool) -> Result<(), Trouble> {
        let seen = folder.look().map_err(|source| Trouble::Folder { path: paths.device_plugins(), source })?;
        let missing = match seen {
            Sight { folder: None, .. } => Some(Phase::WaitingForFolder(paths.device_plugins())),
            Sight { kubelet: None, .. } => Some(Phase::WaitingForKubelet(paths.registration())),
            _ => None,
        };
        if let Some(phase) = missing {
            self.set_phase(phase);
            let _ = self.shutdown.run_until_cancelled(folder.changed()).await;
            return Ok(());
        }
        let (socket, listener) = match Socket::bind(&self.socket, *replace) {
            Err(SocketError::Taken(path)) => {
                self.set_phase(Phase::Displaced(path));
                let _ = self.shutdown.run_until_cancelled(folder.changed()).await;
                return Ok(());
            }
            bound => bound?,
        };
        *replace = false;
        let registered_with = Sight { own: Some(socket.id), ..seen };
        let mut serving = Serving::start(listener, &self.backend, &self.streams);
        let outcome = tokio::select! {
            () = self.shutdown.cancelled() => Ok(()),
            reason = serving.ended() => Err(Trouble::ServerEnded(reason)),
            trouble = self.keep_registered(paths) => Err(trouble),
            () = until_changed(folder, Some(registered_with)) => {
                tracing::info!(resource = %self.resource, "kubelet's folder has changed: registering anew");
                Ok(())
            }
        };
        drop(socket);
        serving.stop().await;
        outcome
    }

    /// Registers, and again when kubelet stops reading the devices. Ends only where the socket itself is at fault.
    async fn keep_registered(&self, paths: &KubeletPaths) -> Trouble {
        if let Err(error) = register::self_dial(&self.socket).await {
            return Trouble::SelfDial(error);
        }
        let mut waits = Waits::default();
        loop {
            let since = Instant::now();
            let trouble = match self.registered(paths).await {
                Ok(never) => match never {},
                Err(trouble) => trouble,
            };
            self.tell(&trouble);
            if since.elapsed() > HELD_WELL {
                waits = Waits::default();
            }
            sleep(waits.next()).await;
        }
    }

    /// One registration, for as long as it holds.
    async fn registered(&self, paths: &KubeletPaths) -> Result<std::convert::Infallible, Trouble> {
        self.streams.readers.send_modify(crate::stream::Readers::next_registration);
        register::register(&paths.registration(), &self.resource, self.resource.endpoint())
            .await
            .map_err(Trouble::Register)?;
        tracing::info!(resource = %self.resource, socket = %self.socket.display(), "registered with kubelet");
        self.state.send_modify(|state| {
            state.phase = Phase::Registered;
            state.registrations += 1;
        });
        let mut readers = self.streams.readers.subscribe();
        if timeout(WATCHED_WITHIN, readers.wait_for(|readers| readers.current() > 0)).await.is_err() {
            return Err(Trouble::NotWatched);
        }
        self.state.send_modify(|state| state.last_error = None);
        // The sender lives as long as this does: there is no other way out.
        let _ = readers.wait_for(|readers| readers.current() == 0).await;
        match register::dial(&paths.registration(), REACHED_WITHIN).await {
            Ok(_) => Err(Trouble::NoLongerWatched),
            Err(error) => Err(Trouble::KubeletGone(error)),
        }
    }

    fn set_phase(&self, phase: Phase) {
        let news = phase.to_string();
        let is_new = self.state.send_if_modified(|state| {
            let is_new = state.phase != phase;
            state.phase = phase;
            is_new
        });
        if is_new {
            tracing::info!(resource = %self.resource, "{news}");
        }
    }

    /// Says what went wrong, once for as long as it stays the same.
    fn tell(&self, trouble: &Trouble) {
        let error = with_causes(trouble);
        let mut is_new = false;
        self.state.send_modify(|state| {
            is_new = state.last_error.as_ref() != Some(&error);
            state.phase = Phase::Retrying;
            state.last_error = Some(error.clone());
        });
        if is_new {
            tracing::warn!(resource = %self.resource, "{error}: trying again");
        }
    }
}

/// Ends when the folder no longer looks as it did; none is a folder that cannot be looked at.
async fn until_changed(folder: &mut Folder, before: Option<Sight>) {
    while folder.look().ok() == before {
        folder.changed().await;
    }
}

/// An error and its causes in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The waits between attempts: each twice as long as the one before.
#[derive(Debug, Default)]
struct Waits {
    last: Option<Duration>,
}

impl Waits {
    fn next(&mut self) -> Duration {
        let wait = self.last.map_or(FIRST_WAIT, |last| (last * 2).min(LONGEST_WAIT));
        self.last = Some(wait);
        wait
    }
}

/// Lets a client that calls keep its place.
#[expect(clippy::unnecessary_wraps, reason = "an interceptor may refuse; this one does not")]
fn keep_place(request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
    if let Some(place) = request.extensions().get::<Arc<Place>>() {
        place.keep();
    }
    Ok(request)
}

/// The tasks behind a socket.
struct Serving {
    tasks: JoinSet<Box<dyn std::error::Error + Send + Sync>>,
    /// No new call; streams end.
    ending: CancellationToken,
    /// Connections are cut.
    cut: CancellationToken,
}

impl Serving {
    fn start(listener: tokio::net::UnixListener, backend: &Arc<dyn Backend>, streams: &Arc<Streams>) -> Self {
        let (ending, cut) = (CancellationToken::new(), CancellationToken::new());
        let (speaking, connections) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        let accepting = connection::accept(listener, speaking, cut.clone());
        let until = ending.clone();
        tasks.spawn(async move {
            match until.run_until_cancelled(accepting).await {
                Some(error) => error.into(),
                None => "it was told to end".into(),
            }
        });
        let service = Service { backend: Arc::clone(backend), streams: Arc::clone(streams), ending: ending.clone() };
        let server = DevicePluginServer::new(service).max_decoding_message_size(LARGEST_REQUEST);
        let serving = Server::builder()
            .max_concurrent_streams(64)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .serve_with_incoming_shutdown(
                InterceptedService::new(server, keep_place),
                ReceiverStream::new(connections),
                ending.clone().cancelled_owned(),
            );
        tasks.spawn(async move {
            match serving.await {
                Ok(()) => "it was told to end".into(),
                Err(error) => error.into(),
            }
        });
        Self { tasks, ending, cut }
    }

    /// Why the server ended without being told.
    async fn ended(&mut self) -> Box<dyn std::error::Error + Send + Sync> {
        match self.tasks.join_next().await {
            Some(Ok(reason)) => reason,
            Some(Err(error)) => error.into(),
            None => "nothing serves it".into(),
        }
    }

    /// Lets running calls finish, for a while, and ends everything.
    async fn stop(mut self) {
        self.ending.cancel();
        let _ = timeout(GRACE, async { while self.tasks.join_next().await.is_some() {} }).await;
        self.cut.cancel();
        self.tasks.shutdown().await;
    }
}

impl Drop for Serving {
    /// Connections have tasks of their own, which end by this.
    fn drop(&mut self) {
        self.ending.cancel();
        self.cut.cancel();
    }
}
