//! What the desk sends out for people.

use oarlock_kernel::ledger::Pod;

use super::known::Known;
use super::{Desk, State};
use crate::tell::{Notice, Placed, What};

impl Desk {
    /// Tells about a container, where it is known.
    pub(crate) fn tell(&self, id: &str, what: What, words: String) {
        let state = self.state();
        match state.containers.get(id) {
            Some(known) => self.notice(&state, known, what, words),
            None => self.tell_of_hooked(&state, id, what, words),
        }
    }

    /// Tells about a container.
    pub(super) fn notice(&self, state: &State, known: &Known, what: What, words: String) {
        let pod = state.pods.get(&known.sandbox).map(|pod| pod.pod.clone());
        let pod = pod.unwrap_or_else(|| Pod { namespace: String::new(), name: String::new(), uid: String::new() });
        drop(self.out.notices.send(Notice { pod, container: known.name.clone(), what, words }));
    }

    /// What its pod's annotation is to say of a container.
    pub(super) fn annotate(&self, state: &State, known: &Known) {
        let Some(pod) = state.pods.get(&known.sandbox) else { return };
        let placement = known.placement.as_ref().filter(|_| !known.unpinned);
        drop(self.out.placements.send(Placed::Container {
            pod: pod.pod.clone(),
            from_file: pod.from_file,
            container: known.name.clone(),
            ranks: placement.map(|placement| placement.ranks.ranks.clone()).unwrap_or_default(),
        }));
    }

    /// A sandbox is gone. Its pod may have another.
    pub(super) fn pod_has_gone(&self, state: &State, uid: String) {
        if !state.pods.values().any(|pod| pod.pod.uid == uid) {
            drop(self.out.placements.send(Placed::Gone { uid }));
        }
    }
}
