//! The part of the agent that places annotated containers: the runtime's plugin, the desk, the binder, and who is told.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use oarlock_core::pci::PciAddress;
use oarlock_device_plugin::advertise::Thing;
use oarlock_device_plugin::pod_resources::PodResources;
use oarlock_discovery::Found;
use oarlock_kernel::ledger::{HEEDED_EVERY, boot_id};
use oarlock_kernel::presence::Presence;
use oarlock_nri::Settings;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::binder::{Binder, Order, Told};
use crate::cgroups::Cgroups;
use crate::config::Config;
use crate::desk::{Desk, Outlets, Rules};
use crate::metrics::Metrics;
use crate::offers::{self, Nvml};
use crate::place::{Given, Knowledge, OwnResources};
use crate::ranks::Ranks;
use crate::runtime::{OfRuntime, do_all};
use crate::tell::{Notice, Placed, Teller};

/// So often is looked where the memory of containers is.
const MEMORY_LOOK: Duration = Duration::from_secs(30);
/// So often is looked which containers of the hook are gone, where the hook itself did not say so.
const HOOKED_LOOK: Duration = Duration::from_secs(2);

/// All that places containers, running.
#[derive(Debug)]
pub(crate) struct Placing {
    desk: Arc<Desk>,
    metrics: Arc<Metrics>,
    ranks: Ranks,
    told: UnboundedReceiver<Told>,
    notices: UnboundedReceiver<Notice>,
    placements: UnboundedReceiver<Placed>,
    teller: Arc<Teller>,
    tasks: JoinSet<&'static str>,
    shutdown: CancellationToken,
    orders: UnboundedSender<Order>,
}

impl Placing {
    /// Starts everything. `gpus_asked` is set while it matters which processes use the GPUs.
    pub(crate) fn start(
        config: &Config,
        knowledge: Knowledge,
        kubelet: Arc<PodResources>,
        metrics: Arc<Metrics>,
        gpus_asked: Arc<AtomicBool>,
    ) -> Result<Self> {
        let shutdown = CancellationToken::new();
        let (tell, told) = mpsc::unbounded_channel();
        let (notices, noticed) = mpsc::unbounded_channel();
        let (placements, placed) = mpsc::unbounded_channel();
        let (orders, mut ordered) = mpsc::unbounded_channel();
        let (changes, changed) = mpsc::unbounded_channel();
        let rules = Rules {
            reserved: config.reserved_cpus.clone(),
            container_cpuset: config.container_cpuset,
            run_dir: config.run_dir.clone(),
            boot: boot_id(&config.host_root.join("proc")).context("cannot tell this boot from another")?,
        };
        let cgroups = Cgroups::open(&config.host_root)?;
        let binder = Binder::start(&config.host_root, tell, gpus_asked)?;
        let outlets = Outlets { orders: orders.clone(), notices, placements, changes };
        let desk = Arc::new(Desk::new(rules, knowledge, cgroups, outlets));
        let teller = Arc::new(Teller::new(&config.kubernetes, Arc::clone(&metrics)));
        let (plugin, wanted) = OfRuntime::new(Arc::clone(&desk), kubelet, Arc::clone(&metrics));
        let plugin = Arc::new(plugin);
        let settings = Settings {
            socket: config.nri.socket.clone(),
            ..Settings::new(config.nri.identity().context("nri.index")?)
        };

        let mut tasks = JoinSet::new();
        let changing = plugin.change(changed);
        tasks.spawn({
            let teller = Arc::clone(&teller);
            async move {
                teller.run().await;
                "the task that tells the API server"
            }
        });
        tasks.spawn(async move {
            tracing::error!("{:#}", anyhow::Error::new(do_all(wanted).await));
            "what the runtime's plugin left to be done"
        });
        tasks.spawn(async move {
            changing.await;
            "the task that hands changes to the runtime"
        });
        tasks.spawn(async move {
            while let Some(order) = ordered.recv().await {
                if !binder.order(order) {
                    break;
                }
            }
            "the binder"
        });
        tasks.spawn({
            let (shutdown, with_nri) = (shutdown.clone(), config.nri.enabled);
            async move {
                if with_nri {
                    oarlock_nri::run(&settings, plugin, &shutdown).await;
                } else {
                    // What the hook places has ranks, too. The plugin is kept, and never called.
                    shutdown.cancelled().await;
                    drop(plugin);
                }
                "the runtime's plugin"
            }
        });
        tasks.spawn({
            let desk = Arc::clone(&desk);
            async move {
                let mut turns = interval(HEEDED_EVERY);
                turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    turns.tick().await;
                    desk.heed_unpinned();
                    desk.heed_ended();
                    desk.heed_hooks();
                }
            }
        });
        tasks.spawn(look_at_hooked(Arc::clone(&desk), config.run_dir.clone()));
        tasks.spawn(look_at_memory(Arc::clone(&desk), Arc::clone(&metrics)));
        let ranks = Ranks::new(Arc::clone(&desk), Arc::clone(&metrics));
        Ok(Self { desk, metrics, ranks, told, notices: noticed, placements: placed, teller, tasks, shutdown, orders })
    }

    /// Carries on until a part has ended, which none does by itself.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        loop {
            tokio::select! {
                Some(told) = self.told.recv() => self.ranks.hear(told),
                Some(notice) = self.notices.recv() => {
                    notice.log();
                    self.metrics.ranks.notice(notice.what);
                    self.teller.notice(&notice);
                }
                Some(placed) = self.placements.recv() => self.teller.placed(placed),
                Some(ended) = self.tasks.join_next() => return match ended {
                    Ok(who) => anyhow!("{who} ended"),
                    Err(error) => anyhow::Error::new(error).context("a part that places containers ended early"),
                },
                else => return anyhow!("all that places containers ended"),
            }
        }
    }

    /// The machine is known better.
    pub(crate) fn learn(&self, knowledge: Knowledge) {
        self.desk.learn(knowledge);
    }

    /// These processes use the GPUs.
    pub(crate) fn used(&self, used: Vec<(PciAddress, Vec<u32>)>) {
        drop(self.orders.send(Order::Used(used)));
    }

    /// Leaves the runtime. Ranks stay held.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Lets the hook know that an agent is here, from when a predecessor has ended, and looks which of its containers are gone.
async fn look_at_hooked(desk: Arc<Desk>, run_dir: PathBuf) -> &'static str {
    let mut turns = interval(HOOKED_LOOK);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut presence = None;
    loop {
        turns.tick().await;
        if presence.is_none() {
            presence = Presence::announce(&run_dir).ok().flatten();
        }
        desk.forget_hooked();
    }
}

/// Looks where the memory of managed containers is, by the counters of their cgroups. `/proc/PID/numa_maps` would tell it
/// page by page; reading that walks a job's page tables and holds its memory's lock, which a training job pays for.
async fn look_at_memory(desk: Arc<Desk>, metrics: Arc<Metrics>) -> &'static str {
    let mut turns = interval(MEMORY_LOOK);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let desk = Arc::clone(&desk);
        let Ok(memory) = tokio::task::spawn_blocking(move || desk.memory()).await else {
            return "the look at containers' memory";
        };
        metrics.ranks.memory(memory);
    }
}

/// What is known of the machine and its devices.
pub(crate) fn knowledge(config: &Config, found: &Found, nvml: &Nvml, given: &Given) -> Knowledge {
    let mut slices = BTreeMap::new();
    if let Nvml::Here(gpus) = nvml {
        for gpu in gpus {
            slices.extend(gpu.mig.iter().flatten().map(|part| (part.uuid.clone(), gpu.pci)));
        }
    }
    let mut slots = BTreeMap::new();
    if let Ok(Some(nodes)) = offers::nodes(config, &found.machine) {
        for item in nodes.offer.items {
            if let Thing::Node { node, cpus, .. } = item.thing {
                slots.insert(item.id, (node, cpus));
            }
        }
    }
    Knowledge {
        machine: found.machine.clone(),
        slices,
        slots,
        given: given.clone(),
        own: OwnResources {
            gpu: config.gpu.resource.to_string(),
            mig_prefix: config.gpu.mig_resource_prefix.clone(),
            numa_node: config.numa_node.resource.to_string(),
        },
    }
}
