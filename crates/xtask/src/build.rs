//! Where cargo builds, and building programs with it.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command;
use crate::workspace;

/// Cargo, as it called us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// The folder of build outputs.
pub(crate) fn target_folder() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// Builds programs, given as package and name, and gives their paths in the same order.
pub(crate) fn release_programs(programs: &[(&str, &str)]) -> Result<Vec<PathBuf>> {
    let mut build = cargo();
    build.args(["build", "--release", "--locked"]);
    for (package, program) in programs {
        build.args(["--package", package, "--bin", program]);
    }
    command::run(&mut build)?;
    Ok(programs.iter().map(|(_, program)| target_folder().join("release").join(program)).collect())
}

/// Builds a library's own tests, and gives the program that runs them.
pub(crate) fn library_tests(package: &str) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["test", "--no-run", "--locked", "--lib", "--package", package, "--message-format", "json"]);
    let messages = command::capture(&mut build)?;
    let mut programs = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    programs.next_back().with_context(|| format!("cargo named no program for the tests of {package}"))
}

/// The first program of this name on the PATH.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}
