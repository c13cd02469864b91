//! `cargo xtask vm`: emulated machines with several NUMA nodes, and scenarios that run in them.

mod guest;
mod initramfs;
mod judge;
mod kernel;
mod qemu;
mod report;
mod shape;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::packages::{self, For};
use crate::progress::Progress;
use crate::{build, workspace};
use initramfs::Initramfs;
use kernel::Kernel;
use qemu::Boot;
use report::{Line, Report};
use shape::Shape;

/// Five seconds to boot and a few to run, on a machine that does other things too.
const LIMIT: Duration = Duration::from_secs(180);

/// What every boot needs: the kernel, and our programs.
#[derive(Debug)]
pub(crate) struct Machines {
    folder: PathBuf,
    kernel: Kernel,
    programs: Vec<PathBuf>,
}

impl Machines {
    /// Sees to packages, kernel and programs.
    pub(crate) fn prepare(progress: &mut Progress) -> Result<Self> {
        progress.step("packages for the emulated machines");
        packages::require(&[For::Building, For::Machines])?;
        let folder = build::target_folder().join("vm");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        progress.step("the guest's kernel");
        let kernel = Kernel::in_folder(&folder.join("kernel"))?;
        println!("  {}", kernel.image.display());
        progress.step("our programs, optimised");
        let programs = build::release_programs(&[("oarlock-cli", "oarlock"), ("oarlock-testkit", "touch-memory")])?;
        Ok(Self { folder, kernel, programs })
    }

    /// Boots a shape, runs a scenario in it, and judges what it reports. The report of a success.
    pub(crate) fn run(&self, shape: &Shape, scenario: &str) -> Result<Report> {
        let began = Instant::now();
        let script = workspace().join(format!("tests/vm/scenarios/{scenario}.sh"));
        ensure!(script.exists(), "there is no scenario {scenario}: {} is not there", script.display());
        let name = format!("{}-{scenario}", shape.name);
        let initramfs = self.folder.join(format!("{name}.cpio"));
        self.first_root(shape, &script)?.write(&initramfs)?;
        let console = self.folder.join(format!("{name}.log"));
        let boot = Boot { kernel: &self.kernel.image, initramfs: &initramfs, disk: None, console: &console };
        let outcome = guest::boot(shape, boot, LIMIT, &mut show)?;
        let files = self.folder.join(&name);
        judge::keep_files(&outcome.report, &files)?;
        let mut complaints = outcome.complaints();
        if complaints.is_empty() {
            complaints = judge::complaints(shape, &outcome.report, &self.programs[0], &files)?;
        }
        if complaints.is_empty() {
            println!(
                "  {scenario} in {}: {} checks passed, {:.0?}",
                shape.name,
                outcome.report.passed,
                began.elapsed()
            );
            return Ok(outcome.report);
        }
        println!("{}", outcome.console_end());
        bail!("{scenario} in {} failed: {}", shape.name, complaints.join("; "));
    }

    fn first_root(&self, shape: &Shape, script: &Path) -> Result<Initramfs> {
        let mut root = Initramfs::default();
        for folder in ["proc", "sys", "dev", "tmp"] {
            root.add_folder(folder);
        }
        let scripts = workspace().join("tests/vm");
        root.add_file("init", &scripts.join("init.sh"));
        root.add_file("vm/report.sh", &scripts.join("report.sh"));
        root.add_file("vm/scenario.sh", script);
        root.add_text("vm/shape.env", shape.shell_variables());
        root.add_program("bin/busybox", &build::which("busybox").context("busybox is not on the PATH")?)?;
        for program in &self.programs {
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            root.add_program(&format!("bin/{name}"), program)?;
        }
        Ok(root)
    }
}

/// All declared shapes.
pub(crate) fn shapes() -> Result<Vec<Shape>> {
    Shape::read_all(&workspace().join("tests/vm/shapes"))
}

/// Runs every scenario of every shape.
pub(crate) fn run_all(progress: &mut Progress) -> Result<()> {
    let machines = Machines::prepare(progress)?;
    for shape in shapes()? {
        for scenario in &shape.scenarios {
            progress.step(format!("{scenario} in the emulated machine {}", shape.name));
            machines.run(&shape, scenario)?;
        }
    }
    Ok(())
}

/// Runs one scenario, or all of the shape's own.
pub(crate) fn run_one(name: &str, scenario: Option<&str>) -> Result<()> {
    let shapes = shapes()?;
    let names: Vec<&str> = shapes.iter().map(|shape| shape.name.as_str()).collect();
    let shape = shapes
        .iter()
        .find(|shape| shape.name == name)
        .with_context(|| format!("there is no shape {name}: there are {}", names.join(", ")))?;
    let mut progress = Progress::begin();
    let machines = Machines::prepare(&mut progress)?;
    let scenarios = scenario.map_or_else(|| shape.scenarios.clone(), |scenario| vec![scenario.to_owned()]);
    for scenario in &scenarios {
        progress.step(format!("{scenario} in the emulated machine {name}"));
        machines.run(shape, scenario)?;
    }
    progress.done("every scenario passed");
    Ok(())
}

/// Prints the shapes and their scenarios.
pub(crate) fn list() -> Result<()> {
    for shape in shapes()? {
        let gpus: Vec<String> = shape.gpus.iter().map(ToString::to_string).collect();
        println!(
            "{:12} {} cpus, {} nodes, gpus on {}; scenarios: {}",
            shape.name,
            shape.cpus(),
            shape.nodes.len(),
            gpus.join(","),
            shape.scenarios.join(", ")
        );
    }
    Ok(())
}

fn show(line: &Line) {
    match line {
        Line::Hello => println!("  the guest is up"),
        Line::Check { passed: true, what } => println!("  ok      {what}"),
        Line::Check { passed: false, what } => println!("  FAILED  {what}"),
        Line::Say(text) => println!("  {text}"),
        Line::File { .. } | Line::End(_) => {}
    }
}
