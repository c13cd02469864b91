//! The binder: one thread that finds the ranks of managed containers as they appear, and holds each to its place.
//!
//! The kernel says when a program is executed. That is a hint, to look sooner: what counts is a look over the processes of the
//! managed containers, at the start, after lost events, and every few seconds.

mod binding;
mod late;
mod memory;
mod numactl;
mod ward;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use oarlock_core::pci::PciAddress;
use oarlock_kernel::exec_events::{self, ExecEvent, ExecEvents};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc::UnboundedSender;

use binding::Binding;
pub(crate) use binding::{How, Told};
pub(crate) use ward::Ward;

/// Every so often the processes of all managed containers are looked at.
const SWEEP: Duration = Duration::from_secs(2);
/// Without events, so often.
const SWEEP_ALONE: Duration = Duration::from_millis(500);
/// After lost events, so soon, and not more often. Where a sweep costs much, not sooner than it takes a tenth of a CPU.
const SWEEP_AFTER_LOSS: Duration = Duration::from_millis(250);
const SWEEPING: u32 = 10;
/// However much a sweep costs, this is the longest time without one.
const SWEEP_AT_LEAST: Duration = Duration::from_secs(10);
/// Every so often the walls are checked.
const CHECK: Duration = Duration::from_secs(10);
/// Of each window, so much CPU time is spent on looks at processes that executed. Beyond that nobody listens until it is made
/// up for, and all processes of managed containers are looked at instead: whoever executes programs in a loop, or few with
/// megabytes of environment, costs a few percent of a CPU.
const WINDOW: Duration = Duration::from_millis(200);
const BUDGET: Duration = Duration::from_millis(20);
/// Events may be refused for a while only: the network namespace's part of the kernel may not be there yet.
const REOPEN: Duration = Duration::from_secs(30);

/// What the thread is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// Hold the ranks of this container.
    Keep(Box<Ward>),
    /// Leave this container alone.
    Forget(String),
    /// These processes use the GPUs.
    Used(Vec<(PciAddress, Vec<u32>)>),
}

/// The thread's end of the line. It ends when this is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Binder {
    orders: mpsc::Sender<Order>,
    wake: Arc<OwnedFd>,
}

impl Binder {
    /// Starts the thread, which tells what it does until nobody listens. It sets `gpus_asked` while it has to be told which
    /// processes use the GPUs.
    pub(crate) fn start(host_root: &Path, tell: UnboundedSender<Told>, gpus_asked: Arc<AtomicBool>) -> Result<Self> {
        let closed = tell.clone();
        let binding = Binding::open(host_root, tell)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("failed to make an eventfd")?;
        let wake = Arc::new(wake);
        let (orders, received) = mpsc::channel();
        let heard = Arc::clone(&wake);
        let run = move || Turns::new(binding, received, heard, gpus_asked).run(&closed);
        thread::Builder::new().name("binder".to_owned()).spawn(run).context("failed to start a thread")?;
        Ok(Self { orders, wake })
    }

    /// Gives an order; false where the thread has ended.
    pub(crate) fn order(&self, order: Order) -> bool {
        let given = self.orders.send(order).is_ok();
        // A full counter wakes it as well.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        given
    }
}

/// The thread at work.
struct Turns {
    binding: Binding,
    orders: mpsc::Receiver<Order>,
    wake: Arc<OwnedFd>,
    gpus_asked: Arc<AtomicBool>,
    events: Option<ExecEvents>,
    /// Why there are no events, as it was said the last time.
    said: String,
    /// What was spent on looks since when.
    spent: (Duration, Instant),
    reopen_at: Instant,
    sweep_at: Instant,
    check_at: Instant,
    /// When the last look over all processes was, and how long the next one waits at least.
    swept: (Instant, Duration),
    /// Whether a look may pass over processes that were no ranks the last time.
    lost: bool,
}

impl Turns {
    fn new(binding: Binding, orders: mpsc::Receiver<Order>, wake: Arc<OwnedFd>, gpus_asked: Arc<AtomicBool>) -> Self {
        let now = Instant::now();
        Self {
            binding,
            orders,
            wake,
            gpus_asked,
            events: None,
            said: String::new(),
            spent: (Duration::ZERO, now),
            reopen_at: now,
            sweep_at: now,
            check_at: now + CHECK,
            swept: (now, SWEEP_AFTER_LOSS),
            lost: true,
        }
    }

    fn run(mut self, tell: &UnboundedSender<Told>) {
        while !tell.is_closed() {
            let now = Instant::now();
            if self.events.is_none() && now >= self.reopen_at {
                self.open(now);
            }
            if self.orders_are_over() {
                return;
            }
            self.hear();
            let now = Instant::now();
            if now >= self.sweep_at {
                let before = cpu_time();
                self.binding.sweep_all(self.lost || self.events.is_none());
                self.binding.order_all();
                self.gpus_asked.store(self.binding.lacks_ranks(), Ordering::Relaxed);
                let pause = pause_after(cpu_time().saturating_sub(before));
                self.lost = false;
                self.swept = (now, pause);
                self.sweep_at = now + if self.events.is_some() { SWEEP } else { SWEEP_ALONE }.max(pause);
            }
            if now >= self.check_at {
                self.binding.check_all();
                self.check_at = now + CHECK;
            }
            self.wait();
        }
    }

    fn open(&mut self, now: Instant) {
        match ExecEvents::open() {
            Ok(events) => {
                self.events = Some(events);
                self.lose();
            }
            Err(error) => {
                self.reopen_at = now + REOPEN;
                let why = format!("{:#}", anyhow::Error::new(error));
                if self.said != why {
                    tracing::warn!("ranks are found by looking every {} ms: {why}", SWEEP_ALONE.as_millis());
                    self.said = why;
                }
            }
        }
    }

    /// Carries out what was ordered. Whether nobody can order any more.
    fn orders_are_over(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Keep(ward)) => self.binding.keep(*ward),
                Ok(Order::Forget(id)) => self.binding.forget(&id),
                Ok(Order::Used(used)) => self.binding.used(&used),
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => return true,
            }
        }
    }

    /// Looks at who executed a program, as far as the budget goes.
    fn hear(&mut self) {
        let entered = Instant::now();
        while let Some(events) = &self.events {
            let (began, before) = (Instant::now(), cpu_time());
            // Whoever has something to order does not wait for the end of a flood.
            if began.duration_since(entered) > WINDOW {
                return;
            }
            if began.duration_since(self.spent.1) > WINDOW {
                self.spent = (Duration::ZERO, began);
            }
            match events.next() {
                Ok(None) => return,
                Ok(Some(ExecEvent::Lost)) => self.lose(),
                Ok(Some(ExecEvent::Exec { pid, at })) => {
                    self.binding.executed(pid, || exec_events::now().checked_sub(at));
                    self.spent.0 += cpu_time().saturating_sub(before);
                    if self.spent.0 > BUDGET {
                        tracing::debug!("programs are executed faster than is looked at: not listening for a while");
                        self.events = None;
                        self.reopen_at = Instant::now() + pause_after(self.spent.0);
                        self.lose();
                    }
                }
                Err(error) => {
                    tracing::warn!("{:#}", anyhow::Error::new(error));
                    self.events = None;
                    self.lose();
                }
            }
        }
    }

    /// Events were lost: everybody is looked at soon.
    fn lose(&mut self) {
        self.lost = true;
        self.sweep_at = self.sweep_at.min(self.swept.0 + self.swept.1);
    }

    fn wait(&mut self) {
        let until =
            self.sweep_at.min(self.check_at).min(if self.events.is_none() { self.reopen_at } else { self.check_at });
        let most = until.saturating_duration_since(Instant::now());
        let most = Timespec { tv_sec: most.as_secs() as i64, tv_nsec: i64::from(most.subsec_nanos()) };
        let mut fds = vec![PollFd::new(&*self.wake, PollFlags::IN)];
        fds.extend(self.events.as_ref().map(|events| PollFd::new(events, PollFlags::IN)));
        // Whatever it is that woke us, the next turn finds it.
        let _ = poll(&mut fds, Some(&most));
        let _ = rustix::io::read(&*self.wake, &mut [0_u8; 8]);
    }
}

/// How long to wait after so much CPU time was spent, so that it is a tenth of all.
fn pause_after(spent: Duration) -> Duration {
    (spent * SWEEPING).clamp(SWEEP_AFTER_LOSS, SWEEP_AT_LEAST)
}

/// What this thread has used, also where it has to wait for a CPU in between.
fn cpu_time() -> Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cost_much_is_made_up_for_by_a_longer_pause() {
        let millis = Duration::from_millis;
        for (spent, pause) in [(1, 250), (40, 400), (300, 3_000), (60_000, 10_000)] {
            assert_eq!(pause_after(millis(spent)), millis(pause));
        }
    }
}
