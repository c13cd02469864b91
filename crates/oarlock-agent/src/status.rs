//! Whether the agent is ready, and if not, why.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use oarlock_device_plugin::{ResourceName, State};
use tokio::sync::watch;

/// What is known of all plugins.
#[derive(Debug, Default)]
pub(crate) struct Status {
    parts: Mutex<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    started: bool,
    plugins: BTreeMap<ResourceName, watch::Receiver<State>>,
    /// Resources that cannot be offered, and why.
    troubles: BTreeMap<ResourceName, String>,
}

impl Status {
    /// All plugins of the beginning are there.
    pub(crate) fn started(&self) {
        self.parts().started = true;
    }

    /// A plugin runs, or runs no more.
    pub(crate) fn plugin(&self, resource: &ResourceName, state: Option<watch::Receiver<State>>) {
        match state {
            Some(state) => drop(self.parts().plugins.insert(resource.clone(), state)),
            None => drop(self.parts().plugins.remove(resource)),
        }
    }

    /// A resource cannot be offered; `None` where it can again.
    pub(crate) fn trouble(&self, resource: &ResourceName, why: Option<String>) {
        match why {
            Some(why) => drop(self.parts().troubles.insert(resource.clone(), why)),
            None => drop(self.parts().troubles.remove(resource)),
        }
    }

    /// Why the agent is not ready; a line for each resource that is not.
    pub(crate) fn not_ready(&self) -> Option<String> {
        let parts = self.parts();
        if !parts.started {
            return Some("starting\n".to_owned());
        }
        let mut lines: Vec<String> =
            parts.troubles.iter().map(|(resource, why)| format!("{resource}: {why}\n")).collect();
        for (resource, state) in &parts.plugins {
            let state = state.borrow();
            if !state.is_ready() {
                let error = state.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
                lines.push(format!("{resource}: {}{error}\n", state.phase));
            }
        }
        (!lines.is_empty()).then(|| lines.concat())
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
