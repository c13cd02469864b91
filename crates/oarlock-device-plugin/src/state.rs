//! How far a plugin has come, for whoever watches it: readiness, metrics, tests.

use std::fmt;
use std::path::PathBuf;

/// What [`serve`](crate::serve) tells about one resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Where it stands now.
    pub phase: Phase,
    /// Registrations that kubelet has accepted since the start.
    pub registrations: u64,
    /// `ListAndWatch` streams that are open now.
    pub streams: usize,
    /// Why the last attempt failed, with its causes; none while all is well.
    pub last_error: Option<String>,
}

impl State {
    /// Whether kubelet knows the resource and reads its devices.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Registered && self.streams > 0
    }
}

/// Where a plugin stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Phase {
    /// Nothing has been tried yet.
    #[default]
    Starting,
    /// kubelet's folder of plugin sockets is not there.
    WaitingForFolder(PathBuf),
    /// The folder is there, and kubelet's socket is not.
    WaitingForKubelet(PathBuf),
    /// Another process has taken the socket over, and is alive.
    Displaced(PathBuf),
    /// The socket cannot be served, or kubelet cannot be reached or refuses; it is tried again.
    Retrying,
    /// kubelet has accepted the registration.
    Registered,
    /// The socket is removed, and nothing runs any more.
    Stopped,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::WaitingForFolder(path) => write!(f, "waiting for {}, which is not there", path.display()),
            Self::WaitingForKubelet(path) => write!(f, "waiting for kubelet: {} is not there", path.display()),
            Self::Displaced(path) => write!(f, "another process serves {}: waiting for its end", path.display()),
            Self::Retrying => f.write_str("trying again"),
            Self::Registered => f.write_str("registered"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}
