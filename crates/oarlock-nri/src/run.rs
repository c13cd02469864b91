//! A plugin that stays connected.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::select;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::identity::Identity;
use crate::lost::Lost;
use crate::plugin::Plugin;
use crate::session::serve;

/// Where runtimes listen unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/nri/nri.sock";

/// The first pause before another attempt.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause while nobody listens: a runtime that is back has its plugin within a second.
const LONGEST_PAUSE_UNREACHABLE: Duration = Duration::from_millis(500);

/// The longest pause while the runtime is there and hangs up again and again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A connection that held this long was a good one.
const GOOD: Duration = Duration::from_secs(10);

/// How a plugin meets its runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The runtime's socket.
    pub socket: PathBuf,
    /// The plugin's index and name.
    pub identity: Identity,
    /// How long the runtime may take to configure the plugin. It takes one plugin after the other.
    pub patience: Duration,
}

impl Settings {
    /// The usual socket, and a patience of a minute.
    pub fn new(identity: Identity) -> Self {
        Self { socket: DEFAULT_SOCKET.into(), identity, patience: Duration::from_secs(60) }
    }
}

/// Connects a plugin to the runtime, and again whenever the connection is lost, until `shutdown` is cancelled. Each time
/// it is configured and synchronised anew.
pub async fn run<P: Plugin>(settings: &Settings, plugin: Arc<P>, shutdown: &CancellationToken) {
    let mut backoff = Backoff::default();
    let mut last = String::new();
    while !shutdown.is_cancelled() {
        let began = Instant::now();
        let lost = match connect(settings, &plugin, shutdown).await {
            Ok(()) => return,
            Err(lost) => lost,
        };
        let pause = backoff.after(&lost, began.elapsed());
        // The same words again and again help nobody.
        let words = words(&lost);
        if words == last {
            tracing::debug!(plugin = %settings.identity, "{words}");
        } else {
            tracing::warn!(plugin = %settings.identity, "{words}");
        }
        last = words;
        plugin.lost(&lost);
        select! {
            () = sleep(pause) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

async fn connect<P: Plugin>(settings: &Settings, plugin: &Arc<P>, shutdown: &CancellationToken) -> Result<(), Lost> {
    let path = &settings.socket;
    let unreachable = |source| Lost::Unreachable { path: path.clone(), source };
    let connection = select! {
        connection = UnixStream::connect(path) => connection.map_err(unreachable)?,
        () = shutdown.cancelled() => return Ok(()),
    };
    serve(connection, &settings.identity, Arc::clone(plugin), settings.patience, shutdown).await
}

/// The pauses between attempts.
#[derive(Debug, Default)]
struct Backoff {
    /// Attempts in a row that failed alike.
    attempts: u32,
    /// Whether nobody listened at the last one.
    unreachable: bool,
}

impl Backoff {
    /// The pause after a connection that was lost after `held`.
    fn after(&mut self, lost: &Lost, held: Duration) -> Duration {
        let unreachable = matches!(lost, Lost::Unreachable { .. });
        if unreachable != self.unreachable || held >= GOOD {
            *self = Self { attempts: 0, unreachable };
        }
        let longest = if unreachable { LONGEST_PAUSE_UNREACHABLE } else { LONGEST_PAUSE };
        let pause = SHORTEST_PAUSE.saturating_mul(2_u32.saturating_pow(self.attempts)).min(longest);
        self.attempts = self.attempts.saturating_add(1);
        pause
    }
}

/// The error and its causes.
fn words(lost: &Lost) -> String {
    let mut text = lost.to_string();
    let mut cause = std::error::Error::source(lost);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable() -> Lost {
        Lost::Unreachable { path: "/s".into(), source: std::io::ErrorKind::NotFound.into() }
    }

    #[test]
    fn a_runtime_that_is_back_has_its_plugin_within_a_second() {
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            assert!(backoff.after(&unreachable(), Duration::ZERO) <= Duration::from_millis(500));
        }
        assert_eq!(backoff.after(&Lost::Gone, Duration::ZERO), SHORTEST_PAUSE);
    }

    #[test]
    fn a_runtime_that_hangs_up_again_and_again_is_asked_ever_more_rarely() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> =
            (0..9).map(|_| backoff.after(&Lost::Gone, Duration::from_secs(9)).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        assert_eq!(backoff.after(&Lost::Gone, Duration::from_secs(10)), SHORTEST_PAUSE, "after a good connection");
    }

    #[test]
    fn causes_are_told_once() {
        assert_eq!(words(&unreachable()), "cannot connect to /s: entity not found");
    }
}
