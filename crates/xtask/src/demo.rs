//! `cargo xtask demo`: from a bare Debian machine to ranks that are bound and verified, with every step announced.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::progress::Progress;
use crate::vm::{self, Machines};

const SHAPE: &str = "two-socket";
const PICTURE: &str = "oarlock-demo.svg";

/// Boots two sockets with eight GPUs, runs eight ranks there, and writes the picture into the current folder.
pub(crate) fn run() -> Result<()> {
    let mut progress = Progress::begin();
    let shape = vm::shape(SHAPE)?;
    let machines = Machines::prepare(&mut progress)?;
    progress.step(format!("the emulated machine {SHAPE}: {} cpus, {} gpus", shape.cpus(), shape.gpus.len()));
    let report = machines.run(&shape, &"demo".parse()?)?.report;
    progress.step("the picture");
    let picture = report.files.get(PICTURE).with_context(|| format!("the guest sent no {PICTURE}"))?;
    fs::write(PICTURE, picture).with_context(|| format!("cannot write {PICTURE}"))?;
    println!("  {}", Path::new(PICTURE).canonicalize().unwrap_or_else(|_| PICTURE.into()).display());
    progress.done("every rank is where it was planned");
    Ok(())
}
