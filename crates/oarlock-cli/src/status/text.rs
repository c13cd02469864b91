//! The status for people: a line per container, and below what stands out.

use super::{ContainerStatus, HeldBy, StatusReport};
use crate::render::text::{Row, Section, Style, section};
use crate::render::words::printable;

/// So much of an id tells containers apart, as other tools print them.
const SHORT_ID: usize = 13;
/// No name or sentence takes more of a line.
const LONGEST: usize = 2000;

/// The status as text.
pub(super) fn text(report: &StatusReport, style: Style) -> String {
    let header =
        vec!["POD", "CONTAINER", "ID", "RANKS", "RUNNING", "BOUND", "CPUS", "MEMORY NODE", "EXCLUSIVE", "HELD BY"];
    let mut out = String::new();
    section(&mut out, &Section { header, rows: report.containers.iter().map(row).collect() }, style);
    let mut out = out.trim_start_matches('\n').to_owned();
    if out.is_empty() {
        "no container is managed on this host\n".clone_into(&mut out);
    }
    let mut remarks: Vec<String> = Vec::new();
    for container in &report.containers {
        let name = format!("{}/{}/{}", container.namespace, container.pod, container.name);
        remarks.extend(unbound(container).map(|ranks| format!("{name}: {ranks}")));
        remarks.extend(container.warnings.iter().map(|warning| format!("{name}: {warning}")));
    }
    remarks.extend(report.problems.iter().cloned());
    for (index, remark) in remarks.iter().enumerate() {
        out.push_str(if index == 0 { "\n" } else { "" });
        out.push_str(&style.alarm("warning: "));
        out.push_str(&printable(remark, LONGEST));
        out.push('\n');
    }
    out
}

fn row(container: &ContainerStatus) -> Row {
    let cells = vec![
        printable(&format!("{}/{}", container.namespace, container.pod), LONGEST),
        printable(&container.name, LONGEST),
        container.id.chars().take(SHORT_ID).collect(),
        container.ranks.len().to_string(),
        container.ranks_with_process.to_string(),
        container.ranks_bound.to_string(),
        container.cpus.to_string(),
        container.mems.union(&container.gpu_mems).to_string(),
        container.exclusive.to_string(),
        held_by(container).to_owned(),
    ];
    Row { cells, alarming: !container.unpinned && container.ranks_bound < container.ranks_with_process }
}

fn held_by(container: &ContainerStatus) -> &'static str {
    let running = || container.ranks.iter().filter(|rank| !rank.processes.is_empty());
    match () {
        () if container.unpinned => "nothing: unpinned by hand",
        () if running().next().is_none() => "",
        () if running().all(|rank| rank.held_by == Some(HeldBy::Cgroup)) => "rank cgroups",
        () if running().all(|rank| rank.held_by.is_some()) => "affinity",
        () => "nothing, in part",
    }
}

/// The ranks that have a process and are not within their plan, in words.
fn unbound(container: &ContainerStatus) -> Option<String> {
    let ranks = container.ranks.iter().filter(|rank| !rank.processes.is_empty() && !rank.is_bound());
    let ranks: Vec<String> = ranks.map(|rank| rank.rank.to_string()).collect();
    (!ranks.is_empty() && !container.unpinned).then(|| format!("not bound as planned: rank {}", ranks.join(", ")))
}
