//! What the Kubernetes API is told of this host itself: labels of its Node, and its `NodeResourceTopology` object, so that
//! pods are scheduled with an eye to NUMA nodes. Nothing else depends on it.
//!
//! One task, one request at a time, and none while nothing changes, but for a look each hour whether all is still as it was
//! written.

mod labels;
mod progress;
mod turn;
mod zones;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::core::GroupVersionKind;
use oarlock_core::CpuSet;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout_at};

use crate::api::{Answer, Server};
use crate::beside::Says;
use crate::config::{KubernetesConfig, TopologyConfig};
use crate::metrics::Metrics;
use crate::place::Knowledge;
use progress::{Progress, Step, Wanted};
use turn::Turn;

/// So often all is looked at again: labels may have been taken away, objects deleted, rights given, kinds installed.
const AGAIN: Duration = Duration::from_secs(3600);
/// What objects of this kind are called in the server's paths.
const PLURAL: &str = "noderesourcetopologies";

/// What is told, and from what.
#[derive(Debug)]
pub(crate) struct View {
    settings: KubernetesConfig,
    host: String,
    reserved: CpuSet,
    metrics: Arc<Metrics>,
    /// The machine, once it is known.
    machine: watch::Receiver<Option<Arc<Knowledge>>>,
    /// What kubelet says, once it says anything.
    kubelet: watch::Receiver<Option<Arc<Says>>>,
}

impl View {
    /// A view of what these two will say.
    pub(crate) fn new(
        settings: &KubernetesConfig,
        reserved: &CpuSet,
        metrics: Arc<Metrics>,
        machine: watch::Receiver<Option<Arc<Knowledge>>>,
        kubelet: watch::Receiver<Option<Arc<Says>>>,
    ) -> Self {
        let host = settings.host();
        Self { settings: settings.clone(), host, reserved: reserved.clone(), metrics, machine, kubelet }
    }

    /// Tells it, for as long as the agent lives.
    pub(crate) async fn run(mut self) {
        let settings = &self.settings;
        if settings.enabled && (settings.node_labels || settings.node_resource_topology.enabled) {
            match Server::infer().await {
                Ok(server) => self.tell(&server).await,
                Err(error) => tracing::info!("the host's Node gets no labels: {error:#}"),
            }
        }
        std::future::pending::<()>().await;
    }

    async fn tell(&mut self, server: &Server) {
        let mut turn = Turn::new(self.settings.host_interval, Instant::now());
        let mut said = Said::default();
        loop {
            let until = Instant::now() + AGAIN.mul_f64(1.0 + fastrand::f64() / 10.0);
            let mut progress = Progress::default();
            // Another look begins with the same spread as the first.
            turn.news(Instant::now(), fastrand::f64());
            while Instant::now() < until {
                match progress.next(&self.wanted()) {
                    Some(_) if Instant::now() < turn.next() => sleep_until(turn.next().into()).await,
                    Some(step) => self.send(server, step, &mut progress, &mut turn, &mut said).await,
                    None => {
                        if timeout_at(until.into(), self.changed()).await.is_ok() {
                            turn.news(Instant::now(), fastrand::f64());
                        }
                    }
                }
            }
        }
    }

    /// Sends one request, and says what is wrong with it where that is another thing than before.
    async fn send(&self, server: &Server, step: Step, progress: &mut Progress, turn: &mut Turn, said: &mut Said) {
        let metrics = &self.metrics.told;
        metrics.requested();
        let answer = match &step {
            Step::Node => match server.node(&self.host).await {
                Ok(node) => {
                    progress.saw(node);
                    Answer::Done
                }
                Err(answer) => answer,
            },
            Step::Label { uid, labels } => server.label(&self.host, uid, labels).await,
            Step::Kind => server.knows(&kind()).await,
            Step::Topology { owner, object } => {
                let object = with_metadata(object, &self.host, owner.as_deref());
                server.apply(&kind(), PLURAL, &self.host, &object).await
            }
        };
        let now = Instant::now();
        match &answer {
            Answer::Later { after, .. } => turn.failed(now, *after, fastrand::f64()),
            _ if step.writes() => turn.wrote(now, fastrand::f64()),
            _ => turn.answered(),
        }
        if step.writes() {
            metrics.told(step.about(), if answer == Answer::Done { "sent" } else { "failed" });
        }
        if let Answer::Later { why, .. } = &answer {
            return said.trouble(why, &self.host);
        }
        said.answered();
        match progress.answered(&step, &answer, &self.host) {
            Some(words) => said.word(step.about(), words),
            None if step.writes() => said.taken(step.about()),
            None => {}
        }
    }

    /// What is to be told now.
    fn wanted(&mut self) -> Wanted {
        let machine = self.machine.borrow_and_update().clone();
        let kubelet = self.kubelet.borrow_and_update().clone();
        let Some(machine) = machine else { return Wanted::default() };
        let topology = &self.settings.node_resource_topology;
        Wanted {
            labels: self.settings.node_labels.then(|| labels::labels(&machine.machine)),
            topology: kubelet
                .filter(|_| topology.enabled)
                .map(|says| json!({ "zones": zones::zones(&machine, &self.reserved, &says), "attributes": attributes(topology) })),
        }
    }

    /// Waits until something else may be to be told.
    async fn changed(&mut self) {
        // Who sends lives as long as the agent.
        let ended = tokio::select! {
            changed = self.machine.changed() => changed.is_err(),
            changed = self.kubelet.changed() => changed.is_err(),
        };
        if ended {
            std::future::pending::<()>().await;
        }
    }
}

/// What was said of it in the log, so that it is not said again.
#[derive(Debug, Default)]
struct Said {
    /// Why the server does not answer.
    trouble: Option<String>,
    /// What is wrong with each thing that is told.
    words: BTreeMap<&'static str, String>,
}

impl Said {
    fn trouble(&mut self, why: &str, host: &str) {
        if self.trouble.as_deref() != Some(why) {
            tracing::warn!("the API server cannot be told of host {host}: {why}");
            self.trouble = Some(why.to_owned());
        }
    }

    fn answered(&mut self) {
        if self.trouble.take().is_some() {
            tracing::info!("the API server answers again");
        }
    }

    fn word(&mut self, about: &'static str, words: String) {
        if self.words.get(about) != Some(&words) {
            tracing::warn!("{words}");
            self.words.insert(about, words);
        }
    }

    fn taken(&mut self, about: &str) {
        self.words.remove(about);
    }
}

fn kind() -> GroupVersionKind {
    GroupVersionKind::gvk("topology.node.k8s.io", "v1alpha2", "NodeResourceTopology")
}

/// What kubelet's Topology Manager does, in the words that schedulers read.
fn attributes(settings: &TopologyConfig) -> Value {
    let policy =
        settings.topology_manager_policy.map(|policy| json!({ "name": "topologyManagerPolicy", "value": policy }));
    let scope = settings.topology_manager_scope.map(|scope| json!({ "name": "topologyManagerScope", "value": scope }));
    policy.into_iter().chain(scope).collect()
}

/// The object of a host. It is collected with its Node.
fn with_metadata(object: &Value, host: &str, owner: Option<&str>) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = json!(kind().api_version());
    object["kind"] = json!(kind().kind);
    // By which all that the agents wrote can be found.
    object["metadata"] = json!({ "name": host, "labels": { "app.kubernetes.io/managed-by": "oarlock" } });
    if let Some(uid) = owner {
        object["metadata"]["ownerReferences"] =
            json!([{ "apiVersion": "v1", "kind": "Node", "name": host, "uid": uid }]);
    }
    object
}
