//! One boot: start QEMU, listen until the guest is done or its time is up, and try again where the emulation itself failed.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::qemu::{self, Boot};
use super::report::{Line, Report};
use super::shape::Shape;

/// QEMU itself dies, or stands still, in about one boot of fifteen (7.2 and 10.0).
const BOOTS: u32 = 4;
/// The first word comes after five to fifteen seconds; a machine that is silent for so long never speaks.
const FIRST_WORD: Duration = Duration::from_secs(60);
/// What a kernel says when it cannot go on. On emulated CPUs that happens without a reason of ours, where one has just patched
/// code that another runs; it is counted and told all the same. See [`qemu::arguments`] for what counts as an end.
const PANIC: &str = "Kernel panic - not syncing: ";
/// The end of the guest's first process is the scenario's own.
const OWN: &str = "Attempted to kill init";
/// Lines of the console that are shown where a scenario failed.
const CONSOLE_END: usize = 40;

/// How a guest ended, and what it said until then.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What it said.
    pub(crate) report: Report,
    /// How often the guest's kernel had died in the middle before.
    pub(crate) deaths: u32,
    /// How QEMU ended; `None` where the guest's time was up.
    exit: Option<ExitStatus>,
    /// Lines that were no report.
    nonsense: Vec<String>,
    console: PathBuf,
    errors: PathBuf,
}

impl Outcome {
    /// What is wrong with this end; nothing where all is well.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut complaints = self.nonsense.clone();
        complaints.extend(self.report.complaints());
        match self.exit {
            None => complaints.push("the guest's time was up".to_owned()),
            Some(status) if !status.success() => complaints.push(format!("qemu ended with {status}")),
            Some(_) => {}
        }
        complaints
    }

    /// Why it is worth another boot: QEMU or the kernel died or stood still before the guest said a word, or the kernel has
    /// died since.
    fn fault(&self) -> Option<&'static str> {
        if !self.report.began {
            return Some("the guest ended before its first word");
        }
        let console = fs::read(&self.console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let mut panics = console.lines().filter_map(|line| line.split_once(PANIC));
        let has_panicked = self.report.status.is_none() && panics.any(|(_, reason)| !reason.starts_with(OWN));
        has_panicked.then_some("the guest's kernel has died")
    }

    /// The end of the console, and what QEMU itself printed.
    pub(crate) fn console_end(&self) -> String {
        let console = tail(&self.console, CONSOLE_END);
        let errors = tail(&self.errors, CONSOLE_END);
        let console = format!("--- the console's end ({}) ---\n{console}", self.console.display());
        if errors.is_empty() { console } else { format!("{console}\n--- qemu ---\n{errors}") }
    }
}

/// Boots the shape, hands every line of its report to `heard`, and gives its end. A cluster remembers what its node began with,
/// so that a guest that has one is not booted again once it has said a word.
pub(crate) fn boot(shape: &Shape, boot: Boot<'_>, limit: Duration, heard: &mut dyn FnMut(&Line)) -> Result<Outcome> {
    let mut deaths = 0;
    let mut tries = 1;
    loop {
        let outcome = Outcome { deaths, ..boot_once(shape, boot, limit, heard)? };
        let has_begun = outcome.report.began;
        let may_be_again = tries < BOOTS && !(has_begun && boot.ports.is_some());
        let Some(fault) = outcome.fault().filter(|_| may_be_again) else { return Ok(outcome) };
        tries += 1;
        deaths += u32::from(has_begun);
        println!("{}\n  {fault}: boot {tries} of at most {BOOTS}", outcome.console_end());
    }
}

fn boot_once(shape: &Shape, boot: Boot<'_>, limit: Duration, heard: &mut dyn FnMut(&Line)) -> Result<Outcome> {
    let errors = boot.console.with_extension("qemu.log");
    let stderr = File::create(&errors).with_context(|| format!("cannot write {}", errors.display()))?;
    let began = Instant::now();
    let (deadline, first_word) = (began + limit, began + FIRST_WORD);
    let mut child = Command::new("qemu-system-x86_64")
        .args(qemu::arguments(shape, boot))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .context("cannot run qemu-system-x86_64")?;
    let stdout = child.stdout.take().context("qemu has no standard output")?;
    let (sender, lines) = mpsc::channel();
    // Ends with QEMU, whose standard output it reads.
    thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut outcome = Outcome {
        report: Report::default(),
        deaths: 0,
        exit: None,
        nonsense: Vec::new(),
        console: boot.console.to_owned(),
        errors,
    };
    loop {
        let until = if outcome.report.began { deadline } else { deadline.min(first_word) };
        match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(text) => match Line::parse(&text) {
                Ok(line) => {
                    heard(&line);
                    outcome.report.add(line);
                }
                Err(error) => outcome.nonsense.push(error.to_string()),
            },
            Err(RecvTimeoutError::Timeout) => {
                child.kill().context("cannot end qemu")?;
                child.wait().context("cannot wait for qemu")?;
                return Ok(outcome);
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    outcome.exit = Some(child.wait().context("cannot wait for qemu")?);
    Ok(outcome)
}

fn tail(path: &Path, count: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn outcome(lines: &[&str], exit: Option<i32>) -> Outcome {
        let mut report = Report::default();
        for line in lines {
            report.add(Line::parse(line).unwrap());
        }
        let exit = exit.map(ExitStatus::from_raw);
        Outcome { report, deaths: 0, exit, nonsense: Vec::new(), console: PathBuf::new(), errors: PathBuf::new() }
    }

    const ABORTED: i32 = 6;

    #[test]
    fn an_end_without_a_word_is_tried_again_and_a_scenario_that_hangs_is_a_failure() {
        for exit in [Some(ABORTED), Some(0), None] {
            assert!(outcome(&[], exit).fault().is_some(), "{exit:?}");
            assert_eq!(outcome(&["hello"], exit).fault(), None, "{exit:?}");
        }
    }

    #[test]
    fn a_hang_a_death_and_a_failed_check_are_complaints() {
        assert_eq!(outcome(&["hello", "check pass a", "end 0"], Some(0)).complaints(), [""; 0]);
        assert_eq!(
            outcome(&["hello"], None).complaints(),
            ["the scenario did not come to its end", "the guest's time was up"]
        );
        let died = outcome(&["hello", "check pass a", "end 0"], Some(ABORTED)).complaints();
        assert!(died[0].starts_with("qemu ended with signal: 6"), "{died:?}");
    }

    #[test]
    fn a_kernel_that_has_died_is_tried_again_and_the_end_of_its_first_process_is_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let console = folder.path().join("console.log");
        let fault = |lines: &[&str], text: &str| {
            fs::write(&console, text).unwrap();
            Outcome { console: console.clone(), ..outcome(lines, Some(0)) }.fault()
        };
        let panic = "[  121.0] Kernel panic - not syncing: softlockup: hung tasks\r\n";
        assert!(fault(&["hello", "check pass a"], panic).is_some());
        assert_eq!(fault(&["hello", "check pass a", "end 0"], panic), None, "it has done its work");
        assert_eq!(fault(&["hello"], "Kernel panic - not syncing: Attempted to kill init!\r\n"), None);
    }

    #[test]
    fn the_consoles_end_is_its_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        fs::write(&path, "first\r\n\r\nsecond\r\nthird\r\n").unwrap();
        assert_eq!(tail(&path, 2), "second\nthird");
    }
}
