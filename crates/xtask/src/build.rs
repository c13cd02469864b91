//! Where cargo builds, and building programs with it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::command;
use crate::linked;
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

/// Builds the hook, and gives its path. It is copied to hosts, whose C library may be older than this one's or another: so it
/// has its own inside. By itself: with other programs it would be linked to what they need.
pub(crate) fn hook() -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-musl", env::consts::ARCH);
    let libraries = command::capture(Command::new("rustc").args(["--print", "target-libdir", "--target", &target]))?;
    if !Path::new(libraries.trim()).exists() {
        println!("  missing: Rust's library for {target} (the hook is linked to it): rustup target add {target}");
        command::run(Command::new("rustup").args(["target", "add", &target]).current_dir(workspace()))
            .with_context(|| format!("install Rust's library for {target}, and run this again"))?;
    }
    let mut build = cargo();
    build.args(["build", "--release", "--locked", "--package", "oarlock-hook", "--bin", "oarlock-hook"]);
    command::run(build.args(["--target", &target]))?;
    let hook = target_folder().join(target).join("release/oarlock-hook");
    let loaded = linked::libraries(&hook)?;
    ensure!(loaded.is_empty(), "{} loads {loaded:?}: on another host these are others, or none", hook.display());
    Ok(hook)
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
