//! The managed containers, against the ledger's plan.

use std::collections::BTreeSet;

use oarlock_core::Machine;

use super::judge::judge;
use super::look::{Authority, look};
use super::report::{ContainerReport, ProcessReport, Report};
use crate::failure::Failure;
use crate::host::{Container, Host, Which};

/// Looks at the containers that are meant. One that was unpinned is named, and not looked into.
pub(super) fn report(host: &Host, which: &Which, machine: Option<&Machine>) -> Result<Report, Failure> {
    let found = host.find(which)?;
    let mut processes = Vec::new();
    let mut containers = Vec::new();
    for container in &found.containers {
        let own = if container.entry.unpinned { Vec::new() } else { members(host, container, machine) };
        containers.push(summary(container, &own));
        processes.extend(own);
    }
    Ok(Report::of_containers(containers, processes, found.problems))
}

fn members(host: &Host, container: &Container, machine: Option<&Machine>) -> Vec<ProcessReport> {
    let ranks = &container.entry.ranks;
    let look = |member: &crate::host::Member| {
        let seen = look(&host.proc, member.pid, Authority::Ledger { ranks, held: member.held });
        ProcessReport { container: Some(container.entry.id.clone()), ..judge(&seen, machine) }
    };
    container.members.iter().map(look).collect()
}

fn summary(container: &Container, processes: &[ProcessReport]) -> ContainerReport {
    let entry = &container.entry;
    let with: BTreeSet<u32> = processes.iter().filter_map(|process| process.rank).collect();
    let all = (0..).zip(&entry.ranks.ranks).map(|(rank, _)| rank);
    ContainerReport {
        id: entry.id.clone(),
        name: entry.name.clone(),
        namespace: entry.pod.namespace.clone(),
        pod: entry.pod.name.clone(),
        ranks: entry.ranks.ranks.len(),
        ranks_without_process: all.filter(|rank| !entry.unpinned && !with.contains(rank)).collect(),
        unpinned: entry.unpinned,
    }
}
