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

/// QEMU 7.2 itself dies, or stands still, in about one boot of fifteen.
const BOOTS: u32 = 4;
/// The first word comes after some five seconds; a machine that is silent for so long never speaks.
const FIRST_WORD: Duration = Duration::from_secs(60);
/// What a kernel says where one of its emulated CPUs has stopped for good, and all others wait for it: see
/// [`qemu::arguments`]. Seen once in some hundred guests with containers.
const STUCK: &str = "Kernel panic - not syncing: softlockup";
/// Lines of the console that are shown where a scenario failed.
const CONSOLE_END: usize = 40;

/// How a guest ended, and what it said until then.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What it said.
    pub(crate) report: Report,
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

    /// Whether QEMU died or stood still before the guest said a word. That alone is worth another boot.
    fn died_in_silence(&self) -> bool {
        !self.report.began && self.exit.is_none_or(|status| !status.success())
    }

    /// Whether an emulated CPU stopped for good.
    fn is_stuck(&self) -> bool {
        self.report.status.is_none()
            && String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).contains(STUCK)
    }

    /// The end of the console, and what QEMU itself printed.
    pub(crate) fn console_end(&self) -> String {
        let console = tail(&self.console, CONSOLE_END);
        let errors = tail(&self.errors, CONSOLE_END);
        let console = format!("--- the console's end ({}) ---\n{console}", self.console.display());
        if errors.is_empty() { console } else { format!("{console}\n--- qemu ---\n{errors}") }
    }
}

/// Boots the shape, hands every line of its report to `heard`, and gives its end.
pub(crate) fn boot(shape: &Shape, boot: Boot<'_>, limit: Duration, heard: &mut dyn FnMut(&Line)) -> Result<Outcome> {
    let mut tries = 1;
    loop {
        let outcome = boot_once(shape, boot, limit, heard)?;
        let fault = match (outcome.died_in_silence(), outcome.is_stuck()) {
            _ if tries == BOOTS => return Ok(outcome),
            (true, _) => "qemu ended before the guest's first word".to_owned(),
            (_, true) => format!("{}\n  an emulated cpu has stopped for good", outcome.console_end()),
            (false, false) => return Ok(outcome),
        };
        tries += 1;
        println!("  {fault}: boot {tries} of at most {BOOTS}");
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
        Outcome { report, exit, nonsense: Vec::new(), console: PathBuf::new(), errors: PathBuf::new() }
    }

    const ABORTED: i32 = 6;

    #[test]
    fn only_a_silent_end_of_qemu_is_tried_again() {
        assert!(outcome(&[], Some(ABORTED)).died_in_silence());
        assert!(!outcome(&["hello"], Some(ABORTED)).died_in_silence());
        assert!(!outcome(&[], Some(0)).died_in_silence(), "a panic of the guest switches the machine off");
        assert!(outcome(&[], None).died_in_silence());
        assert!(!outcome(&["hello"], None).died_in_silence(), "a scenario that hangs is a failure");
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
    fn a_kernel_that_waits_for_a_cpu_is_stuck_and_one_that_panics_for_another_reason_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let console = folder.path().join("console.log");
        let stuck = |lines: &[&str], text: &str| {
            fs::write(&console, text).unwrap();
            Outcome { console: console.clone(), ..outcome(lines, Some(0)) }.is_stuck()
        };
        let panic = "[  121.0] Kernel panic - not syncing: softlockup: hung tasks\r\n";
        assert!(stuck(&["hello", "check pass a"], panic));
        assert!(!stuck(&["hello", "check pass a", "end 0"], panic), "it has done its work");
        assert!(!stuck(&["hello"], "Kernel panic - not syncing: Attempted to kill init!\r\n"));
    }

    #[test]
    fn the_consoles_end_is_its_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        fs::write(&path, "first\r\n\r\nsecond\r\nthird\r\n").unwrap();
        assert_eq!(tail(&path, 2), "second\nthird");
    }
}
