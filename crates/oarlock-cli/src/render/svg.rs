//! Machines and plans as pictures: packages, nodes, caches, cores, GPUs, and the ranks in their places.
//!
//! The picture stands alone, is readable in light and in dark, and holds no text from outside that is not escaped by the
//! library that writes it.

use oarlock_core::machine::{Machine, Node};
use oarlock_core::plan::Plan;
use svg::Document;
use svg::node::element::{Group, Style, Title};

use self::canvas::{Area, Canvas, Face, Size, px};
use self::card::Measures;
use self::scene::Scene;
use super::words;

mod canvas;
mod card;
mod footer;
mod scene;
mod style;

const MARGIN: f64 = 24.0;
/// Height of the title, and of each line below it.
const TITLE: f64 = 30.0;
const SUBTITLE: f64 = 17.0;
const GAP: f64 = 14.0;
const FRAME_PAD: f64 = 12.0;
const FRAME_LABEL: f64 = 20.0;
/// Narrower pages leave no room for the words below the machine.
const NARROWEST: f64 = 704.0;
/// Wider pages are only made where nothing else fits.
const WIDE: f64 = 2600.0;

/// A picture of the machine.
pub(crate) fn machine(machine: &Machine) -> String {
    page(machine, vec![picture(&Scene::new(machine, None), None)])
}

/// A picture of a plan: the machine with the ranks in their places.
pub(crate) fn plan(machine: &Machine, plan: &Plan) -> String {
    page(machine, vec![picture(&Scene::new(machine, Some(plan)), None)])
}

/// Pictures of several plans on one machine, one below the other, each with words on whose it is.
pub(crate) fn plans(machine: &Machine, plans: &[(String, &Plan)]) -> String {
    let pictures = plans.iter().map(|(whose, plan)| picture(&Scene::new(machine, Some(plan)), Some(whose)));
    page(machine, pictures.collect())
}

/// One or more pictures as a document.
fn page(machine: &Machine, pictures: Vec<(Group, Size)>) -> String {
    let width = pictures.iter().map(|(_, size)| size.width).fold(0.0, f64::max);
    let height: f64 = pictures.iter().map(|(_, size)| size.height).sum();
    let name = words::printable(&machine.name, 200);
    let mut document = Document::new()
        .set("class", "oarlock")
        .set("role", "img")
        .set("width", px(width))
        .set("height", px(height))
        .set("viewBox", format!("0 0 {} {}", px(width), px(height)))
        .add(Title::new(format!("{name}: {}", words::summary(machine))))
        .add(Style::new(style::sheet()));
    let page = Area { x: 0.0, y: 0.0, width, height };
    let mut ground = Canvas::new();
    ground.rect("page", page, 0.0);
    document = document.add(ground.finish());
    let mut top = 0.0;
    for (group, size) in pictures {
        document =
            document.add(if top > 0.0 { group.set("transform", format!("translate(0 {})", px(top))) } else { group });
        top += size.height;
    }
    document.to_string()
}

/// A picture with its margins. `whose` names its owner below the title.
fn picture(scene: &Scene<'_>, whose: Option<&str>) -> (Group, Size) {
    let mut canvas = Canvas::new();
    let lines = subtitles(scene, whose);
    let top = MARGIN + TITLE + lines.len() as f64 * SUBTITLE + 8.0;
    let body = body(&mut canvas, scene, MARGIN, top);
    let width = body.width.max(NARROWEST);
    let below = Area::at(MARGIN, top + body.height + 2.0 * GAP, Size { width, height: 0.0 });
    let foot = footer::draw(&mut canvas, scene, below);
    let name = words::printable(&scene.machine.name, Face::Title.fit(width));
    canvas.text(Face::Title, "", MARGIN, MARGIN + 18.0, &name);
    for (index, (face, line)) in lines.iter().enumerate() {
        canvas.text(*face, "", MARGIN, MARGIN + TITLE + index as f64 * SUBTITLE + 9.0, line);
    }
    let size = Size { width: width.max(foot.width) + 2.0 * MARGIN, height: below.y + foot.height + MARGIN };
    (canvas.finish(), size)
}

/// The lines below the title: what the machine has, and what was asked. They fit the narrowest page.
fn subtitles(scene: &Scene<'_>, whose: Option<&str>) -> Vec<(Face, String)> {
    let whose = whose.map(|whose| (Face::Strong, words::printable(whose, Face::Strong.fit(NARROWEST))));
    let summary = words::wrapped(&words::summary(scene.machine), Face::Plain.fit(NARROWEST));
    let mut lines: Vec<(Face, String)> =
        whose.into_iter().chain(summary.into_iter().map(|line| (Face::Plain, line))).collect();
    if let Some(plan) = scene.plan {
        let maps = format!("cpu-map {}, mem-map {}, mem-policy {}", plan.cpu_map, plan.mem_map, plan.mem_policy);
        // A list for a thousand ranks is long: its ranks are in the picture.
        let maps = words::wrapped(&words::printable(&maps, 400), Face::Mono.fit(NARROWEST));
        lines.extend(maps.into_iter().map(|line| (Face::Mono, line)));
    }
    lines
}

/// Nodes with a frame around them.
struct Frame<'a> {
    label: String,
    class: &'static str,
    nodes: Vec<&'a Node>,
}

/// Draws the machine from a point on. Returns its size.
fn body(canvas: &mut Canvas, scene: &Scene<'_>, x: f64, y: f64) -> Size {
    let (with_cpus, without): (Vec<&Node>, Vec<&Node>) =
        scene.machine.nodes.iter().partition(|node| !node.cpus.is_empty());
    let measures = Measures::of(scene, with_cpus.iter().copied());
    let mut size = frames(canvas, scene, &packages(scene, with_cpus), &measures, x, y);
    for (gpu_memory, label) in [(false, "memory without cpus"), (true, "GPU memory: shown apart, never planned")] {
        let nodes: Vec<&Node> = without.iter().copied().filter(|node| node.gpu_memory == gpu_memory).collect();
        if !nodes.is_empty() {
            let measures = Measures::of(scene, nodes.iter().copied());
            let top = y + size.height + GAP;
            let used = strip(canvas, scene, label, &nodes, &measures, Area::at(x, top, size));
            size = Size { width: size.width.max(used.width), height: top + used.height - y };
        }
    }
    let lost = scene.lost_gpus();
    if !lost.is_empty() {
        let width = size.width.max(NARROWEST);
        let top = y + size.height + GAP;
        let inner = Area { x: x + FRAME_PAD, y: top + FRAME_LABEL, width: width - 2.0 * FRAME_PAD, height: 0.0 };
        // Measured on paper that is thrown away, since the frame lies under its chips.
        let height = FRAME_LABEL + card::chips(&mut Canvas::new(), scene, &lost, "gpu-lost", inner) + FRAME_PAD;
        canvas.rect("lost", Area { x, y: top, width, height }, 10.0);
        canvas.text(Face::Small, "alarm", inner.x, top + 16.0, "GPUs on no known node");
        card::chips(canvas, scene, &lost, "gpu-lost", inner);
        size = Size { width, height: top + height - y };
    }
    size
}

/// The nodes by package, where each node is in one; else all in one frame.
fn packages<'a>(scene: &Scene<'_>, nodes: Vec<&'a Node>) -> Vec<Frame<'a>> {
    let places: Vec<Vec<usize>> = nodes.iter().map(|node| scene.packages_of(node)).collect();
    if places.iter().any(|places| places.len() != 1) {
        let label = match &scene.machine.packages {
            Some(packages) if packages.len() > 1 => {
                format!("{} that share nodes", words::count(packages.len(), "package"))
            }
            _ => "machine".to_owned(),
        };
        return vec![Frame { label, class: "package", nodes }];
    }
    let packages = scene.machine.packages.as_deref().unwrap_or(&[]);
    let frame = |(position, package): (usize, &oarlock_core::machine::Package)| Frame {
        label: format!("package {}", package.id),
        class: "package",
        nodes: nodes.iter().zip(&places).filter(|(_, places)| places[0] == position).map(|(node, _)| *node).collect(),
    };
    packages.iter().enumerate().map(frame).filter(|frame| !frame.nodes.is_empty()).collect()
}

/// Draws frames of equal cards in a block that is pleasant to look at.
fn frames(canvas: &mut Canvas, scene: &Scene<'_>, frames: &[Frame<'_>], measures: &Measures, x: f64, y: f64) -> Size {
    let most = frames.iter().map(|frame| frame.nodes.len()).max().unwrap_or(0);
    let card = measures.size();
    let frame_size = |node_columns: usize| Size {
        width: node_columns as f64 * (card.width + GAP) - GAP + 2.0 * FRAME_PAD,
        height: most.div_ceil(node_columns) as f64 * (card.height + GAP) - GAP + FRAME_LABEL + FRAME_PAD,
    };
    let block = |across: usize, frame: Size| Size {
        width: across as f64 * (frame.width + GAP) - GAP,
        height: frames.len().div_ceil(across) as f64 * (frame.height + GAP) - GAP,
    };
    let score = |&(across, node_columns): &(usize, usize)| {
        let size = block(across, frame_size(node_columns));
        let holes =
            across * frames.len().div_ceil(across) - frames.len() + node_columns * most.div_ceil(node_columns) - most;
        (size.width / size.height / 2.0).ln().abs() + holes as f64 * 0.25 + f64::from(size.width > WIDE)
    };
    let choices = (1..=frames.len()).flat_map(|across| (1..=most).map(move |columns| (across, columns)));
    let Some((across, node_columns)) = choices.min_by(|a, b| score(a).total_cmp(&score(b))) else {
        return Size::default();
    };
    let size = frame_size(node_columns);
    for (index, frame) in frames.iter().enumerate() {
        let (column, row) = ((index % across) as f64, (index / across) as f64);
        let area = Area::at(x + column * (size.width + GAP), y + row * (size.height + GAP), size);
        draw_frame(canvas, scene, frame, node_columns, measures, area);
    }
    block(across, size)
}

/// Nodes without CPUs, in a frame of their own as wide as the machine.
fn strip(
    canvas: &mut Canvas,
    scene: &Scene<'_>,
    label: &str,
    nodes: &[&Node],
    measures: &Measures,
    area: Area,
) -> Size {
    let card = measures.size();
    let width = area.width.max(NARROWEST);
    let columns = (((width - 2.0 * FRAME_PAD + GAP) / (card.width + GAP)).floor() as usize).max(1);
    let rows = nodes.len().div_ceil(columns) as f64;
    let size = Size { width, height: rows * (card.height + GAP) - GAP + FRAME_LABEL + FRAME_PAD };
    let frame = Frame { label: label.to_owned(), class: "apart", nodes: nodes.to_vec() };
    draw_frame(canvas, scene, &frame, columns, measures, Area::at(area.x, area.y, size));
    size
}

fn draw_frame(
    canvas: &mut Canvas,
    scene: &Scene<'_>,
    frame: &Frame<'_>,
    columns: usize,
    measures: &Measures,
    area: Area,
) {
    canvas.rect(frame.class, area, 10.0);
    canvas.text(Face::Small, "", area.x + FRAME_PAD, area.y + 15.0, &frame.label);
    let card = measures.size();
    for (index, node) in frame.nodes.iter().enumerate() {
        let place = Area::at(
            area.x + FRAME_PAD + (index % columns) as f64 * (card.width + GAP),
            area.y + FRAME_LABEL + (index / columns) as f64 * (card.height + GAP),
            card,
        );
        card::draw(canvas, scene, node, measures, place);
    }
}

#[cfg(test)]
mod tests;
