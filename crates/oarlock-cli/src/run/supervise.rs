//! Seeing the ranks to their end: signals go to all of them, one that fails ends the others, and nothing stays behind.

use std::process::Child;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use oarlock_kernel::{Live, Proc};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use super::output::{self, Sink, say};
use super::remains;
use crate::failure::Failure;

/// After SIGKILL a process is gone at once, unless it waits for a device that does not answer.
pub(super) const GIVE_UP: Duration = Duration::from_secs(10);

/// What the supervisor waits for.
pub(super) enum Event {
    Signal(i32),
    OutputEnded,
}

/// A rank's process.
struct Rank {
    number: usize,
    /// Also the id of its process group.
    pid: Pid,
    running: bool,
}

/// How far the end of the ranks has come.
enum Stage {
    Running,
    /// They were asked to end, and have until then.
    Asked(Instant),
    /// They were killed, and are given up then.
    Killed(Instant),
}

pub(super) struct Supervisor {
    events: Receiver<Event>,
    sender: Sender<Event>,
    grace: Duration,
    ranks: Vec<Rank>,
    stage: Stage,
    /// Whether the ranks were told to end by a signal from outside.
    told: bool,
    open_outputs: usize,
    /// The exit status of the first rank that failed; 0 as long as none has.
    status: u8,
}

impl Supervisor {
    /// Takes the signals, and the orphans of this process's descendants.
    pub(super) fn prepare(grace: Duration) -> Result<Self, Failure> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .context("failed to take over the children of ended ranks")?;
        let ignored = ignored_signals();
        // A signal that was ignored when we were started (nohup) stays so.
        let forwarded = [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGQUIT].into_iter();
        let wanted = forwarded.filter(|signal| ignored & (1 << (signal - 1)) == 0).chain([SIGCHLD]);
        let mut signals = Signals::new(wanted).context("failed to take signals")?;
        let (sender, events) = mpsc::channel();
        let to_supervisor = sender.clone();
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || signals.forever().try_for_each(|signal| to_supervisor.send(Event::Signal(signal))))
            .context("failed to start a thread")?;
        Ok(Self {
            events,
            sender,
            grace,
            ranks: Vec::new(),
            stage: Stage::Running,
            told: false,
            open_outputs: 0,
            status: 0,
        })
    }

    /// Returns the exit status when all ranks have ended: that of the first failure, else 0. Where not all ranks were
    /// started, those that were are ended at once.
    pub(super) fn see_to_the_end(mut self, children: Vec<Child>, incomplete: bool) -> u8 {
        for (number, mut child) in children.into_iter().enumerate() {
            self.pass_output_on(number, &mut child);
            let Some(pid) = Pid::from_raw(child.id().cast_signed()) else { continue };
            self.ranks.push(Rank { number, pid, running: true });
        }
        if incomplete {
            self.ask_to_end();
        }
        // Some may have ended before their signal was taken.
        self.reap();
        while self.ranks.iter().any(|rank| rank.running) {
            let deadline = match self.stage {
                Stage::Running => None,
                Stage::Asked(until) | Stage::Killed(until) => Some(until),
            };
            match self.next(deadline) {
                Some(Event::Signal(SIGCHLD)) => self.reap(),
                Some(Event::Signal(signal)) => self.forward(signal),
                Some(Event::OutputEnded) => self.open_outputs -= 1,
                None => self.escalate(),
            }
        }
        if remains::end(&mut self) {
            self.drain_outputs();
        }
        self.status
    }

    /// The next event; `None` when the deadline is over.
    pub(super) fn next(&self, deadline: Option<Instant>) -> Option<Event> {
        let Some(deadline) = deadline else { return self.events.recv().ok() };
        let left = deadline.checked_duration_since(Instant::now())?;
        self.events.recv_timeout(left).ok()
    }

    /// Notes an event that means nothing to the ranks any more.
    pub(super) fn note(&mut self, event: &Event) {
        match event {
            Event::Signal(SIGCHLD) => self.reap(),
            Event::Signal(_) => {}
            Event::OutputEnded => self.open_outputs -= 1,
        }
    }

    /// The time that processes have between being asked to end and being killed.
    pub(super) fn grace(&self) -> Duration {
        self.grace
    }

    /// Takes note of every child that has ended: ranks, and orphans of theirs.
    pub(super) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let Some(rank) = self.ranks.iter_mut().find(|rank| rank.running && rank.pid == pid) else { continue };
            rank.running = false;
            let (code, words) = describe(status);
            if code == 0 || self.status != 0 {
                continue;
            }
            self.status = code;
            let others = if self.ranks.iter().any(|rank| rank.running) { ": ending the other ranks" } else { "" };
            let number = self.ranks.iter().find(|rank| rank.pid == pid).map_or(0, |rank| rank.number);
            say(&format!("rank {number} (process {}) {words}{others}", pid.as_raw_nonzero()));
            self.ask_to_end();
        }
    }

    fn ask_to_end(&mut self) {
        if !self.told {
            self.signal_all(Signal::TERM);
        }
        self.stage = Stage::Asked(Instant::now() + self.grace);
    }

    fn escalate(&mut self) {
        match self.stage {
            Stage::Running => {}
            Stage::Asked(_) => {
                self.signal_all(Signal::KILL);
                self.stage = Stage::Killed(Instant::now() + GIVE_UP);
            }
            Stage::Killed(_) => {
                for rank in self.ranks.iter_mut().filter(|rank| rank.running) {
                    rank.running = false;
                    say(&format!("rank {} (process {}) does not end", rank.number, rank.pid.as_raw_nonzero()));
                }
                self.status = self.status.max(1);
            }
        }
    }

    fn forward(&mut self, signal: i32) {
        self.told |= ends(signal);
        if let Some(signal) = Signal::from_named_raw(signal) {
            self.signal_all(signal);
        }
    }

    /// To the process groups of the ranks that run: a rank may be a shell around the program.
    fn signal_all(&self, signal: Signal) {
        for rank in self.ranks.iter().filter(|rank| rank.running) {
            // One that has just ended is taken note of soon.
            let _ = rustix::process::kill_process_group(rank.pid, signal);
        }
    }

    fn pass_output_on(&mut self, number: usize, child: &mut Child) {
        if let Some(stdout) = child.stdout.take() {
            self.output_thread(move || output::pass_on(number, stdout, Sink::Output));
        }
        if let Some(stderr) = child.stderr.take() {
            self.output_thread(move || output::pass_on(number, stderr, Sink::Error));
        }
    }

    fn output_thread(&mut self, pass_on: impl FnOnce() -> std::io::Result<()> + Send + 'static) {
        let sender = self.sender.clone();
        let started = thread::Builder::new().name("output".to_owned()).spawn(move || {
            // The rank is told by its own closed stream.
            drop(pass_on());
            drop(sender.send(Event::OutputEnded));
        });
        match started {
            Ok(_) => self.open_outputs += 1,
            Err(error) => say(&format!("the output of a rank is lost: failed to start a thread: {error}")),
        }
    }

    /// Waits until all output has found its reader, who may be slow; a signal that ends us ends the waiting.
    fn drain_outputs(&mut self) {
        while self.open_outputs > 0 {
            match self.next(None) {
                Some(Event::Signal(signal)) if ends(signal) => {
                    self.status = if self.status == 0 { (128 + signal) as u8 } else { self.status };
                    return;
                }
                Some(event) => self.note(&event),
                None => return,
            }
        }
    }
}

/// Whether a signal from outside tells a program to end.
fn ends(signal: i32) -> bool {
    matches!(signal, SIGTERM | SIGINT | SIGHUP | SIGQUIT)
}

/// A shell's exit status for how a process ended, and words.
fn describe(status: WaitStatus) -> (u8, String) {
    if let Some(signal) = status.terminating_signal() {
        return ((128 + signal) as u8, format!("was ended by signal {signal}"));
    }
    let code = status.exit_status().unwrap_or(1) as u8;
    (code, format!("exited with status {code}"))
}

/// The signals that this process was started to ignore.
fn ignored_signals() -> u64 {
    let status = Proc::open("/proc".as_ref())
        .and_then(|proc| proc.process(std::process::id()))
        .and_then(|process| process.map_or(Ok(Live::Vanished), |process| process.status()));
    match status {
        Ok(Live::Here(status)) => status.signals_ignored.unwrap_or(0),
        Ok(Live::Vanished) | Err(_) => 0,
    }
}
