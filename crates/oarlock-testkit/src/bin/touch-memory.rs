//! A stand-in for a rank: touches memory from several threads, says that it is ready, and stays.
//!
//! `touch-memory [--mib N] [--threads T] [--hold SECONDS] [--again SECONDS]` touches N MiB of anonymous memory, split evenly over T
//! threads (the first is the main thread), prints `READY <pid>`, and stays until standard input closes, or for SECONDS
//! where that is given (a rank's standard input is often `/dev/null`). With `--again` the main thread gives its share back
//! so often meanwhile, and touches as much anew, as a training does. A signal ends it as it ends any process.

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: touch-memory [--mib N] [--threads T] [--hold SECONDS] [--again SECONDS]";

struct Arguments {
    mib: usize,
    threads: usize,
    hold: Option<Duration>,
    again: Option<Duration>,
}

fn main() -> ExitCode {
    let Some(arguments) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match stay(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("touch-memory: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
    let mut arguments = Arguments { mib: 64, threads: 1, hold: None, again: None };
    while let Some(word) = words.next() {
        let value: u32 = words.next()?.parse().ok()?;
        match word.as_str() {
            "--mib" => arguments.mib = value as usize,
            "--threads" if value > 0 => arguments.threads = value as usize,
            "--hold" => arguments.hold = Some(Duration::from_secs(value.into())),
            "--again" if value > 0 => arguments.again = Some(Duration::from_secs(value.into())),
            _ => return None,
        }
    }
    Some(arguments)
}

fn stay(arguments: &Arguments) -> io::Result<()> {
    let share = arguments.mib * 1024 * 1024 / arguments.threads;
    let touched = Arc::new(Barrier::new(arguments.threads));
    for _ in 1..arguments.threads {
        let touched = Arc::clone(&touched);
        thread::Builder::new().name("toucher".to_owned()).spawn(move || {
            let memory = touch(share);
            touched.wait();
            loop {
                thread::park();
                std::hint::black_box(&memory);
            }
        })?;
    }
    let mut memory = touch(share);
    touched.wait();
    let mut out = io::stdout().lock();
    writeln!(out, "READY {}", std::process::id())?;
    out.flush()?;
    let began = Instant::now();
    if let Some(pause) = arguments.again {
        while arguments.hold.is_none_or(|time| began.elapsed() < time) {
            thread::sleep(pause);
            drop(memory);
            memory = touch(share);
        }
    }
    match arguments.hold {
        Some(time) => thread::sleep(time.saturating_sub(began.elapsed())),
        None => while io::stdin().read(&mut [0; 512])? > 0 {},
    }
    std::hint::black_box(&memory);
    Ok(())
}

/// Memory with every page written: zeros would be left to the kernel's zero page.
fn touch(bytes: usize) -> Vec<u8> {
    std::hint::black_box(vec![0xa5; bytes])
}
