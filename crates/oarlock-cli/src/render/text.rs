//! Machines and plans as aligned tables. Cells never wrap: a list of CPUs that is cut in two is no use to anybody.

mod links;

use std::ffi::OsStr;
use std::fmt::Write as _;

use anstyle::AnsiColor;
use comfy_table::{CellAlignment, Table, presets};
use oarlock_core::idset::{CpuSet, NodeSet};
use oarlock_core::locality::Locality;
use oarlock_core::machine::{Machine, Node, PciDevice};
use oarlock_core::plan::{Plan, RankPlan};
use oarlock_core::request::MemPolicy;

use super::words;

/// More nodes than this print their distances in groups, not as a matrix.
const WIDEST_MATRIX: usize = 16;
/// No name from outside takes more of a table than this many characters.
const LONGEST_NAME: usize = 60;
/// A sentence may be long, but not a page.
const LONGEST_SENTENCE: usize = 2000;

/// How text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Style {
    /// Whether escape sequences for colour are written.
    pub(crate) color: bool,
}

impl Style {
    /// Colour on a terminal only, and never where `NO_COLOR` is set to anything but nothing (its own rule).
    pub(crate) fn choose(is_terminal: bool, no_color: Option<&OsStr>) -> Self {
        Self { color: is_terminal && no_color.is_none_or(OsStr::is_empty) }
    }

    fn paint(self, style: anstyle::Style, text: &str) -> String {
        if self.color { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    pub(crate) fn heading(self, text: &str) -> String {
        self.paint(anstyle::Style::new().bold(), text)
    }

    pub(crate) fn alarm(self, text: &str) -> String {
        self.paint(AnsiColor::Yellow.on_default().bold(), text)
    }
}

/// The machine: its nodes, distances, GPUs, their links and network devices, what of it may be used here, and what a person should
/// know about the source.
pub(crate) fn topology(
    machine: &Machine,
    allowed_cpus: Option<&CpuSet>,
    allowed_mems: Option<&NodeSet>,
    warnings: &[String],
    style: Style,
) -> String {
    let mut out = String::new();
    let name = words::printable(&machine.name, LONGEST_NAME);
    line(&mut out, &format!("{}  {}", style.heading(&name), words::summary(machine)));
    section(&mut out, &nodes(machine), style);
    section(&mut out, &distances(machine), style);
    section(&mut out, &gpus(machine), style);
    section(&mut out, &links::links(machine), style);
    section(&mut out, &nics(machine), style);
    if allowed_cpus.is_some() || allowed_mems.is_some() {
        out.push('\n');
        line(&mut out, &format!("{}  {}", style.heading("allowed here"), allowed(machine, allowed_cpus, allowed_mems)));
    }
    append_warnings(&mut out, warnings, style);
    out
}

/// The plan: the maps, the container, one row per rank, the warnings.
pub(crate) fn plan(machine: &Machine, plan: &Plan, style: Style) -> String {
    let mut out = String::new();
    let name = words::printable(&plan.machine, LONGEST_NAME);
    line(&mut out, &format!("{}  {}", style.heading(&name), words::summary(machine)));
    let maps = format!("cpu-map {}  mem-map {}  mem-policy {}", plan.cpu_map, plan.mem_map, plan.mem_policy);
    line(&mut out, &format!("{}  {}", style.heading("asked    "), words::printable(&maps, LONGEST_SENTENCE)));
    let container = &plan.container;
    let mut whole = format!(
        "cpus {} ({})  memory nodes {}",
        or_dash(&container.cpus),
        container.cpus.len(),
        or_dash(&container.mems)
    );
    if !container.gpu_mems.is_empty() {
        let _ = write!(whole, "  GPU memory nodes {}", container.gpu_mems);
    }
    line(&mut out, &format!("{}  {whole}", style.heading("container")));
    section(&mut out, &ranks(plan), style);
    append_warnings(&mut out, &plan.warnings, style);
    out
}

/// A table to be: a row that stands out is painted whole.
pub(crate) struct Section {
    pub(crate) header: Vec<&'static str>,
    pub(crate) rows: Vec<Row>,
}

/// One row of a table, with a cell for every column of the header.
pub(crate) struct Row {
    pub(crate) cells: Vec<String>,
    pub(crate) alarming: bool,
}

/// Appends a table after an empty line; nothing where it has no rows.
pub(crate) fn section(out: &mut String, section: &Section, style: Style) {
    if section.rows.is_empty() {
        return;
    }
    out.push('\n');
    // A column that no row fills says nothing.
    let used: Vec<usize> = (0..section.header.len())
        .filter(|&column| section.rows.iter().any(|row| !row.cells[column].is_empty()))
        .collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(used.iter().map(|&column| section.header[column]));
    for row in &section.rows {
        table.add_row(used.iter().map(|&column| &row.cells[column]));
    }
    for (column, &index) in table.column_iter_mut().zip(&used) {
        column.set_padding((0, 2));
        if section.rows.iter().all(|row| row.cells[index].bytes().all(|byte| byte.is_ascii_digit())) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut lines = table.lines();
    if let Some(header) = lines.next() {
        line(out, &style.heading(header.trim_end()));
    }
    for (text, row) in lines.zip(&section.rows) {
        let text = text.trim_end();
        line(out, &if row.alarming { style.alarm(text) } else { text.to_owned() });
    }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text.trim_end());
    out.push('\n');
}

fn append_warnings(out: &mut String, warnings: &[impl ToString], style: Style) {
    if !warnings.is_empty() {
        out.push('\n');
    }
    for warning in warnings {
        line(out, &format!("{} {}", style.alarm("warning:"), words::printable(&warning.to_string(), LONGEST_SENTENCE)));
    }
}

fn or_dash(set: &impl ToString) -> String {
    let text = set.to_string();
    if text.is_empty() { "-".to_owned() } else { text }
}

fn nodes(machine: &Machine) -> Section {
    let rows = machine.nodes.iter().map(|node| Row {
        cells: vec![
            node.id.to_string(),
            or_dash(&node.cpus),
            node.cpus.len().to_string(),
            words::node_memory(node),
            packages_of(machine, node),
            gpus_of(machine, node),
            match node.gpu_memory {
                true => "GPU memory: never planned".to_owned(),
                false if node.cpus.is_empty() => "no cpus".to_owned(),
                false => String::new(),
            },
        ],
        alarming: false,
    });
    Section { header: vec!["NODE", "CPUS", "COUNT", "MEMORY", "PACKAGE", "GPUS", "NOTE"], rows: rows.collect() }
}

fn packages_of(machine: &Machine, node: &Node) -> String {
    let Some(packages) = &machine.packages else { return String::new() };
    let ids: Vec<String> = packages
        .iter()
        .filter(|package| package.cpus.intersects(&node.cpus))
        .map(|package| package.id.to_string())
        .collect();
    or_dash(&ids.join(","))
}

fn gpus_of(machine: &Machine, node: &Node) -> String {
    if machine.gpus.is_empty() {
        return String::new();
    }
    let memory_of: Vec<String> = machine
        .gpus
        .iter()
        .filter(|gpu| gpu.memory_node == Some(node.id))
        .map(|gpu| format!("memory of {}", gpu.index))
        .collect();
    if !memory_of.is_empty() {
        return memory_of.join(", ");
    }
    let attached: NodeSet =
        machine.gpus.iter().filter(|gpu| gpu.locality.node() == Some(node.id)).map(|gpu| gpu.index).collect();
    or_dash(&attached)
}

fn distances(machine: &Machine) -> Section {
    let Some(matrix) = &machine.distances else { return Section { header: vec![], rows: vec![] } };
    if machine.nodes.len() < 2 {
        return Section { header: vec![], rows: vec![] };
    }
    if machine.nodes.len() > WIDEST_MATRIX {
        return grouped_distances(machine, matrix);
    }
    // The ids of the columns are a row of their own under the word, since a header is fixed text.
    let mut header = vec!["DISTANCE"];
    header.resize(machine.nodes.len() + 1, "");
    let mut rows = vec![Row { cells: cells("from \\ to", machine.nodes.iter().map(|node| node.id)), alarming: false }];
    rows.extend(machine.nodes.iter().zip(matrix).map(|(node, distances)| Row {
        cells: cells(&node.id.to_string(), distances.iter().copied()),
        alarming: false,
    }));
    Section { header, rows }
}

fn cells(first: &str, rest: impl Iterator<Item = u32>) -> Vec<String> {
    std::iter::once(first.to_owned()).chain(rest.map(|number| number.to_string())).collect()
}

fn grouped_distances(machine: &Machine, matrix: &[Vec<u32>]) -> Section {
    let rows = machine.nodes.iter().zip(matrix).map(|(node, distances)| {
        let mut known: Vec<u32> = distances.clone();
        known.sort_unstable();
        known.dedup();
        let groups = known.iter().map(|distance| {
            let to: NodeSet = machine
                .nodes
                .iter()
                .zip(distances)
                .filter(|(_, other)| *other == distance)
                .map(|(node, _)| node.id)
                .collect();
            format!("{distance} to {to}")
        });
        Row { cells: vec![node.id.to_string(), groups.collect::<Vec<_>>().join("; ")], alarming: false }
    });
    Section { header: vec!["FROM", "DISTANCE"], rows: rows.collect() }
}

fn gpus(machine: &Machine) -> Section {
    let rows = machine.gpus.iter().map(|gpu| {
        let (node, evidence) = place(&gpu.locality);
        Row {
            cells: vec![
                gpu.index.to_string(),
                gpu.pci.map_or_else(String::new, |pci| pci.to_string()),
                gpu.model.as_deref().map_or_else(String::new, |model| words::printable(model, LONGEST_NAME)),
                node,
                gpu.memory_node.map_or_else(String::new, |node| node.to_string()),
                gpu.local_cpus.as_ref().map_or_else(String::new, or_dash),
                evidence,
            ],
            alarming: gpu.locality.node().is_none(),
        }
    });
    Section {
        header: vec!["GPU", "PCI", "MODEL", "NODE", "OWN MEMORY", "LOCAL CPUS", "ACCORDING TO"],
        rows: rows.collect(),
    }
}

fn place(locality: &Locality) -> (String, String) {
    match locality {
        Locality::Node { node, from } => (node.to_string(), from.to_string()),
        Locality::Unknown { why } => ("unknown".to_owned(), words::printable(why, LONGEST_SENTENCE)),
    }
}

fn nics(machine: &Machine) -> Section {
    let mut nics: Vec<(&PciDevice, &str)> =
        machine.devices.iter().filter_map(|nic| Some((nic, nic_kind(nic)?))).collect();
    nics.sort_by_key(|(nic, _)| (nic.locality.node().is_none(), nic.locality.node(), nic.address));
    let rows = nics.into_iter().map(|(nic, kind)| {
        let (node, evidence) = place(&nic.locality);
        Row {
            cells: vec![
                nic.name.as_deref().map_or_else(|| "-".to_owned(), |name| words::printable(name, LONGEST_NAME)),
                nic.address.to_string(),
                kind.to_owned(),
                node,
                evidence,
            ],
            alarming: false,
        }
    });
    Section { header: vec!["NIC", "PCI", "KIND", "NODE", "ACCORDING TO"], rows: rows.collect() }
}

/// The kind of network controller that a class code states (PCI Code and ID Assignment Specification, base class 02);
/// `None` for what is none.
fn nic_kind(device: &PciDevice) -> Option<&'static str> {
    let class = device.class? >> 8;
    (class >> 8 == 0x02).then_some(match class {
        0x0200 => "Ethernet",
        0x0207 => "InfiniBand",
        0x0208 => "fabric",
        _ => "network",
    })
}

fn allowed(machine: &Machine, cpus: Option<&CpuSet>, mems: Option<&NodeSet>) -> String {
    let mut parts = Vec::new();
    if let Some(cpus) = cpus {
        parts.push(format!("cpus {} ({} of {})", or_dash(cpus), cpus.len(), machine.cpus().len()));
    }
    if let Some(mems) = mems {
        parts.push(format!("memory nodes {}", or_dash(mems)));
    }
    parts.join("  ")
}

fn ranks(plan: &Plan) -> Section {
    let rows = plan.ranks.iter().map(|rank| Row {
        cells: vec![
            rank.rank.to_string(),
            gpu_list(rank),
            rank.cpus.as_ref().map_or_else(|| absent(&plan.cpu_map), or_dash),
            rank.cpus.as_ref().map_or_else(String::new, |cpus| cpus.len().to_string()),
            rank.cpus.as_ref().map_or_else(String::new, |_| or_dash(&rank.cpu_nodes)),
            rank.mems.as_ref().map_or_else(|| absent(&plan.mem_map), |mems| memory(plan, mems)),
            or_empty(&rank.gpu_mems),
            rank.omp_threads.map_or_else(String::new, |threads| threads.to_string()),
            words::printable(&rank.reason.to_string(), LONGEST_SENTENCE),
        ],
        alarming: is_unbound(plan, rank),
    });
    let header = vec!["RANK", "GPU", "CPUS", "COUNT", "NODE", "MEMORY", "GPU MEMORY", "OMP", "WHY"];
    Section { header, rows: rows.collect() }
}

/// Whether a map was asked for and this rank has no place in it.
pub(super) fn is_unbound(plan: &Plan, rank: &RankPlan) -> bool {
    (rank.cpus.is_none() && plan.cpu_map != "none") || (rank.mems.is_none() && plan.mem_map != "none")
}

fn absent(map: &str) -> String {
    if map == "none" { "as given" } else { "UNBOUND" }.to_owned()
}

fn gpu_list(rank: &RankPlan) -> String {
    let gpus: Vec<String> = rank.gpus.iter().map(u32::to_string).collect();
    or_dash(&gpus.join(","))
}

fn memory(plan: &Plan, mems: &NodeSet) -> String {
    if plan.mem_policy == MemPolicy::Preferred { format!("{} first", or_dash(mems)) } else { or_dash(mems) }
}

fn or_empty(set: &NodeSet) -> String {
    set.to_string()
}

#[cfg(test)]
mod tests;
