//! How fast the API server is asked: it is one for thousands of hosts.

use std::time::{Duration, Instant};

/// So many requests may go at once after a time of silence: a job that starts is told of at once.
const BURST: u32 = 32;
/// After them one in this time: 3,600 an hour at most.
const EACH: Duration = Duration::from_secs(1);
/// After a failure, twice as long after each further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Longer than this no server has a host wait.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// When the next request may go.
#[derive(Debug)]
pub(super) struct Pace {
    /// When all requests that went would have gone, had there been no burst.
    paid: Instant,
    failures: u32,
    not_before: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { paid: now, failures: 0, not_before: now }
    }

    /// When it may go.
    pub(super) fn next(&self, now: Instant) -> Instant {
        let turn = self.paid.checked_sub(EACH * (BURST - 1)).unwrap_or(now);
        turn.max(self.not_before)
    }

    /// One goes.
    pub(super) fn went(&mut self, now: Instant) {
        self.paid = self.paid.max(now) + EACH;
    }

    /// It was answered.
    pub(super) fn answered(&mut self) {
        self.failures = 0;
    }

    /// It is to be tried again: later, and not before the server asked to.
    pub(super) fn failed(&mut self, now: Instant, asked: Option<Duration>) {
        let wait = (FIRST_WAIT * 2_u32.saturating_pow(self.failures.min(16))).min(LONGEST_WAIT);
        self.failures += 1;
        self.not_before = now + wait.max(asked.unwrap_or_default().min(LONGEST_ASKED));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_without_end_of_news_is_a_burst_and_one_request_a_second() {
        let began = Instant::now();
        let mut pace = Pace::new(began);
        let mut now = began;
        let mut went = 0;
        while now < began + Duration::from_secs(3600) {
            now = now.max(pace.next(now));
            pace.went(now);
            went += 1;
        }
        assert_eq!(went, 3600 + 32);
        // After a silence of ten seconds there is a burst of ten.
        now += Duration::from_secs(10);
        let burst = (0..20)
            .filter(|_| {
                pace.next(now) <= now && {
                    pace.went(now);
                    true
                }
            })
            .count();
        assert_eq!(burst, 10);
    }

    #[test]
    fn after_failures_it_waits_longer_each_time_or_as_long_as_it_is_asked() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let waits: Vec<u64> = (0..8)
            .map(|_| {
                pace.failed(now, None);
                (pace.next(now) - now).as_secs()
            })
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        pace.answered();
        pace.failed(now, Some(Duration::from_secs(7)));
        assert_eq!((pace.next(now) - now).as_secs(), 7);
        pace.failed(now, Some(Duration::MAX));
        assert_eq!((pace.next(now) - now).as_secs(), 300);
    }
}
