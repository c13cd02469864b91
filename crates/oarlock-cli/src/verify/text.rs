//! The report for people: a table, and below it what stands out.

use oarlock_core::{CpuSet, NodeSet};

use super::report::{ContainerReport, ProcessReport, Report, Standing};
use crate::render::text::{Row, Section, Style, section};
use crate::render::words::printable;

/// The report as text.
pub(super) fn text(report: &Report, style: Style) -> String {
    let header = vec!["RANK", "PID", "NAME", "GPU", "CPUS", "MEMORY NODE", "ANONYMOUS", "LOCALITY", "STATUS"];
    let mut out = String::new();
    // Processes that were asked for stand alone; those of containers below each.
    let alone = report.processes.iter().filter(|process| process.container.is_none());
    section(&mut out, &Section { header: header.clone(), rows: alone.map(row).collect() }, style);
    for container in &report.containers {
        out.push('\n');
        out.push_str(&style.heading(&title(container)));
        let own = report.processes.iter().filter(|process| process.container.as_ref() == Some(&container.id));
        let rows: Vec<Row> = own.map(row).collect();
        out.push_str(if rows.is_empty() { "\n" } else { "" });
        section(&mut out, &Section { header: header.clone(), rows }, style);
    }
    // The table comes after an empty line, and is the first thing here.
    let mut out = out.trim_start_matches('\n').to_owned();
    let alarm = style.alarm("not as planned:");
    let mut remarks: Vec<String> =
        report.problems.iter().map(|problem| format!("{alarm} {}", one_line(problem))).collect();
    for process in &report.processes {
        remarks
            .extend(process.problems.iter().map(|problem| format!("{alarm} {}: {}", who(process), one_line(problem))));
        remarks.extend(process.notes.iter().map(|note| format!("note: {}: {}", who(process), one_line(note))));
    }
    for (index, remark) in remarks.iter().enumerate() {
        out.push_str(if index == 0 { "\n" } else { "" });
        out.push_str(remark);
        out.push('\n');
    }
    if out.is_empty() { "no container is managed on this host\n".to_owned() } else { out }
}

fn title(container: &ContainerReport) -> String {
    let ContainerReport { namespace, pod, name, id, .. } = container;
    let state = match container.ranks_without_process.as_slice() {
        _ if container.unpinned => "unpinned by hand".to_owned(),
        [] => format!("{} ranks", container.ranks),
        some => {
            let some: Vec<String> = some.iter().map(u32::to_string).collect();
            format!("{} ranks, of which {} have no process", container.ranks, some.join(", "))
        }
    };
    one_line(&format!("{namespace}/{pod}/{name} ({id}): {state}"))
}

fn row(process: &ProcessReport) -> Row {
    let anonymous = process.pages.iter().filter(|node| node.anon_kib > 0);
    let cells = vec![
        process.rank.map(|rank| rank.to_string()).unwrap_or_default(),
        process.pid.to_string(),
        one_line(&process.name),
        process.gpus.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        process.cpus.as_ref().map(CpuSet::to_string).unwrap_or_default(),
        process.mems.as_ref().map(NodeSet::to_string).unwrap_or_default(),
        anonymous
            .map(|node| format!("{}: {:.1} MiB", node.node, node.anon_kib as f64 / 1024.0))
            .collect::<Vec<_>>()
            .join(", "),
        // Rounded down, so that 100 % means all of it.
        process.locality_percent.map(|percent| format!("{:.1} %", (percent * 10.0).floor() / 10.0)).unwrap_or_default(),
        match process.status {
            Standing::AsPlanned => "as planned",
            Standing::NotAsPlanned => "NOT as planned",
            Standing::Unplanned => "nothing planned",
            Standing::Vanished => "ended",
            Standing::Unreadable => "NOT readable",
        }
        .to_owned(),
    ];
    Row { cells, alarming: !process.problems.is_empty() }
}

fn who(process: &ProcessReport) -> String {
    match process.rank {
        Some(rank) => format!("rank {rank}, process {}", process.pid),
        None => format!("process {}", process.pid),
    }
}

/// Names and values come from the processes themselves.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 2000;
    printable(text, LONGEST)
}
