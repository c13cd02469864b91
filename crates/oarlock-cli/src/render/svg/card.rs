//! A node as a card: its name, its memory, its cores by cache, its GPUs.

use std::collections::BTreeMap;

use oarlock_core::idset::CpuSet;
use oarlock_core::machine::{Gpu, Node};

use super::canvas::{Area, Canvas, Face, Size};
use super::scene::{Detail, Group, Scene};
use super::style;
use crate::render::words;

const PAD: f64 = 12.0;
const HEADER: f64 = 26.0;
const MEMORY: f64 = 7.0;
const GAP: f64 = 8.0;
const LINE: f64 = 16.0;
/// Tiles grow with the card between these.
const TILES: (f64, f64) = (18.0, 30.0);
const TILE_GAP: f64 = 3.0;
const CACHE_PAD: f64 = 4.0;
const CACHE_GAP: f64 = 6.0;
const BAR: f64 = 18.0;
const CHIP: Size = Size { width: 96.0, height: 34.0 };
const CHIP_GAP: f64 = 6.0;
/// More ranks than this on one core are a number on one colour: their stripes would be too thin to tell apart.
pub(super) const MOST_STRIPES: usize = 6;
/// A marker: a rank's number on its colour.
pub(super) const MARK: Size = Size { width: 18.0, height: 16.0 };
const MARK_GAP: f64 = 3.0;

/// The measures that all cards of one kind share, so that they line up.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Measures {
    inner: f64,
    cores: f64,
    cpu_line: bool,
    tile: f64,
    chip_rows: usize,
    tile_columns: usize,
    group_columns: usize,
}

impl Measures {
    /// Measures that fit each of these nodes.
    pub(super) fn of<'n>(scene: &Scene<'_>, nodes: impl Iterator<Item = &'n Node> + Clone) -> Self {
        let groups: Vec<Vec<Group>> = nodes.clone().map(|node| scene.groups(node)).collect();
        let most_groups = groups.iter().map(Vec::len).max().unwrap_or(0);
        let most_cores = groups.iter().flatten().map(|group| group.cores.len()).max().unwrap_or(0);
        let mut measures = Self { inner: 164.0, cpu_line: most_cores > 0, tile: TILES.0, ..Self::default() };
        // Few nodes have much room each.
        let narrowest = match groups.len() {
            1 => 420.0,
            2 => 297.0,
            _ => 240.0,
        };
        match scene.detail {
            _ if most_cores == 0 => {}
            Detail::Tiles => {
                measures.tile_columns = columns(most_cores, Size { width: 1.0, height: 1.0 }, 2.0);
                measures.group_columns = columns(most_groups, measures.tiles(most_cores), 2.0);
                let across = measures.group_columns as f64;
                let width = |measures: &Self| across * (measures.tiles(most_cores).width + CACHE_GAP) - CACHE_GAP;
                measures.inner = width(&measures).max(narrowest);
                let spare = (measures.inner - width(&measures)) / (across * measures.tile_columns as f64);
                measures.tile = (TILES.0 + spare).floor().min(TILES.1);
                let rows = most_groups.div_ceil(measures.group_columns) as f64;
                measures.cores = rows * (measures.tiles(most_cores).height + CACHE_GAP) - CACHE_GAP;
            }
            Detail::Bars => {
                let cores = groups.iter().map(|node| node.iter().map(|group| group.cores.len()).sum::<usize>());
                measures.inner = (cores.max().unwrap_or(0) as f64 * 2.0).clamp(narrowest, 900.0);
                measures.cores = BAR;
            }
        }
        let chips = nodes.map(|node| scene.gpus_on(node).len()).max().unwrap_or(0);
        measures.chip_rows = chips.div_ceil(chips_in_a_row(measures.inner));
        measures
    }

    /// The size of a group of this many cores.
    fn tiles(&self, cores: usize) -> Size {
        let across = self.tile_columns.min(cores) as f64;
        let rows = cores.div_ceil(self.tile_columns) as f64;
        let step = self.tile + TILE_GAP;
        Size { width: across * step - TILE_GAP + 2.0 * CACHE_PAD, height: rows * step - TILE_GAP + 2.0 * CACHE_PAD }
    }

    pub(super) fn size(&self) -> Size {
        let mut height = PAD + HEADER + MEMORY + GAP;
        if self.cpu_line {
            height += self.cores + 4.0 + LINE;
        } else {
            height += LINE - 4.0;
        }
        height += self.chip_rows as f64 * (CHIP.height + CHIP_GAP);
        Size { width: self.inner + 2.0 * PAD, height: height + PAD - 4.0 }
    }
}

fn chips_in_a_row(width: f64) -> usize {
    (((width + CHIP_GAP) / (CHIP.width + CHIP_GAP)).floor() as usize).max(1)
}

/// The number of columns in which `count` things of one size make a block about `aspect` times as wide as high, with
/// few holes.
pub(super) fn columns(count: usize, size: Size, aspect: f64) -> usize {
    let score = |columns: usize| {
        let rows = count.div_ceil(columns);
        let shape = (columns as f64 * size.width) / (rows as f64 * size.height);
        (columns * rows - count) as f64 + 2.0 * (shape / aspect).ln().abs()
    };
    (1..=count.max(1)).min_by(|&a, &b| score(a).total_cmp(&score(b))).unwrap_or(1)
}

/// Draws a node in an area of its measures' size.
pub(super) fn draw(canvas: &mut Canvas, scene: &Scene<'_>, node: &Node, measures: &Measures, area: Area) {
    canvas.rect("node", area, 8.0);
    let inner = Area { height: HEADER, ..area.inset(PAD) };
    header(canvas, scene, node, inner);
    let memory = Area { y: inner.bottom(), height: MEMORY, ..inner };
    memory_bar(canvas, scene, node, memory);
    let mut y = memory.bottom() + GAP;
    if node.cpus.is_empty() {
        canvas.text(Face::Small, "", inner.x, y + 9.0, &without_cpus(scene, node));
        y += LINE - 4.0;
    } else {
        let cores = Area { y, height: measures.cores, ..inner };
        let groups = scene.groups(node);
        match scene.detail {
            Detail::Tiles => tiles(canvas, scene, &groups, measures, cores),
            Detail::Bars => bars(canvas, scene, &groups, cores),
        }
        let list = format!("cpus {}", node.cpus);
        y = cores.bottom() + 4.0;
        let text = words::printable(&list, Face::Mono.fit(inner.width));
        canvas.titled(&list, |canvas| canvas.text(Face::Mono, "", inner.x, y + 11.0, &text));
        y += LINE;
    }
    let gpus = scene.gpus_on(node);
    if gpus.is_empty() && measures.chip_rows > 0 {
        canvas.text(Face::Small, "", inner.x, y + CHIP_GAP + 12.0, "no gpu");
    }
    chips(canvas, scene, &gpus, "gpu", Area { y, ..inner });
}

fn without_cpus(scene: &Scene<'_>, node: &Node) -> String {
    let of: Vec<String> = scene
        .machine
        .gpus
        .iter()
        .filter(|gpu| gpu.memory_node == Some(node.id))
        .map(|gpu| format!("gpu {}", gpu.index))
        .collect();
    if of.is_empty() { "no cpus".to_owned() } else { words::printable(&format!("memory of {}", of.join(", ")), 24) }
}

fn header(canvas: &mut Canvas, scene: &Scene<'_>, node: &Node, area: Area) {
    let name = format!("node {}", node.id);
    canvas.text(Face::Strong, "", area.x, area.y + 13.0, &name);
    let memory = words::node_memory(node);
    let memory = if memory == "?" { "size not stated".to_owned() } else { memory };
    canvas.text_to(Face::Plain, "", area.right(), area.y + 13.0, &memory);
    let left = area.x + Face::Strong.width(name.len()) + 8.0;
    let room = area.right() - Face::Plain.width(memory.len()) - 8.0 - left;
    marks(canvas, scene, &scene.holders_of(&node.cpus), left, area.y + 0.5, room);
}

/// Markers of ranks side by side, as many as there is room for, and the number of the others.
pub(super) fn marks(canvas: &mut Canvas, scene: &Scene<'_>, ranks: &[usize], x: f64, y: f64, room: f64) {
    let step = MARK.width + MARK_GAP;
    let fit = ((room + MARK_GAP) / step).floor().max(0.0) as usize;
    let shown = if ranks.len() <= fit { ranks.len() } else { fit.saturating_sub(1) };
    for (index, &rank) in ranks[..shown].iter().enumerate() {
        mark(canvas, scene, rank, x + index as f64 * step, y);
    }
    if shown < ranks.len() && fit > 0 {
        let others = format!("+{}", ranks.len() - shown);
        canvas.text(Face::Small, "", x + shown as f64 * step, y + 12.0, &others);
    }
}

/// A rank's number on its colour.
pub(super) fn mark(canvas: &mut Canvas, scene: &Scene<'_>, rank: usize, x: f64, y: f64) {
    let area = Area::at(x, y, MARK);
    canvas.rect(&style::rank_class(rank), area, 3.0);
    canvas.text(Face::Number, "", x + MARK.width / 2.0, y + 11.6, &scene.rank_number(rank).to_string());
}

fn memory_bar(canvas: &mut Canvas, scene: &Scene<'_>, node: &Node, area: Area) {
    let Some(size) = node.memory_mb else {
        canvas.rect("unsized", area.inset(0.5), 2.0);
        return paint_memory(canvas, scene, node, area.inset(1.5));
    };
    canvas.rect("room", area, 2.0);
    let share = if scene.largest_memory == 0 { 0.0 } else { size as f64 / scene.largest_memory as f64 };
    // However small beside the others, memory that is there is seen.
    let width = if size == 0 { 0.0 } else { (area.width * share).max(4.0) };
    let filled = Area { width, ..area };
    if size > 0 {
        canvas.rect("memory", filled, 2.0);
        paint_memory(canvas, scene, node, filled);
    }
}

fn paint_memory(canvas: &mut Canvas, scene: &Scene<'_>, node: &Node, area: Area) {
    let ranks = scene.memory_holders(node.id);
    for (index, &rank) in ranks.iter().enumerate() {
        canvas.rect(&style::rank_class(rank), area.slice(index, ranks.len()), 0.0);
    }
}

/// Shapes collected by class, so that each class becomes one element.
#[derive(Default)]
struct Paint {
    areas: BTreeMap<String, Vec<Area>>,
}

impl Paint {
    /// Fills an area with the colours of the ranks that hold it.
    fn fill(&mut self, ranks: &[usize], area: Area) {
        if ranks.is_empty() || ranks.len() > MOST_STRIPES {
            let class = if ranks.is_empty() { "idle" } else { "shared" };
            return self.areas.entry(class.to_owned()).or_default().push(area);
        }
        for (index, &rank) in ranks.iter().enumerate() {
            self.areas.entry(style::rank_class(rank)).or_default().push(area.band(index, ranks.len()));
        }
    }

    fn finish(self, canvas: &mut Canvas) {
        for (class, areas) in self.areas {
            canvas.areas(&class, &areas);
        }
    }
}

fn tiles(canvas: &mut Canvas, scene: &Scene<'_>, groups: &[Group], measures: &Measures, area: Area) {
    let most = groups.iter().map(|group| group.cores.len()).max().unwrap_or(0);
    let size = measures.tiles(most);
    let side = measures.tile;
    let mut paint = Paint::default();
    let mut numbers = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        let (column, row) = (index % measures.group_columns, index / measures.group_columns);
        let frame = Area::at(
            area.x + column as f64 * (size.width + CACHE_GAP),
            area.y + row as f64 * (size.height + CACHE_GAP),
            size,
        );
        if scene.machine.l3.is_some() {
            canvas.rect("cache", frame, 4.0);
        }
        for (index, core) in group.cores.iter().enumerate() {
            let (column, row) = (index % measures.tile_columns, index / measures.tile_columns);
            let tile = Area {
                x: frame.x + CACHE_PAD + column as f64 * (side + TILE_GAP),
                y: frame.y + CACHE_PAD + row as f64 * (side + TILE_GAP),
                width: side,
                height: side,
            };
            core_tile(&mut paint, scene, core, tile);
            let label = label(scene, &scene.holders_of(core));
            numbers.push((tile.x + side / 2.0, tile.y + side / 2.0 + 3.7, label));
        }
    }
    paint.finish(canvas);
    for (x, y, number) in numbers.into_iter().filter(|(_, _, number)| !number.is_empty()) {
        canvas.text(Face::Number, "", x, y, &number);
    }
}

/// What is written on cores: the rank that has them, or how many share them where stripes do not show it.
fn label(scene: &Scene<'_>, ranks: &[usize]) -> String {
    match *ranks {
        [rank] => scene.rank_number(rank).to_string(),
        _ if ranks.len() > MOST_STRIPES => format!("×{}", ranks.len()),
        _ => String::new(),
    }
}

/// A core as its threads: side by side, more than two in two rows. A core that the same ranks hold whole is one piece.
fn core_tile(paint: &mut Paint, scene: &Scene<'_>, core: &CpuSet, tile: Area) {
    let threads: Vec<u32> = core.iter().collect();
    let holders = threads.first().map_or(&[][..], |&cpu| scene.holders(cpu));
    if !holders.is_empty() && threads.iter().all(|&cpu| scene.holders(cpu) == holders) {
        return paint.fill(holders, tile);
    }
    let rows = if threads.len() > 2 { 2 } else { 1 };
    let across = threads.len().div_ceil(rows);
    for (index, &cpu) in threads.iter().enumerate() {
        let mut cell = tile.slice(index % across, across).band(index / across, rows);
        // A hair between threads; none after the last.
        if index % across + 1 < across {
            cell.width -= 1.0;
        }
        if index / across + 1 < rows {
            cell.height -= 1.0;
        }
        paint.fill(scene.holders(cpu), cell);
    }
}

fn bars(canvas: &mut Canvas, scene: &Scene<'_>, groups: &[Group], area: Area) {
    let cores: usize = groups.iter().map(|group| group.cores.len()).sum();
    if cores == 0 {
        return;
    }
    let gap = if area.width / groups.len() as f64 > 10.0 { 2.0 } else { 0.0 };
    let each = (area.width - gap * (groups.len() - 1) as f64) / cores as f64;
    let mut paint = Paint::default();
    let mut numbers = Vec::new();
    let mut x = area.x;
    for group in groups {
        for run in runs(scene, &group.cores) {
            let piece = Area { x, width: run.cores as f64 * each, ..area };
            paint.fill(&run.ranks, piece);
            let label = label(scene, &run.ranks);
            if piece.width > Face::Number.width(label.chars().count()) + 2.0 {
                numbers.push((piece.x + piece.width / 2.0, piece.y + 12.8, label));
            }
            x = piece.right();
        }
        x += gap;
    }
    paint.finish(canvas);
    for (x, y, number) in numbers.into_iter().filter(|(_, _, number)| !number.is_empty()) {
        canvas.text(Face::Number, "", x, y, &number);
    }
}

/// Neighbouring cores that the same ranks hold.
struct Run {
    cores: usize,
    ranks: Vec<usize>,
}

fn runs(scene: &Scene<'_>, cores: &[CpuSet]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for core in cores {
        let ranks = scene.holders_of(core);
        match runs.last_mut() {
            Some(run) if run.ranks == ranks => run.cores += 1,
            _ => runs.push(Run { cores: 1, ranks }),
        }
    }
    runs
}

/// Draws GPUs as chips below `area.y`, in rows as wide as the area. Returns the height used.
pub(super) fn chips(canvas: &mut Canvas, scene: &Scene<'_>, gpus: &[&Gpu], class: &str, area: Area) -> f64 {
    let in_a_row = chips_in_a_row(area.width);
    let width = (area.width + CHIP_GAP) / in_a_row as f64 - CHIP_GAP;
    for (index, gpu) in gpus.iter().enumerate() {
        let chip = Area {
            x: area.x + (index % in_a_row) as f64 * (width + CHIP_GAP),
            y: area.y + CHIP_GAP + (index / in_a_row) as f64 * (CHIP.height + CHIP_GAP),
            width,
            height: CHIP.height,
        };
        let model = gpu.model.as_deref().map_or_else(String::new, |model| format!(": {}", words::printable(model, 80)));
        canvas.titled(&format!("gpu {}{model}", gpu.index), |canvas| {
            canvas.rect(class, chip, 5.0);
            let baseline = if gpu.pci.is_some() { 14.5 } else { 21.5 };
            canvas.text(Face::Strong, "", chip.x + 7.0, chip.y + baseline, &format!("gpu {}", gpu.index));
            let address = gpu.pci.map_or_else(String::new, |pci| pci.to_string());
            let text = words::printable(&address, Face::Mono.fit(width - 10.0));
            canvas.text(Face::Mono, "", chip.x + 7.0, chip.y + 28.0, &text);
            let drivers = scene.drivers(gpu);
            let name = Face::Strong.width(format!("gpu {}", gpu.index).len()) + 10.0;
            let room = (width - name - 4.0).max(0.0);
            let taken = (drivers.len() as f64 * (MARK.width + MARK_GAP) - MARK_GAP).min(room);
            marks(canvas, scene, &drivers, chip.right() - taken - 4.0, chip.y + baseline - 11.5, taken + 0.1);
        });
    }
    gpus.len().div_ceil(in_a_row) as f64 * (CHIP.height + CHIP_GAP)
}
