//! Below the machine: what the signs mean, who has what, how far the nodes are from each other, what to know.

use oarlock_core::plan::RankPlan;

use super::canvas::{Area, Canvas, Face, Size};
use super::card::{self, MARK, MOST_STRIPES};
use super::scene::{Detail, Scene};
use crate::render::{text, words};

const GAP: f64 = 20.0;
const BETWEEN: f64 = 32.0;
const LINE: f64 = 20.0;
const HEADING: f64 = 22.0;
/// More ranks than this are not listed one by one.
const MOST_RANKS: usize = 64;
/// A column of the list of ranks is this long before the next one begins.
const RANKS_IN_COLUMN: usize = 16;
/// More warnings than this are counted.
const MOST_WARNINGS: usize = 12;
/// More nodes than this have their distances as colours without numbers.
const MOST_NUMBERED: usize = 16;

/// Draws something from a point on, in a room of so many pixels across, and gives the size used.
type Block = fn(&mut Canvas, &Scene<'_>, f64, f64, f64) -> Size;

/// Draws the blocks side by side as far as they fit into the area's width. Returns the size used.
pub(super) fn draw(canvas: &mut Canvas, scene: &Scene<'_>, area: Area) -> Size {
    let blocks: [Block; 4] = [ranks, distances, legend, warnings];
    let (mut x, mut y, mut row, mut widest) = (area.x, area.y, 0.0_f64, 0.0_f64);
    for block in blocks {
        // Measured on paper that is thrown away: where a block goes depends on its size.
        let size = block(&mut Canvas::new(), scene, x, y, area.width);
        if size.height == 0.0 {
            continue;
        }
        if x > area.x && x + size.width > area.right() {
            (x, y, row) = (area.x, y + row + GAP, 0.0);
        }
        block(canvas, scene, x, y, area.width);
        x += size.width + BETWEEN;
        row = row.max(size.height);
        widest = widest.max(x - BETWEEN - area.x);
    }
    Size { width: widest, height: y + row - area.y }
}

fn legend(canvas: &mut Canvas, scene: &Scene<'_>, x: f64, y: f64, _room: f64) -> Size {
    let (core, many) = if scene.machine.cores.is_some() { ("core", "cores") } else { ("cpu", "cpus") };
    let mut lines: Vec<(&str, String)> = vec![match scene.detail {
        Detail::Tiles if scene.machine.cores.is_some() => ("idle", "a core and its hardware threads".to_owned()),
        Detail::Tiles => ("idle", "a cpu; cores are not stated".to_owned()),
        Detail::Bars => ("idle", format!("{many} side by side")),
    }];
    if scene.machine.l3.is_some() {
        lines.push(match scene.detail {
            Detail::Tiles => ("cache", format!("{many} that share an L3 cache")),
            Detail::Bars => ("cache", format!("gaps part {many} of different L3 caches")),
        });
    }
    lines.push(("memory", "memory: the bar's length is its size".to_owned()));
    if scene.plan.is_some() {
        lines.push(("r0", format!("a rank's {core}, its memory, its GPU")));
    }
    if scene.any_shared(|ranks| (2..=MOST_STRIPES).contains(&ranks)) {
        lines.push(("stripes", format!("a {core} that several ranks may use")));
    }
    if scene.any_shared(|ranks| ranks > MOST_STRIPES) {
        lines.push(("shared", format!("a {core} that many ranks may use, and how many")));
    }
    let mut width = heading(canvas, x, y, "signs");
    for (index, (class, words)) in lines.iter().enumerate() {
        let top = y + HEADING + index as f64 * LINE;
        let sample = Area::at(x, top, MARK);
        match *class {
            "memory" => canvas.rect(class, Area { y: top + 5.0, height: 7.0, ..sample }, 2.0),
            "stripes" => {
                for stripe in 0..3 {
                    canvas.rect(&format!("r{stripe}"), sample.band(stripe, 3), 0.0);
                }
            }
            "idle" if scene.detail == Detail::Tiles && scene.machine.cores.is_some() => {
                let threads = Area { x: sample.x + 1.0, width: sample.height, ..sample };
                canvas.areas("idle", &[threads.slice(0, 2), Area { x: threads.x + 9.0, width: 7.0, ..threads }]);
            }
            _ => canvas.rect(class, sample, 3.0),
        }
        canvas.text(Face::Plain, "", x + 28.0, top + 12.0, words);
        width = width.max(28.0 + Face::Plain.width(words.len()));
    }
    Size { width, height: HEADING + lines.len() as f64 * LINE }
}

fn heading(canvas: &mut Canvas, x: f64, y: f64, text: &str) -> f64 {
    canvas.text(Face::Strong, "", x, y + 12.0, text);
    Face::Strong.width(text.len())
}

fn ranks(canvas: &mut Canvas, scene: &Scene<'_>, x: f64, y: f64, room: f64) -> Size {
    let Some(plan) = scene.plan else { return Size::default() };
    let listed = &plan.ranks[..plan.ranks.len().min(MOST_RANKS)];
    let described: Vec<Vec<String>> = listed.iter().map(describe).collect();
    let widest = |part: usize| described.iter().map(|parts| parts[part].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..PARTS).map(widest).collect();
    // No-break spaces make columns: of several spaces SVG shows one.
    let pad = |(part, width): (&String, &usize)| part.clone() + &"\u{a0}".repeat(width - part.chars().count() + 2);
    let line = |parts: &Vec<String>| {
        let filled = parts.iter().zip(&widths).filter(|(_, width)| **width > 0);
        filled.map(pad).collect::<String>().trim_end().to_owned()
    };
    let lines: Vec<(String, bool)> =
        described.iter().zip(listed).map(|(parts, rank)| (line(parts), text::is_unbound(plan, rank))).collect();
    let width = heading(canvas, x, y, "ranks");
    let (mut left, mut used) = (x, width);
    for column in lines.chunks(RANKS_IN_COLUMN).enumerate() {
        let (index, column) = column;
        let most = Face::Mono.fit(room - 28.0);
        let letters = column.iter().map(|(text, _)| text.chars().count().min(most)).max().unwrap_or(0);
        for (row, (text, alarming)) in column.iter().enumerate() {
            let top = y + HEADING + row as f64 * LINE;
            card::mark(canvas, scene, index * RANKS_IN_COLUMN + row, left, top);
            let class = if *alarming { "alarm" } else { "" };
            canvas.text(Face::Mono, class, left + 28.0, top + 12.0, &words::printable(text, most));
        }
        let width = 28.0 + Face::Mono.width(letters);
        used = left + width - x;
        left += width + GAP;
    }
    let mut height = HEADING + lines.len().min(RANKS_IN_COLUMN) as f64 * LINE;
    if plan.ranks.len() > listed.len() {
        let more = format!("and {} more", words::count(plan.ranks.len() - listed.len(), "rank"));
        canvas.text(Face::Small, "", x, y + height + 12.0, &more);
        height += LINE;
    }
    Size { width: used, height }
}

/// How many parts [`describe`] gives.
const PARTS: usize = 4;

/// A rank in few words: its GPUs, CPUs, memory, GPU memory.
fn describe(rank: &RankPlan) -> Vec<String> {
    let gpus: Vec<String> = rank.gpus.iter().map(u32::to_string).collect();
    let gpus = if gpus.is_empty() { String::new() } else { words::printable(&format!("gpu {}", gpus.join(",")), 24) };
    let cpus = rank.cpus.as_ref().map_or_else(|| "unbound".to_owned(), |cpus| words::printable(&cpus.to_string(), 36));
    let mems = rank.mems.as_ref().map_or_else(|| "unbound".to_owned(), |mems| words::printable(&mems.to_string(), 24));
    let gpu_mems = &rank.gpu_mems;
    let gpu_mems = if gpu_mems.is_empty() { String::new() } else { format!("GPU memory {gpu_mems}") };
    vec![gpus, format!("cpus {cpus}"), format!("memory {mems}"), words::printable(&gpu_mems, 30)]
}

fn distances(canvas: &mut Canvas, scene: &Scene<'_>, x: f64, y: f64, _room: f64) -> Size {
    let Some(matrix) = scene.machine.distances.as_ref().filter(|matrix| matrix.len() > 1) else {
        return Size::default();
    };
    let numbered = matrix.len() <= MOST_NUMBERED;
    let cell = if numbered { Size { width: 30.0, height: 19.0 } } else { Size { width: 7.0, height: 7.0 } };
    let all = || matrix.iter().flatten().copied();
    let (near, far) = (all().min().unwrap_or(0), all().max().unwrap_or(0));
    let title = if numbered { "distances".to_owned() } else { format!("distances, from {near} to {far}") };
    let heading_width = heading(canvas, x, y, &title);
    let (left, top) = if numbered { (x + 30.0, y + HEADING + 16.0) } else { (x, y + HEADING) };
    let heat = |distance: u32| if far == near { 0 } else { ((distance - near) * 4).div_ceil(far - near).min(4) };
    let place =
        |row: usize, column: usize| Area::at(left + column as f64 * cell.width, top + row as f64 * cell.height, cell);
    for shade in 0..5 {
        let cells = matrix.iter().enumerate().flat_map(|(row, distances)| {
            distances
                .iter()
                .enumerate()
                .filter(|(_, distance)| heat(**distance) == shade)
                .map(move |(column, _)| (row, column))
        });
        let gap = if numbered { 1.0 } else { 0.5 };
        let areas: Vec<Area> = cells.map(|(row, column)| place(row, column).inset(gap / 2.0)).collect();
        canvas.areas(&format!("heat{shade}"), &areas);
    }
    if numbered {
        for (row, node) in scene.machine.nodes.iter().enumerate() {
            let id = node.id.to_string();
            let across = place(0, row);
            canvas.text(Face::Small, "cell", across.x + cell.width / 2.0, top - 5.0, &id);
            let down = place(row, 0);
            canvas.text_to(Face::Small, "", left - 7.0, down.y + 13.5, &id);
            for (column, distance) in matrix[row].iter().enumerate() {
                let area = place(row, column);
                canvas.text(Face::Number, "cell", area.x + cell.width / 2.0, area.y + 13.0, &distance.to_string());
            }
        }
    }
    let end = place(matrix.len() - 1, matrix.len() - 1);
    Size { width: heading_width.max(end.right() - x), height: end.bottom() - y }
}

fn warnings(canvas: &mut Canvas, scene: &Scene<'_>, x: f64, y: f64, room: f64) -> Size {
    let warnings = scene.plan.map_or(&[][..], |plan| &plan.warnings);
    if warnings.is_empty() {
        return Size::default();
    }
    heading(canvas, x, y, "warnings");
    let mut lines = Vec::new();
    for warning in &warnings[..warnings.len().min(MOST_WARNINGS)] {
        let text = words::printable(&warning.to_string(), 600);
        lines.extend(words::wrapped(&text, Face::Plain.fit(room).max(20)));
    }
    if warnings.len() > MOST_WARNINGS {
        lines.push(format!("and {} more", warnings.len() - MOST_WARNINGS));
    }
    for (index, line) in lines.iter().enumerate() {
        canvas.text(Face::Plain, "alarm", x, y + HEADING + index as f64 * LINE + 12.0, line);
    }
    // A block of sentences takes the whole width: beside other blocks it would be read with them.
    Size { width: room, height: HEADING + lines.len() as f64 * LINE }
}
