//! When the host may be told of next: the server is one for thousands of hosts.

use std::time::{Duration, Instant};

/// After a failure, twice as long after each further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// Longer than this no server has a host wait.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);
/// Hosts that have the same reason to write at the same time do so within this part of the time between two writes.
const SPREAD: u32 = 10;

/// When the next request may go. What is given as `share`, from 0 to 1, is another for each host and time.
#[derive(Debug)]
pub(super) struct Turn {
    /// The least time between two writes.
    interval: Duration,
    not_before: Instant,
    failures: u32,
}

impl Turn {
    /// The first is not at once: kubelet has to learn of the agent's devices, and would say that there are none.
    pub(super) fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, not_before: now + interval / SPREAD, failures: 0 }
    }

    /// When it may go.
    pub(super) fn next(&self) -> Instant {
        self.not_before
    }

    /// Something is to be told.
    pub(super) fn news(&mut self, now: Instant, share: f64) {
        self.not_before = self.not_before.max(now + self.spread(share));
    }

    /// Something was asked, and answered.
    pub(super) fn answered(&mut self) {
        self.failures = 0;
    }

    /// Something was written, or would have been.
    pub(super) fn wrote(&mut self, now: Instant, share: f64) {
        self.answered();
        self.not_before = now + self.interval + self.spread(share);
    }

    /// It is to be tried again: later, and not before the server asked to.
    pub(super) fn failed(&mut self, now: Instant, asked: Option<Duration>, share: f64) {
        let wait = (FIRST_WAIT * 2_u32.saturating_pow(self.failures.min(16))).min(LONGEST_WAIT);
        self.failures += 1;
        let wait = wait.max(asked.unwrap_or_default().min(LONGEST_ASKED));
        self.not_before = now + wait.mul_f64(1.0 + share / f64::from(SPREAD));
    }

    fn spread(&self, share: f64) -> Duration {
        (self.interval / SPREAD).mul_f64(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn an_hour_of_news_each_second_is_a_write_a_minute() {
        let began = Instant::now();
        let mut turn = Turn::new(MINUTE, began);
        let mut writes = Vec::new();
        for second in 0..3600 {
            let now = began + Duration::from_secs(second);
            turn.news(now, 0.0);
            if turn.next() <= now {
                turn.wrote(now, 0.0);
                writes.push(second);
            }
        }
        assert_eq!(writes, (0..60).map(|minute| 6 + minute * 60).collect::<Vec<_>>());
    }

    #[test]
    fn hosts_with_the_same_news_write_at_different_times() {
        let now = Instant::now();
        let wait = |share| {
            let mut turn = Turn::new(MINUTE, now);
            let later = now + MINUTE;
            turn.news(later, share);
            turn.next() - later
        };
        assert_eq!([0.0, 0.5, 1.0].map(wait), [0, 3, 6].map(Duration::from_secs));
    }

    #[test]
    fn a_server_that_fails_for_an_hour_is_asked_fifteen_times_and_one_that_asks_for_time_has_it() {
        let began = Instant::now();
        let mut turn = Turn::new(MINUTE, began);
        let mut asked = 0;
        while turn.next() < began + HOUR {
            let now = turn.next();
            turn.failed(now, None, 0.0);
            asked += 1;
        }
        assert_eq!(asked, 15);
        turn.answered();
        turn.failed(began, None, 1.0);
        assert_eq!(turn.next() - began, Duration::from_millis(1100));
        turn.failed(began, Some(Duration::from_secs(7)), 0.0);
        assert_eq!(turn.next() - began, Duration::from_secs(7));
        turn.failed(began, Some(Duration::MAX), 0.0);
        assert_eq!(turn.next() - began, HOUR);
    }
}
