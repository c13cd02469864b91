//! The plugins that run: one for each resource.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use oarlock_device_plugin::{KubeletPaths, PluginError, ResourceName, State, serve};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::place::Given;
use crate::resource::{Resource, Serving};
use crate::status::Status;

/// How long plugins may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// All plugins of this agent.
#[derive(Debug)]
pub(crate) struct Plugins {
    paths: KubeletPaths,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    given: Given,
    running: BTreeMap<ResourceName, Running>,
    tasks: JoinSet<Result<(), PluginError>>,
}

#[derive(Debug)]
struct Running {
    resource: Arc<Resource>,
    stop: CancellationToken,
}

impl Plugins {
    pub(crate) fn new(paths: KubeletPaths, metrics: Arc<Metrics>, status: Arc<Status>, given: Given) -> Self {
        Self { paths, metrics, status, given, running: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Serves exactly these resources from now on. `sick` holds the label of the reason for each unhealthy device.
    pub(crate) fn serve(&mut self, all: Vec<Serving>, sick: &BTreeMap<String, String>) {
        let names: BTreeSet<ResourceName> = all.iter().map(|serving| serving.offer.name.clone()).collect();
        self.running.retain(|name, running| {
            let stays = names.contains(name);
            if !stays {
                tracing::info!(resource = %name, "no longer offered");
                running.stop.cancel();
                self.status.plugin(name, None);
            }
            stays
        });
        for serving in all {
            let name = serving.offer.name.clone();
            if let Some(running) = self.running.get(&name) {
                running.resource.publish(serving, sick);
                continue;
            }
            let resource = Arc::new(Resource::new(serving.clone(), Arc::clone(&self.metrics), self.given.clone()));
            resource.publish(serving, sick);
            let stop = CancellationToken::new();
            let (state, seen) = watch::channel(State::default());
            self.status.plugin(&name, Some(seen.clone()));
            self.tasks.spawn({
                let (paths, metrics) = (self.paths.clone(), Arc::clone(&self.metrics));
                let (resource, stop, name) = (Arc::clone(&resource), stop.clone(), name.clone());
                async move {
                    let counting = count(&name, seen, &metrics);
                    let (ended, ()) = tokio::join!(serve(name.clone(), resource, &paths, state, stop), counting);
                    ended
                }
            });
            self.running.insert(name, Running { resource, stop });
        }
    }

    /// A plugin ended. Never comes while none runs.
    pub(crate) async fn ended(&mut self) -> Result<Result<(), PluginError>, JoinError> {
        match self.tasks.join_next().await {
            Some(ended) => ended,
            None => std::future::pending().await,
        }
    }

    /// Ends all plugins, and waits for them a while: their sockets go with them.
    pub(crate) async fn stop(mut self) {
        for running in self.running.values() {
            running.stop.cancel();
        }
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(GRACE, all).await.is_err() {
            tracing::warn!("a plugin did not end in {} s: its socket may stay behind", GRACE.as_secs());
        }
    }
}

/// Keeps the metrics of a plugin until it ends.
async fn count(name: &ResourceName, mut seen: watch::Receiver<State>, metrics: &Metrics) {
    let mut registrations = 0;
    loop {
        let state = seen.borrow_and_update().clone();
        metrics.plugin(name, &state, state.registrations.saturating_sub(registrations));
        registrations = state.registrations;
        if seen.changed().await.is_err() {
            return;
        }
    }
}
