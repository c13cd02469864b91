//! Headings with the time that has passed: whoever watches sees what is being done, and for how long.

use std::time::{Duration, Instant};

/// A sequence of steps.
#[derive(Debug)]
pub(crate) struct Progress {
    began: Instant,
    steps: u32,
}

impl Progress {
    /// Begins to count.
    pub(crate) fn begin() -> Self {
        Self { began: Instant::now(), steps: 0 }
    }

    /// Announces a step.
    pub(crate) fn step(&mut self, what: impl std::fmt::Display) {
        self.steps += 1;
        println!("\n== {} == {what}", clock(self.began.elapsed()));
    }

    /// Announces that all is done.
    pub(crate) fn done(&self, what: impl std::fmt::Display) {
        println!("\n== {} == {what}: {} steps", clock(self.began.elapsed()), self.steps);
    }
}

/// Minutes and seconds.
fn clock(time: Duration) -> String {
    format!("{:02}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_minutes_and_seconds() {
        assert_eq!(clock(Duration::from_secs(725)), "12:05");
    }
}
