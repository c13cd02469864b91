//! Why a connection to a runtime ended. Runtimes only ever hang up; what they meant follows from what was going on.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why there is no connection to a runtime, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Nobody answers at the socket: no runtime, or one without NRI.
    #[error("cannot connect to {}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The runtime does not take the plugin.
    #[error("the runtime refuses the plugin: {message}")]
    Refused {
        /// What it says.
        message: String,
    },
    /// The runtime hung up before it had configured the plugin. As a rule the registration came too late for it.
    #[error(
        "the runtime hung up {after:?} after the connection, before the plugin was registered: this was too slow for it"
    )]
    RegistrationTooSlow {
        /// Between connection and end.
        after: Duration,
    },
    /// The runtime neither took the plugin nor hung up.
    #[error("the runtime has not taken the plugin within {within:?}")]
    Unanswered {
        /// How long was waited.
        within: Duration,
    },
    /// The runtime hung up on an answer that it had waited for as long as it waits.
    #[error("the runtime hung up after {after:?} of {method}: it waits {allowed:?} for an answer")]
    RequestTooSlow {
        /// The call.
        method: String,
        /// How long it was at work.
        after: Duration,
        /// How long the runtime waits.
        allowed: Duration,
    },
    /// The plugin itself would not be configured or synchronised.
    #[error("the plugin failed in {method}: {message}")]
    Unwilling {
        /// The call.
        method: String,
        /// What the plugin said.
        message: String,
    },
    /// The runtime hung up for no reason of ours: it ended, or starts anew.
    #[error("the runtime hung up")]
    Gone,
    /// Reading or writing failed.
    #[error("the connection to the runtime failed")]
    Io(#[source] io::Error),
    /// The peer does not speak the protocol.
    #[error("the runtime breaks the protocol")]
    Wire(#[from] WireError),
    /// A handler of the plugin panicked.
    #[error("the plugin panicked in {method}")]
    Panicked {
        /// The call.
        method: String,
    },
}

/// How a peer breaks the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A frame is longer than any frame may be.
    #[error("a frame of {length} bytes: at most {} are allowed", crate::mux::LONGEST_FRAME)]
    Frame {
        /// As its header says.
        length: u32,
    },
    /// More calls wait for an answer than a runtime makes.
    #[error("more than {} calls at one time", crate::session::MOST_AT_WORK)]
    Calls,
}
