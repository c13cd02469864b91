//! The agent at work. Every task and thread is started here, and their ends are heard here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use oarlock_core::pci::PciAddress;
use oarlock_device_plugin::KubeletPaths;
use oarlock_device_plugin::allocate::DeviceFacts;
use oarlock_device_plugin::health::{Change, Health};
use oarlock_device_plugin::pod_resources::PodResources;
use oarlock_discovery::{Found, Options, Source, discover};
use oarlock_kernel::ledger::boot_id;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::beside::Says;
use crate::config::{Config, GpuMode};
use crate::metrics::Metrics;
use crate::nvml::{Follower, News};
use crate::offers::{self, Nvml};
use crate::place::{Given, Knowledge};
use crate::placing::{self, Placing};
use crate::plugins::Plugins;
use crate::resource::Serving;
use crate::status::Status;
use crate::view::View;
use crate::{beside, device_files, http, machine_file};

/// Runs until told to stop. An error is why it could not start, or not go on.
pub(crate) fn run(config: Config) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("failed to start the async runtime")?;
    let ended = runtime.block_on(supervise(config));
    // A call to NVML that hangs does not hold the end up.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

async fn supervise(config: Config) -> Result<()> {
    let shutdown = CancellationToken::new();
    listen_for_signals(shutdown.clone())?;
    let paths = KubeletPaths::new(&config.kubelet_root);
    let (metrics, status) = (Arc::new(Metrics::new()), Arc::new(Status::default()));
    let listener = TcpListener::bind(config.metrics_address)
        .await
        .with_context(|| format!("failed to listen at {}", config.metrics_address))?;
    let address = listener.local_addr().context("failed to learn the own address")?;
    tracing::info!(%address, "answering /metrics, /healthz and /readyz");
    let mut http = tokio::spawn(http::serve(listener, Arc::clone(&metrics), Arc::clone(&status), shutdown.clone()));

    let options = Options { nvml: false, nvml_library: None, host_root: config.host_root.clone() };
    let found = tokio::task::spawn_blocking(move || discover(&Source::Live, &options))
        .await
        .context("the reading of the machine ended early")?
        .context("failed to read this machine")?;
    let (news, mut heard) = mpsc::channel(64);
    let gpus_asked = Arc::new(AtomicBool::new(false));
    let follower = Follower {
        library: config.nvml_library.clone(),
        host_root: config.host_root.clone(),
        probe_interval: config.health.probe_interval,
        is_asked: Arc::clone(&gpus_asked),
    };
    let mut agent = Agent::new(config, paths, metrics, Arc::clone(&status), found, gpus_asked)?;
    if let Some(socket) = beside::socket_of_another(&agent.paths.device_plugins()) {
        agent.seen_beside(format!("it listens at {socket}"));
    }
    agent.offer()?;
    status.started();
    // NVML may take seconds: kubelet knows the resources by then.
    follower.start(news).context("failed to start a thread")?;

    let (another, mut seen_beside) = mpsc::channel(4);
    let (says, said) = watch::channel(None);
    let mut beside = tokio::spawn(agent.watch_beside(another, says));
    let mut view = tokio::spawn(agent.view(said).run());
    let ended = loop {
        tokio::select! {
            () = shutdown.cancelled() => break Ok(()),
            heard = heard.recv() => match heard {
                Some(news) => {
                    agent.hear(news);
                    agent.place();
                }
                None => break Err(anyhow!("the thread that follows NVML ended")),
            },
            ended = agent.plugins.ended() => match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => break Err(error.into()),
                Err(error) => break Err(anyhow::Error::new(error).context("a plugin ended early")),
            },
            ended = &mut http => break ended.context("the HTTP server ended early"),
            ended = placing_ended(agent.placing.as_mut()) => break Err(ended),
            Some(seen) = seen_beside.recv() => agent.seen_beside(seen),
            ended = &mut beside => break Err(anyhow!("the look at what happens beside ended: {ended:?}")),
            ended = &mut view => break Err(anyhow!("the task that tells of the host ended: {ended:?}")),
        }
    };
    shutdown.cancel();
    beside.abort();
    view.abort();
    if let Some(placing) = agent.placing.take() {
        placing.stop().await;
    }
    agent.plugins.stop().await;
    tracing::info!("stopped");
    ended
}

async fn placing_ended(placing: Option<&mut Placing>) -> anyhow::Error {
    match placing {
        Some(placing) => placing.ended().await,
        None => std::future::pending().await,
    }
}

/// The first signal asks to end; the second ends. A hangup is left alone: other plugins read their settings again then, and
/// who expects that is told.
fn listen_for_signals(shutdown: CancellationToken) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("failed to listen for SIGHUP")?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {
                    tracing::warn!("SIGHUP changes nothing: settings are read at the start only");
                    continue;
                }
            }
            if shutdown.is_cancelled() {
                tracing::warn!("told a second time: ending at once");
                std::process::exit(1);
            }
            tracing::info!("told to stop");
            shutdown.cancel();
        }
    });
    Ok(())
}

/// What the agent knows, and what it makes of it.
struct Agent {
    config: Config,
    paths: KubeletPaths,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    plugins: Plugins,
    found: Found,
    nvml: Nvml,
    facts: BTreeMap<PciAddress, DeviceFacts>,
    health: Health,
    /// Times of health count from here.
    since: Instant,
    /// The other plugin that gives GPUs to pods.
    beside: Option<String>,
    /// Whether NVML has said anything at all, and whether that is not heeded yet.
    settled: bool,
    is_news: bool,
    /// The last line about NVML, so that it is not said again.
    said_of_nvml: String,
    kubelet: Arc<PodResources>,
    given: Given,
    /// What places annotated containers, once the GPUs are known.
    placing: Option<Placing>,
    /// Whether that could not be started.
    cannot_place: bool,
    /// Whether it wants to know which processes use the GPUs.
    gpus_asked: Arc<AtomicBool>,
    /// The machine, for who tells of it.
    known: watch::Sender<Option<Arc<Knowledge>>>,
}

impl Agent {
    fn new(
        config: Config,
        paths: KubeletPaths,
        metrics: Arc<Metrics>,
        status: Arc<Status>,
        mut found: Found,
        gpus_asked: Arc<AtomicBool>,
    ) -> Result<Self> {
        for name in [&config.gpu.resource, &config.numa_node.resource] {
            name.socket_in(&paths.device_plugins()).with_context(|| format!("cannot serve {name}"))?;
        }
        for warning in &found.warnings {
            tracing::warn!("{warning}");
        }
        offers::place_unknown_gpus(&mut found.machine, &config.gpu.numa_nodes);
        let given = Given::default();
        let mut agent = Self {
            plugins: Plugins::new(paths.clone(), Arc::clone(&metrics), Arc::clone(&status), given.clone()),
            kubelet: Arc::new(PodResources::new(&paths)),
            given,
            placing: None,
            cannot_place: false,
            gpus_asked,
            known: watch::Sender::default(),
            health: Health::new(config.health.policy()),
            nvml: Nvml::Waiting,
            facts: BTreeMap::new(),
            since: Instant::now(),
            beside: None,
            settled: false,
            is_news: false,
            said_of_nvml: String::new(),
            config,
            paths,
            metrics,
            status,
            found,
        };
        agent.read_device_files();
        Ok(agent)
    }

    /// Whether Oarlock gives GPUs to pods.
    fn owns_gpus(&self) -> bool {
        match self.config.gpu.mode {
            GpuMode::Own => true,
            GpuMode::Observe => false,
            GpuMode::Auto => self.beside.is_none(),
        }
    }

    fn hear(&mut self, news: News) {
        let now = self.since.elapsed();
        match news {
            News::Listed { found, gpus } => self.listed(*found, gpus),
            News::Closed { missing, unloaded, why } => {
                if unloaded {
                    self.health.driver_unloaded();
                }
                self.closed(missing, &why);
            }
            News::Used(used) => {
                if let Some(placing) = &self.placing {
                    placing.used(used);
                }
            }
            News::Probed(results) => {
                let changes = self.health.round(&results, now);
                self.changed(&changes);
            }
            News::Xid { gpu, xid } => {
                let Nvml::Here(gpus) = &self.nvml else { return };
                let uuid = gpus.iter().find(|known| known.pci == gpu).and_then(|gpu| gpu.uuid.clone());
                let Some(uuid) = uuid else {
                    tracing::warn!(%gpu, xid, "an unknown gpu reported an error");
                    return;
                };
                tracing::info!(gpu = %uuid, xid, "a gpu reported an error");
                self.metrics.xid(&uuid, xid);
                let changes = self.health.xid(&uuid, xid);
                self.changed(&changes);
            }
        }
    }

    /// Places annotated containers from the first moment that the GPUs are known by their names: a container that came before
    /// is found then.
    fn place(&mut self) {
        if !std::mem::take(&mut self.is_news) {
            return;
        }
        let knowledge = placing::knowledge(&self.config, &self.found, &self.nvml, &self.given);
        self.known.send_replace(Some(Arc::new(knowledge.clone())));
        if self.cannot_place {
            return;
        }
        if let Some(placing) = &self.placing {
            placing.learn(knowledge);
            return;
        }
        let (kubelet, metrics) = (Arc::clone(&self.kubelet), Arc::clone(&self.metrics));
        match Placing::start(&self.config, knowledge, kubelet, metrics, Arc::clone(&self.gpus_asked)) {
            Ok(placing) => self.placing = Some(placing),
            // Without it there is still a device plugin.
            Err(error) => {
                tracing::error!("annotated containers are not placed: {error:#}");
                self.cannot_place = true;
            }
        }
    }

    fn listed(&mut self, mut found: Found, gpus: Vec<oarlock_discovery::nvml::Gpu>) {
        for warning in found.warnings.iter().filter(|warning| !self.found.warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        offers::place_unknown_gpus(&mut found.machine, &self.config.gpu.numa_nodes);
        offers::name_lost_gpus(&mut found.machine, &gpus);
        self.say_of_nvml(&format!("NVML lists {} gpus", gpus.len()));
        self.found = found;
        self.settle(Nvml::Here(gpus));
    }

    fn closed(&mut self, missing: bool, why: &str) {
        self.say_of_nvml(&format!("NVML cannot be used: {why}"));
        self.metrics.nvml(false);
        match &self.nvml {
            Nvml::Here(_) => {
                let changes = self.health.driver_away(why, self.since.elapsed());
                self.changed(&changes);
            }
            known => {
                let nvml = if missing { Nvml::Missing } else { Nvml::Waiting };
                if *known != nvml || !self.settled {
                    self.settle(nvml);
                }
            }
        }
    }

    /// NVML's word is known: what follows from it is.
    fn settle(&mut self, nvml: Nvml) {
        self.metrics.nvml(matches!(nvml, Nvml::Here(_)));
        self.nvml = nvml;
        (self.settled, self.is_news) = (true, true);
        self.health.set_devices(offers::watched(&self.nvml));
        self.read_device_files();
        // Without a boot's id nobody takes it for this boot's.
        let boot = boot_id(&self.config.host_root.join("proc")).unwrap_or_default();
        if let Err(error) = machine_file::write(&self.config.run_dir, &self.found, &boot, &self.config.reserved_cpus) {
            tracing::warn!(folder = %self.config.run_dir.display(), "failed to write the machine file: {error}");
        }
        self.offer_again();
    }

    fn read_device_files(&mut self) {
        let minors: BTreeMap<PciAddress, u32> = match &self.nvml {
            Nvml::Here(gpus) => gpus.iter().filter_map(|gpu| Some((gpu.pci, gpu.minor?))).collect(),
            _ => BTreeMap::new(),
        };
        let addresses = self.found.machine.gpus.iter().filter_map(|gpu| gpu.pci);
        self.facts = addresses
            .map(|address| {
                (address, device_files::facts(&self.config.host_root, address, minors.get(&address).copied()))
            })
            .collect();
    }

    fn changed(&mut self, changes: &[Change]) {
        for change in changes {
            if let Some(reason) = &change.reason {
                tracing::warn!(device = %change.id, "unhealthy: {reason}");
            } else {
                tracing::info!(device = %change.id, "healthy again");
            }
        }
        if !changes.is_empty() {
            self.offer_again();
        }
    }

    /// Offers what there is now; what goes wrong once the agent runs is told where readiness is.
    fn offer_again(&mut self) {
        if let Err(error) = self.offer() {
            tracing::error!("{error:#}");
        }
    }

    fn offer(&mut self) -> Result<()> {
        let mut serving: Vec<Serving> = offers::nodes(&self.config, &self.found.machine)?.into_iter().collect();
        if self.owns_gpus() {
            let gpu = self.config.gpu.resource.clone();
            match offers::gpus(&self.config, &self.found.machine, &self.nvml, &self.facts) {
                Ok((gpus, warnings)) => {
                    for warning in warnings {
                        tracing::warn!("{warning}");
                    }
                    self.status.trouble(&gpu, None);
                    serving.extend(gpus);
                }
                Err(error) => {
                    let error = format!("{:#}", anyhow::Error::new(error));
                    tracing::error!(resource = %gpu, "not offered: {error}");
                    self.status.trouble(&gpu, Some(error));
                }
            }
        }
        let reasons = self.health.ids().filter_map(|id| Some((id.to_owned(), self.health.reason(id)?.label())));
        let sick: BTreeMap<String, String> = reasons.collect();
        let mut counts = BTreeMap::new();
        for serving in &serving {
            *counts.entry((serving.offer.name.clone(), String::new())).or_default() += 0;
            for item in &serving.offer.items {
                let reason = sick.get(&item.id).cloned().unwrap_or_default();
                *counts.entry((serving.offer.name.clone(), reason)).or_default() += 1;
            }
        }
        self.metrics.devices(&counts);
        self.plugins.serve(serving, &sick);
        Ok(())
    }

    fn view(&self, kubelet: watch::Receiver<Option<Arc<Says>>>) -> View {
        let config = &self.config;
        View::new(&config.kubernetes, &config.reserved_cpus, Arc::clone(&self.metrics), self.known.subscribe(), kubelet)
    }

    fn watch_beside(
        &self,
        another: mpsc::Sender<String>,
        says: watch::Sender<Option<Arc<Says>>>,
    ) -> impl Future<Output = ()> + use<> {
        let gpu = &self.config.gpu;
        let names = (gpu.resource.clone(), gpu.mig_resource_prefix.clone());
        beside::watch(
            self.paths.clone(),
            Arc::clone(&self.kubelet),
            names.0,
            names.1,
            Arc::clone(&self.metrics),
            another,
            says,
        )
    }

    /// Another plugin gives GPUs to pods. From now on they are its: kubelet removes all sockets when it starts, so that its
    /// absence says nothing.
    fn seen_beside(&mut self, what: String) {
        if self.config.gpu.mode == GpuMode::Auto && self.beside.is_none() {
            tracing::info!("another plugin gives GPUs to pods ({what}): they are only observed here");
            self.beside = Some(what);
            self.offer_again();
        }
    }

    fn say_of_nvml(&mut self, line: &str) {
        if self.said_of_nvml != line {
            tracing::info!("{line}");
            line.clone_into(&mut self.said_of_nvml);
        }
    }
}
