//! `cargo xtask test`: everything that must hold before a change goes in, in the order in which it fails fastest.

use anyhow::Result;

use crate::build::cargo;
use crate::command;
use crate::generate;
use crate::launchers;
use crate::packages::{self, For};
use crate::progress::Progress;
use crate::vm::{self, Machines};

/// Runs every check, and stops at the first that fails. `fast` leaves the emulated machines out.
pub(crate) fn run(fast: bool) -> Result<()> {
    let mut progress = Progress::begin();
    progress.step("packages for building");
    packages::require(&[For::Building])?;
    progress.step("generated code");
    generate::run(true)?;
    for (what, arguments) in [
        ("format", &["fmt", "--all", "--check"][..]),
        ("clippy", &["clippy", "--workspace", "--all-targets", "--all-features", "--locked", "--", "-D", "warnings"]),
        // Documentation tests are among them.
        ("tests", &["test", "--workspace", "--locked", "--quiet"]),
        ("documentation", &["doc", "--workspace", "--no-deps", "--locked", "--quiet"]),
    ] {
        progress.step(format!("{what}: cargo {}", arguments.join(" ")));
        command::run(cargo().args(arguments).env("RUSTDOCFLAGS", "-D warnings"))?;
    }
    if fast {
        progress.done("passed, without the emulated machines");
        return Ok(());
    }
    let machines = Machines::prepare(&mut progress)?;
    progress.step("torchrun on this host");
    launchers::on_this_host(&machines)?;
    let outcome = vm::run_all(&machines, &mut progress)?;
    progress.done(outcome);
    Ok(())
}
