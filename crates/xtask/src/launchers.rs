//! Real launchers on this host: the scenario that runs under torchrun in an emulated machine, here with this host's own
//! nodes.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use oarlock_core::idset::CpuSet;

use crate::progress::Progress;
use crate::vm::Machines;
use crate::vm::report::{Line, Report};
use crate::{command, vm, workspace};

/// More than one per CPU of the smallest CI machine, and enough to have two on each of two nodes.
const RANKS: usize = 4;

/// `cargo xtask launchers`.
pub(crate) fn run() -> Result<()> {
    let mut progress = Progress::begin();
    let machines = Machines::prepare(&mut progress)?;
    progress.step("torchrun on this host");
    on_this_host(&machines)?;
    progress.done("passed");
    Ok(())
}

/// Runs the scenario here.
pub(crate) fn on_this_host(machines: &Machines) -> Result<()> {
    let debian = machines.debian()?;
    let folder = machines.folder.join("this-host");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, path) in vm::scripts() {
        fs::copy(&path, folder.join(name)).with_context(|| format!("cannot copy {}", path.display()))?;
    }
    let nodes = nodes_with_cpus(Path::new("/"))?;
    fs::write(folder.join("shape.env"), shell_variables(&nodes)).context("cannot write shape.env")?;

    let mut path = vec![debian.programs()];
    path.extend(machines.programs.iter().filter_map(|program| Some(program.parent()?.to_owned())));
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let report = folder.join("report");
    let log = folder.join("log");
    let output = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let ended = command::run(
        Command::new("sh")
            .arg("-eu")
            .arg(workspace().join("tests/vm/scenarios/torchrun.sh"))
            .current_dir(&folder)
            .env("VM", &folder)
            .env("REPORT", &report)
            .env("PATH", env::join_paths(path)?)
            .stdin(std::process::Stdio::null())
            .stderr(output.try_clone().context("cannot write the log twice")?)
            .stdout(output),
    );
    judge(&report, ended).inspect_err(|_| println!("{}", fs::read_to_string(&log).unwrap_or_default()))
}

fn judge(path: &Path, ended: Result<()>) -> Result<()> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut report = Report::default();
    for line in text.lines() {
        let line = Line::parse(line)?;
        vm::show(&line);
        report.add(line);
    }
    ended?;
    // The script itself came to its end: its shell said so.
    report.add(Line::End(0));
    let complaints = report.complaints();
    ensure!(complaints.is_empty(), "torchrun on this host failed: {}", complaints.join("; "));
    println!("  {} checks passed", report.passed);
    Ok(())
}

/// This host as a scenario's declaration: as many ranks, in block order over the nodes that this process may use.
fn shell_variables(nodes: &[(u32, CpuSet)]) -> String {
    let on: Vec<String> = (0..RANKS).map(|rank| nodes[rank * nodes.len() / RANKS].0.to_string()).collect();
    let mut lines = vec![
        "MAPS='--cpu-map numa --mem-map numa --gpus none'".to_owned(),
        format!("RANKS={RANKS}"),
        "AVERAGE=ddp".to_owned(),
        format!("RANKS_ON='{}'", on.join(" ")),
    ];
    lines.extend(nodes.iter().map(|(node, cpus)| format!("NODE_{node}_CPUS={cpus}")));
    lines.join("\n") + "\n"
}

/// The nodes that have CPUs which this process may use, and those CPUs.
fn nodes_with_cpus(root: &Path) -> Result<Vec<(u32, CpuSet)>> {
    let status = root.join("proc/self/status");
    let text = fs::read_to_string(&status).with_context(|| format!("cannot read {}", status.display()))?;
    let allowed = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let allowed: CpuSet =
        allowed.with_context(|| format!("{} has no Cpus_allowed_list", status.display()))?.trim().parse()?;
    let folder = root.join("sys/devices/system/node");
    let mut nodes = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path: PathBuf = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(id) = name.strip_prefix("node").and_then(|id| id.parse().ok()) else { continue };
        let list = path.join("cpulist");
        let text = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
        let cpus: CpuSet = text.trim().parse().with_context(|| format!("{} is no list", list.display()))?;
        let cpus = cpus.intersection(&allowed);
        if !cpus.is_empty() {
            nodes.push((id, cpus));
        }
    }
    nodes.sort();
    ensure!(!nodes.is_empty(), "{} has no node with a cpu that this process may use", folder.display());
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_hosts_nodes_are_those_with_cpus_that_we_may_use() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/self/status", "Name:\tx\nCpus_allowed_list:\t2-9\n");
        for (node, cpus) in [(0, "0-1"), (3, "4-7"), (10, "8-11"), (11, "")] {
            write(&format!("sys/devices/system/node/node{node}/cpulist"), &format!("{cpus}\n"));
        }
        write("sys/devices/system/node/online", "0-11\n");
        let nodes = nodes_with_cpus(folder.path()).unwrap();
        assert_eq!(nodes, [(3, "4-7".parse().unwrap()), (10, "8-9".parse().unwrap())]);
        assert_eq!(
            shell_variables(&nodes),
            "MAPS='--cpu-map numa --mem-map numa --gpus none'\nRANKS=4\nAVERAGE=ddp\nRANKS_ON='3 3 10 10'\nNODE_3_CPUS=4-7\nNODE_10_CPUS=8-9\n"
        );
    }

    #[test]
    fn a_failed_check_on_this_host_is_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let report = folder.path().join("report");
        fs::write(&report, "check pass a\ncheck fail b\n").unwrap();
        assert_eq!(judge(&report, Ok(())).unwrap_err().to_string(), "torchrun on this host failed: b");
        fs::write(&report, "check pass a\n").unwrap();
        judge(&report, Ok(())).unwrap();
        assert!(judge(&report, Err(anyhow::anyhow!("sh ended"))).is_err());
    }
}
