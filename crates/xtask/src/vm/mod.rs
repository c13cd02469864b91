//! `cargo xtask vm`: emulated machines with several NUMA nodes, and scenarios that run in them.

mod api_server;
mod control_plane;
mod guest;
mod initramfs;
mod judge;
mod kernel;
mod kubernetes;
mod qemu;
pub(crate) mod report;
mod runtime;
mod scenario;
mod shape;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::debian::Debian;
use crate::packages::{self, For};
use crate::progress::Progress;
use crate::{build, image, tools, workspace};
use guest::Outcome;
use initramfs::Initramfs;
use kernel::Kernel;
use qemu::Boot;
use report::Line;
use scenario::{Part, Scenario};
use shape::Shape;

/// What every boot needs: a place, and our programs.
#[derive(Debug)]
pub(crate) struct Machines {
    /// Where everything about emulated machines is kept.
    pub(crate) folder: PathBuf,
    /// `oarlock` and `touch-memory`.
    pub(crate) programs: Vec<PathBuf>,
}

impl Machines {
    /// Sees to packages and programs.
    pub(crate) fn prepare(progress: &mut Progress) -> Result<Self> {
        progress.step("packages for the emulated machines");
        packages::require(&[For::Building, For::Machines, For::Launchers])?;
        let folder = build::target_folder().join("vm");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        progress.step("our programs, optimised");
        let programs = build::release_programs(&[("oarlock-cli", "oarlock"), ("oarlock-testkit", "touch-memory")])?;
        Ok(Self { folder, programs })
    }

    /// Boots a shape, runs a scenario in it, and judges what it reports. The end of a success.
    pub(crate) fn run(&self, shape: &Shape, scenario: &Scenario) -> Result<Outcome> {
        let began = Instant::now();
        let script = workspace().join(format!("tests/vm/scenarios/{}.sh", scenario.script));
        ensure!(script.exists(), "there is no scenario {scenario}: {} is not there", script.display());
        let name = format!("{}-{scenario}", shape.name);
        let initramfs = self.folder.join(format!("{name}.cpio"));
        let needs = scenario.needs();
        let kernel = Kernel::of(scenario.linux, &self.folder)?;
        let mut root = self.first_root(shape, &script)?;
        root.add_text("vm/limit", scenario.limit().as_secs().to_string());
        let mut disk = None;
        let mut modules = Vec::new();
        if needs.contains(&Part::Torchrun) {
            modules.extend(kernel.modules(&kernel::DISK));
            disk = Some(self.debian()?.disk()?);
        }
        if needs.contains(&Part::Loop) {
            modules.extend(kernel.modules(&kernel::LOOP));
        }
        if needs.contains(&Part::KernelTests) {
            root.add_program("bin/kernel-tests", &build::library_tests("oarlock-kernel")?)?;
            // busybox's own has other names for its flags.
            root.add_program("bin/unshare", &build::which("unshare").context("unshare is not on the PATH")?)?;
        }
        if needs.contains(&Part::Runtime) {
            scenario.runtime.add_to(&mut root, &self.folder)?;
            root.add_text("vm/runtime.env", scenario.runtime.shell_variables());
        }
        if needs.contains(&Part::Kubelet) {
            root.add_program("bin/kubelet", &kubernetes::program("kubelet")?)?;
        }
        if needs.contains(&Part::Image) {
            root.add_file("vm/oarlock.tar", &image::build()?);
            root.add_file("vm/oarlock.yaml", &workspace().join("manifests/oarlock.yaml"));
        }
        let mut control_plane = None;
        if needs.contains(&Part::ControlPlane) {
            modules.extend(kernel.modules(&kernel::NETWORK));
            let (plane, ports) = control_plane::start()?;
            for (name, user) in [("admin", "admin"), ("kubelet", control_plane::NODE)] {
                root.add_text(&format!("vm/{name}.kubeconfig"), control_plane::guests_kubeconfig(user));
            }
            root.add_text("vm/kubelet.port", ports.kubelet.to_string());
            root.add_file("vm/operations.md", &workspace().join("docs/operations.md"));
            control_plane = Some((plane, ports));
            for program in ["helm", "kubectl"] {
                root.add_program(&format!("bin/{program}"), &tools::folder()?.join(program))?;
            }
            root.add_tree("vm/chart", &workspace().join("charts/oarlock"))?;
        }
        for (place, module) in modules.iter().enumerate() {
            root.add_file(&format!("vm/modules/{place:02}.ko"), module);
        }
        root.write(&initramfs)?;
        let console = self.folder.join(format!("{name}.log"));
        let boot = Boot {
            kernel: &kernel.image,
            initramfs: &initramfs,
            disk: disk.as_deref(),
            ports: control_plane.as_ref().map(|(_, ports)| *ports),
            console: &console,
        };
        let outcome = guest::boot(shape, boot, scenario.limit(), &mut show)?;
        if let Some((plane, _)) = &mut control_plane {
            plane.check()?;
        }
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
            return Ok(outcome);
        }
        println!("{}", outcome.console_end());
        bail!("{scenario} in {} failed: {}", shape.name, complaints.join("; "));
    }

    /// Debian with torchrun, as a folder.
    pub(crate) fn debian(&self) -> Result<Debian> {
        Debian::in_folder(&self.folder.join("debian"))
    }

    fn first_root(&self, shape: &Shape, script: &Path) -> Result<Initramfs> {
        let mut root = Initramfs::default();
        for folder in ["proc", "sys", "dev", "tmp", "debian"] {
            root.add_folder(folder);
        }
        root.add_text("etc/hosts", format!("127.0.0.1 localhost {}\n", shape.name));
        root.add_file("init", &workspace().join("tests/vm/init.sh"));
        for (name, path) in scripts() {
            root.add_file(&format!("vm/{name}"), &path);
        }
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

/// What every scenario may read beside it: name and path.
pub(crate) fn scripts() -> [(&'static str, PathBuf); 10] {
    [
        ("report.sh", "tests/vm"),
        ("ranks.sh", "tests/vm"),
        ("node.sh", "tests/vm"),
        ("pod.sh", "tests/vm"),
        ("hooked.sh", "tests/vm"),
        ("imaged.sh", "tests/vm"),
        ("run.sh", "tests/vm"),
        ("bus.sh", "tests/vm"),
        ("launch", "tests/vm"),
        ("train.py", "tests/launchers"),
    ]
    .map(|(name, folder)| (name, workspace().join(folder).join(name)))
}

/// All declared shapes.
pub(crate) fn shapes() -> Result<Vec<Shape>> {
    Shape::read_all(&workspace().join("tests/vm/shapes"))
}

/// What a person should know beside that all passed: names of scenarios with their shapes.
#[derive(Debug, Default)]
struct Remarks {
    /// They lack something that only their user can give.
    skipped: Vec<String>,
    /// The guest's kernel died before they passed.
    after_a_death: Vec<String>,
}

/// Runs every scenario of every shape, and says in words what passed and what was skipped.
pub(crate) fn run_all(machines: &Machines, progress: &mut Progress) -> Result<String> {
    // Not in the middle of it.
    packages::require(&[For::Image])?;
    let mut remarks = Remarks::default();
    for shape in shapes()? {
        run_scenarios(machines, &shape, &shape.scenarios, progress, &mut remarks)?;
    }
    Ok(remarks.in_words())
}

/// Runs scenarios in a shape.
fn run_scenarios(
    machines: &Machines,
    shape: &Shape,
    scenarios: &[Scenario],
    progress: &mut Progress,
    remarks: &mut Remarks,
) -> Result<()> {
    for scenario in scenarios {
        progress.step(format!("{scenario} in the emulated machine {}", shape.name));
        let name = format!("{scenario} in {}", shape.name);
        if let Some(reason) = kubernetes::lacking(&scenario.programs_of_kubernetes()) {
            println!("  SKIPPED {name}: {reason}");
            remarks.skipped.push(name);
        } else if machines.run(shape, scenario)?.deaths > 0 {
            remarks.after_a_death.push(name);
        }
    }
    Ok(())
}

impl Remarks {
    fn in_words(&self) -> String {
        let words = match self.skipped.as_slice() {
            [] => "everything passed".to_owned(),
            skipped => format!("what was run passed; {} SKIPPED ({})", skipped.len(), skipped.join(", ")),
        };
        match self.after_a_death.as_slice() {
            [] => words,
            died => format!("{words}; the guest's kernel had DIED before in {}", died.join(", ")),
        }
    }
}

/// The shape of this name.
pub(crate) fn shape(name: &str) -> Result<Shape> {
    let mut shapes = shapes()?;
    let names: Vec<&str> = shapes.iter().map(|shape| shape.name.as_str()).collect();
    let unknown = format!("there is no shape {name}: there are {}", names.join(", "));
    let place = shapes.iter().position(|shape| shape.name == name).context(unknown)?;
    Ok(shapes.swap_remove(place))
}

/// Runs one scenario, or all of the shape's own.
pub(crate) fn run_one(name: &str, scenario: Option<&str>) -> Result<()> {
    let shape = shape(name)?;
    let scenarios = match scenario {
        Some(scenario) => vec![scenario.parse()?],
        None => shape.scenarios.clone(),
    };
    let mut progress = Progress::begin();
    let machines = Machines::prepare(&mut progress)?;
    let mut remarks = Remarks::default();
    run_scenarios(&machines, &shape, &scenarios, &mut progress, &mut remarks)?;
    progress.done(remarks.in_words());
    Ok(())
}

/// Prints the shapes and their scenarios.
pub(crate) fn list() -> Result<()> {
    for shape in shapes()? {
        let gpus: Vec<String> = shape.gpus.iter().map(ToString::to_string).collect();
        let words = |scenarios: &[Scenario]| scenarios.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let by_name =
            if shape.by_name.is_empty() { String::new() } else { format!("; by name: {}", words(&shape.by_name)) };
        println!(
            "{:12} {} cpus, {} nodes, gpus on {}; scenarios: {}{by_name}",
            shape.name,
            shape.cpus(),
            shape.nodes.len(),
            gpus.join(","),
            words(&shape.scenarios)
        );
    }
    Ok(())
}

/// Prints a line of a report for whoever watches.
pub(crate) fn show(line: &Line) {
    match line {
        Line::Hello => println!("  the guest is up"),
        Line::Check { passed: true, what } => println!("  ok      {what}"),
        Line::Check { passed: false, what } => println!("  FAILED  {what}"),
        Line::Say(text) => println!("  {text}"),
        Line::File { .. } | Line::End(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_skipped_is_not_said_to_have_passed_and_what_died_is_told() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let words = |skipped, died| Remarks { skipped: names(skipped), after_a_death: names(died) }.in_words();
        assert_eq!(words(&[], &[]), "everything passed");
        assert_eq!(words(&["a in b", "c in d"], &[]), "what was run passed; 2 SKIPPED (a in b, c in d)");
        assert_eq!(words(&[], &["a in b"]), "everything passed; the guest's kernel had DIED before in a in b");
    }
}
