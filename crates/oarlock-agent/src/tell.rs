//! What people are told about the containers of this host: in the log, and through the Kubernetes API where there is one.
//!
//! Nobody here waits for the API server: what it is to be told lies in a bounded box until it takes it.

mod event;
mod mail;
mod pace;
mod placed;
mod quiet;
mod teller;

pub(crate) use placed::Placed;
pub(crate) use teller::Teller;

use oarlock_kernel::ledger::Pod;

/// One thing to tell about a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    /// Its pod.
    pub(crate) pod: Pod,
    /// Its name.
    pub(crate) container: String,
    /// What happened.
    pub(crate) what: What,
    /// In the words of the planner, or of whoever found it.
    pub(crate) words: String,
}

/// What happened to a container or its ranks. The names are the reasons of pod events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum What {
    /// All its ranks are held.
    RanksBound,
    /// Some or all of its ranks are not held, or not as asked for.
    RanksUnbound,
    /// A place that was changed by somebody, and put back.
    BindingDrifted,
    /// The launcher binds its ranks too: within their places, where both agree.
    LauncherBinds,
    /// The container was not started.
    BindingRefused,
}

impl What {
    /// Whether it is no cause for concern.
    pub(crate) fn is_good(self) -> bool {
        self == Self::RanksBound
    }

    /// The reason of a pod event.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::RanksBound => "RanksBound",
            Self::RanksUnbound => "RanksUnbound",
            Self::BindingDrifted => "BindingDrifted",
            Self::LauncherBinds => "LauncherBindsRanks",
            Self::BindingRefused => "BindingRefused",
        }
    }
}

impl Notice {
    /// Writes it to the log.
    pub(crate) fn log(&self) {
        let Self { pod, container, what, words } = self;
        let pod = format!("{}/{}", pod.namespace, pod.name);
        if what.is_good() {
            tracing::info!(%pod, %container, "{}: {words}", what.reason());
        } else {
            tracing::warn!(%pod, %container, "{}: {words}", what.reason());
        }
    }
}
