//! Judging what was seen of a process against what was planned. Pure.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_core::idset::{IdSet, Kind};
use oarlock_core::request::MemPolicy;
use oarlock_core::{CpuSet, Machine, NodeSet};
use oarlock_kernel::numa_maps::NumaMaps;

use super::look::{Observed, Planned, Seen, Thread};
use super::report::{NodeReport, PlannedReport, ProcessReport, Standing, ThreadReport};

/// The report on one process. The machine says which nodes CPUs are on.
pub(super) fn judge(observed: &Observed, machine: Option<&Machine>) -> ProcessReport {
    match observed {
        Observed::Process(seen) => judge_seen(seen, machine),
        Observed::Vanished { pid } => ProcessReport {
            pid: *pid,
            status: Standing::Vanished,
            notes: vec!["it ended while it was looked at".to_owned()],
            ..ProcessReport::default()
        },
        Observed::Unreadable { pid, why } => ProcessReport {
            pid: *pid,
            status: Standing::Unreadable,
            problems: vec![format!("it cannot be seen whole: {why}")],
            ..ProcessReport::default()
        },
    }
}

fn judge_seen(seen: &Seen, machine: Option<&Machine>) -> ProcessReport {
    let mut report = ProcessReport {
        pid: seen.pid,
        parent: Some(seen.parent),
        cpus: union(seen.threads.iter().map(|thread| thread.status.cpus_allowed.clone())),
        mems: union(seen.threads.iter().map(Thread::memory)),
        policy: main_thread(seen).and_then(|thread| Some(thread.policy.as_ref()?.to_string())),
        threads: seen.threads.iter().map(thread_report).collect(),
        name: seen.name.clone(),
        ..ProcessReport::default()
    };
    let planned = match &seen.planned {
        Ok(planned) => planned.as_ref(),
        Err(why) => {
            report.problems.push(why.clone());
            None
        }
    };
    let near = near_nodes(planned, report.cpus.as_ref(), machine);
    match &seen.pages {
        Ok(Some(pages)) => {
            report.pages = node_reports(pages);
            report.mixed_anon_kib = pages.mixed.iter().map(|mapping| mapping.anonymous * mapping.page_kib).sum();
            report.locality_percent = near.as_ref().and_then(|near| locality(pages, near));
        }
        Ok(None) => report.notes.push("the kernel does not say where its pages are".to_owned()),
        Err(why) if planned.is_some() => report.problems.push(format!("its pages cannot be seen: {why}")),
        Err(why) => report.notes.push(format!("its pages cannot be seen: {why}")),
    }
    report.near_nodes = near;
    if let Some(planned) = planned {
        check_cpus(planned, &seen.threads, &mut report);
        check_memory(planned, seen, &mut report);
        report.rank = Some(planned.rank);
        report.gpus.clone_from(&planned.entry.gpus);
        report.planned = Some(PlannedReport {
            cpus: planned.entry.cpus.clone(),
            mems: planned.entry.mems.clone(),
            gpu_mems: planned.entry.gpu_mems.clone(),
            mem_policy: planned.mem_policy,
        });
    }
    report.status = match (report.problems.is_empty(), planned) {
        (false, _) => Standing::NotAsPlanned,
        (true, Some(_)) => Standing::AsPlanned,
        (true, None) => Standing::Unplanned,
    };
    report
}

/// A thread may have fewer CPUs than planned, as it may bind itself inside the wall, but no others.
fn check_cpus(planned: &Planned, threads: &[Thread], report: &mut ProcessReport) {
    let Some(cpus) = &planned.entry.cpus else { return };
    let mut wider: BTreeMap<&CpuSet, Vec<&Thread>> = BTreeMap::new();
    let mut narrower: BTreeMap<&CpuSet, Vec<&Thread>> = BTreeMap::new();
    for thread in threads {
        let Some(has) = &thread.status.cpus_allowed else { continue };
        if !has.is_subset(cpus) {
            wider.entry(has).or_default().push(thread);
        } else if has != cpus {
            narrower.entry(has).or_default().push(thread);
        }
    }
    for (has, threads) in wider {
        report.problems.push(format!("{} may run on cpus {has}; planned are {cpus}", names(&threads)));
    }
    for (has, threads) in narrower {
        report.notes.push(format!("{}: bound by the job itself to cpus {has} of {cpus}", names(&threads)));
    }
}

/// Behind a memory wall no thread may get memory from other nodes, and no anonymous page may be on one: since the wall
/// was there before the program, none can be from before. File pages are where whoever read the file first put them, and
/// pages with arguments and environment where whoever read these put them ([`oarlock_kernel::pages`]).
fn check_memory(planned: &Planned, seen: &Seen, report: &mut ProcessReport) {
    let Some(wall) = planned.wall() else { return };
    let mut wider: BTreeMap<(NodeSet, String), Vec<&Thread>> = BTreeMap::new();
    for thread in &seen.threads {
        let Some(has) = thread.memory().filter(|has| !has.is_subset(&wall)) else { continue };
        let policy = thread.policy.as_ref().map_or_else(|| "not known".to_owned(), ToString::to_string);
        wider.entry((has, policy)).or_default().push(thread);
    }
    for ((has, policy), threads) in wider {
        let names = names(&threads);
        report
            .problems
            .push(format!("{names} may get memory from nodes {has} (memory policy {policy}); planned are {wall}"));
    }
    if let Ok(Some(pages)) = &seen.pages {
        let outside = pages.anonymous_outside(&wall);
        let strings = seen.strings_outside.min(outside.count);
        if outside.count > strings {
            let (count, kib) = (outside.count, outside.kib);
            let of_these = if strings > 0 {
                format!(", {strings} of them with its arguments and environment")
            } else {
                String::new()
            };
            report.problems.push(format!(
                "{count} anonymous pages ({kib} KiB) are on other nodes than the planned {wall}{of_these}"
            ));
        } else if strings > 0 {
            report.notes.push(format!(
                "{strings} pages with its arguments and environment are on other nodes than the planned {wall}: before \
                 Linux 6.6 they may go to whoever reads them"
            ));
        }
    }
}

impl Thread {
    /// The nodes that it may get memory from, as far as is known.
    fn memory(&self) -> Option<NodeSet> {
        let allowed = self.status.mems_allowed.as_ref();
        match (self.policy.as_ref().and_then(|policy| policy.wall()), allowed) {
            (Some(wall), Some(allowed)) => Some(wall.intersection(allowed)),
            (Some(wall), None) => Some(wall.clone()),
            (None, allowed) => allowed.cloned(),
        }
    }
}

/// `thread 4107 (pt_data)`, or how many, with the first of them.
fn names(threads: &[&Thread]) -> String {
    let Some(first) = threads.first() else { return String::new() };
    let first = format!("thread {} ({})", first.status.tid, first.status.name);
    match threads.len() {
        1 => first,
        2 => format!("{first} and 1 other"),
        count => format!("{first} and {} others", count - 1),
    }
}

fn near_nodes(planned: Option<&Planned>, allowed: Option<&CpuSet>, machine: Option<&Machine>) -> Option<NodeSet> {
    if let Some(planned) = planned
        && planned.entry.mems.is_some()
    {
        // Under the policy `preferred` too: these are the near ones.
        return planned.entry.wall(MemPolicy::Bind);
    }
    let cpus = planned.and_then(|planned| planned.entry.cpus.as_ref()).or(allowed)?;
    Some(machine?.nodes_of(cpus)).filter(|nodes| !nodes.is_empty())
}

fn locality(pages: &NumaMaps, near: &NodeSet) -> Option<f64> {
    let total = pages.anonymous_total().kib;
    let outside = pages.anonymous_outside(near).kib;
    (total > 0).then(|| 100.0 * (total - outside) as f64 / total as f64)
}

fn node_reports(pages: &NumaMaps) -> Vec<NodeReport> {
    let nodes: BTreeSet<u32> = pages.anonymous.keys().chain(pages.file.keys()).copied().collect();
    let report = |node| {
        let (anonymous, file) = (pages.anonymous.get(&node), pages.file.get(&node));
        let (anonymous, file) = (anonymous.copied().unwrap_or_default(), file.copied().unwrap_or_default());
        NodeReport {
            node,
            anon_pages: anonymous.count,
            anon_kib: anonymous.kib,
            file_pages: file.count,
            file_kib: file.kib,
        }
    };
    nodes.into_iter().map(report).collect()
}

fn thread_report(thread: &Thread) -> ThreadReport {
    ThreadReport {
        tid: thread.status.tid,
        name: thread.status.name.clone(),
        cpus: thread.status.cpus_allowed.clone(),
        mems: thread.status.mems_allowed.clone(),
        policy: thread.policy.as_ref().map(ToString::to_string),
    }
}

fn main_thread(seen: &Seen) -> Option<&Thread> {
    seen.threads.iter().find(|thread| thread.status.tid == seen.pid)
}

fn union<K: Kind>(sets: impl Iterator<Item = Option<IdSet<K>>>) -> Option<IdSet<K>> {
    sets.flatten().reduce(|one, other| one.union(&other))
}

#[cfg(test)]
mod tests;
