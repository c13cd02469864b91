//! `cargo xtask fuzz`: every fuzz target for a while, from the committed seeds.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::build::target_folder;
use crate::command;
use crate::progress::Progress;
use crate::workspace;

/// Files of `fuzz/fuzz_targets`.
const TARGETS: [&str; 3] = ["annotations", "idset", "machine_file"];

/// Fuzzes each target for so many seconds. What is found stays in `fuzz/artifacts`.
pub(crate) fn run(seconds: u32) -> Result<()> {
    let mut progress = Progress::begin();
    progress.step("the fuzzer");
    require_fuzzer()?;
    for target in TARGETS {
        progress.step(format!("{target} for {seconds} s"));
        let seeds = workspace().join("fuzz/corpus").join(target);
        // The seeds are read alone; what the fuzzer finds interesting is kept among the build outputs.
        let grown = target_folder().join("fuzz").join(target);
        fs::create_dir_all(&grown).with_context(|| format!("cannot make {}", grown.display()))?;
        let mut fuzz = nightly();
        fuzz.args(["fuzz", "run", target]).args([&grown, &seeds]).arg("--").arg(format!("-max_total_time={seconds}"));
        command::run(fuzz.args(["-verbosity=0", "-print_funcs=0", "-print_final_stats=1", "-timeout=10"]))?;
    }
    progress.done("no target panicked");
    Ok(())
}

fn require_fuzzer() -> Result<()> {
    ensure!(
        quietly(nightly().arg("--version")),
        "fuzzing needs a nightly compiler: rustup toolchain install nightly --profile minimal"
    );
    if !quietly(nightly().args(["fuzz", "--version"])) {
        println!("  cargo-fuzz is missing: cargo install --locked cargo-fuzz");
        command::run(nightly().args(["install", "--locked", "cargo-fuzz"]))?;
    }
    Ok(())
}

/// rustup's cargo, told to be the nightly one: ours was told to be another by the environment.
fn nightly() -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]).current_dir(workspace());
    for variable in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTC", "RUSTDOC"] {
        command.env_remove(variable);
    }
    command
}

fn quietly(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fuzz_target_is_run_and_has_seeds() {
        let fuzz = workspace().join("fuzz");
        let mut there: Vec<String> = fs::read_dir(fuzz.join("fuzz_targets"))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        there.sort();
        assert_eq!(there, TARGETS);
        for target in TARGETS {
            let seeds = fs::read_dir(fuzz.join("corpus").join(target)).unwrap().count();
            assert!(seeds > 3, "{target} has {seeds} seeds");
        }
    }
}
