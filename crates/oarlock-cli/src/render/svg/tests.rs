use oarlock_core::idset::CpuSet;
use oarlock_core::ledger::Ledger;
use oarlock_core::locality::{Evidence, Locality};
use oarlock_core::machine::{Gpu, Package};
use oarlock_core::{Plan, Request};
use proptest::prelude::*;
use roxmltree::{Document as Xml, Node as Element};

use super::*;
use crate::render::samples::{self, Shape};

fn all_samples() -> Vec<(&'static str, Machine)> {
    let big = Shape { packages: 8, nodes: 8, l3_per_node: 16, cores_per_l3: 8, threads: 2, gpus: 16 };
    let nps4 = Shape { packages: 2, nodes: 8, l3_per_node: 2, cores_per_l3: 8, threads: 2, gpus: 8 };
    let smt4 = Shape { packages: 2, nodes: 2, l3_per_node: 10, cores_per_l3: 2, threads: 4, gpus: 6 };
    vec![
        ("two-socket", samples::two_socket()),
        ("odd-nodes", samples::odd_nodes()),
        ("gpu-memory", samples::gpu_memory()),
        ("unknown-gpus", samples::unknown_gpus()),
        ("bare", samples::bare()),
        ("big", samples::regular("eight sockets", big)),
        ("huge", huge()),
        ("smt4", samples::regular("smt4", smt4)),
        ("crowded", crowded()),
        ("nps4", samples::regular("nps4", nps4)),
    ]
}

fn huge() -> Machine {
    let shape = Shape { packages: 16, nodes: 64, l3_per_node: 8, cores_per_l3: 8, threads: 1, gpus: 16 };
    samples::regular("sixty-four nodes", shape)
}

fn crowded() -> Machine {
    let shape = Shape { packages: 1, nodes: 1, l3_per_node: 2, cores_per_l3: 16, threads: 2, gpus: 16 };
    samples::regular("one node <of> sixteen & more", shape)
}

fn has_class(element: &Element<'_, '_>, class: &str) -> bool {
    element.attribute("class").is_some_and(|classes| classes.split(' ').any(|one| one == class))
}

fn number(element: &Element<'_, '_>, attribute: &str) -> f64 {
    element.attribute(attribute).unwrap_or_else(|| panic!("{attribute} of {element:?}")).parse().unwrap()
}

fn area(rect: &Element<'_, '_>) -> Area {
    let [x, y, width, height] = ["x", "y", "width", "height"].map(|attribute| number(rect, attribute));
    Area { x, y, width, height }
}

fn rects(xml: &Xml<'_>, class: &'static str) -> Vec<Area> {
    let found = xml.descendants().filter(move |element| element.has_tag_name("rect") && has_class(element, class));
    found.map(|rect| area(&rect)).collect()
}

/// Where words stand: the points at which texts of this class that read so begin, or are centred.
fn words_at(xml: &Xml<'_>, class: &str, text: &str) -> Vec<(f64, f64)> {
    let found = xml
        .descendants()
        .filter(|element| element.has_tag_name("text") && has_class(element, class) && element.text() == Some(text));
    found.map(|element| (number(&element, "x"), number(&element, "y"))).collect()
}

fn holds(area: &Area, (x, y): (f64, f64)) -> bool {
    (area.x..=area.right()).contains(&x) && (area.y..=area.bottom()).contains(&y)
}

/// The frame of this class in which a text stands, and nothing but one.
fn frame_of(xml: &Xml<'_>, class: &'static str, text: &str) -> Area {
    let [at] = words_at(xml, "strong", text)[..] else { panic!("{text} is not there exactly once") };
    let found: Vec<Area> = rects(xml, class).into_iter().filter(|area| holds(area, at)).collect();
    assert_eq!(found.len(), 1, "{text} stands in {} of {class}", found.len());
    found[0]
}

/// Everything that must hold of any picture.
fn check(svg: &str) {
    let xml = Xml::parse(svg).unwrap_or_else(|error| panic!("{error}\n{svg}"));
    let root = xml.root_element();
    let page = Area { x: 0.0, y: 0.0, width: number(&root, "width"), height: number(&root, "height") };
    let sheet = xml.descendants().find(|element| element.has_tag_name("style")).unwrap().text().unwrap();
    for element in xml.descendants().filter(Element::is_element) {
        for class in element.attribute("class").into_iter().flat_map(|classes| classes.split(' ')) {
            assert!(class == "oarlock" || sheet.contains(&format!(".oarlock .{class}{{")), "no style for {class:?}");
        }
        match element.tag_name().name() {
            "rect" => {
                let area = area(&element);
                assert!(area.width >= 0.0 && area.height >= 0.0, "{element:?}");
                assert!(area.x >= 0.0 && area.y >= 0.0, "{element:?}");
                assert!(area.right() <= page.width + 0.1 && area.bottom() <= page.height + 0.1, "{element:?} {page:?}");
            }
            "text" => {
                let (x, y) = (number(&element, "x"), number(&element, "y"));
                let letters = element.text().unwrap_or_default().chars().count();
                let faces = [Face::Title, Face::Strong, Face::Plain, Face::Small, Face::Mono];
                let face = faces.into_iter().find(|face| has_class(&element, face.class())).unwrap_or(Face::Number);
                let (left, right) = match () {
                    () if has_class(&element, "end") => (face.width(letters), 0.0),
                    () if face == Face::Number || has_class(&element, "cell") => {
                        (face.width(letters) / 2.0, face.width(letters) / 2.0)
                    }
                    () => (0.0, face.width(letters)),
                };
                assert!(x - left >= 0.0 && x + right <= page.width, "{element:?} {:?}", element.text());
                assert!(y > 0.0 && y < page.height, "{element:?}");
            }
            _ => {}
        }
    }
    for class in ["node", "package", "gpu", "gpu-lost"] {
        let areas = rects(&xml, class);
        for (index, a) in areas.iter().enumerate() {
            for b in &areas[index + 1..] {
                let apart = a.right() <= b.x || b.right() <= a.x || a.bottom() <= b.y || b.bottom() <= a.y;
                assert!(apart, "two of {class} overlap: {a:?} {b:?}");
            }
        }
    }
}

/// Also writes the pictures to the folder that `OARLOCK_PICTURES` names: they are made to be looked at.
#[test]
fn every_picture_is_well_formed_and_nothing_overlaps_or_leaves_the_page() {
    let folder = std::env::var_os("OARLOCK_PICTURES");
    for (name, machine) in all_samples() {
        let mut pictures = vec![("machine", super::machine(&machine))];
        for map in ["auto", "numa", "exclusive"] {
            if map != "exclusive" || machine.cores.is_some() {
                pictures.push((map, plan(&machine, &samples::planned(&machine, map, "auto"))));
            }
        }
        for (what, svg) in pictures {
            check(&svg);
            if let Some(folder) = &folder {
                std::fs::write(std::path::Path::new(folder).join(format!("{name}-{what}.svg")), svg).unwrap();
            }
        }
    }
}

#[test]
fn the_words_below_a_machine_make_its_page_higher_and_never_wider() {
    for (name, machine) in all_samples() {
        let width = |svg: String| number(&Xml::parse(&svg).unwrap().root_element(), "width");
        let planned = plan(&machine, &samples::planned(&machine, "auto", "auto"));
        assert!((width(planned) - width(super::machine(&machine))).abs() < 0.1, "{name}");
    }
}

#[test]
fn each_gpu_stands_in_the_card_of_its_node() {
    let machine = samples::odd_nodes();
    let svg = super::machine(&machine);
    let xml = Xml::parse(&svg).unwrap();
    for gpu in &machine.gpus {
        let node = gpu.locality.node().unwrap();
        assert_eq!(
            frame_of(&xml, "node", &format!("gpu {}", gpu.index)),
            frame_of(&xml, "node", &format!("node {node}")),
            "gpu {}",
            gpu.index
        );
    }
}

#[test]
fn nodes_without_cpus_and_gpus_without_a_node_are_outside_every_package() {
    let svg = super::machine(&samples::gpu_memory());
    let xml = Xml::parse(&svg).unwrap();
    for (node, class) in [(0, "package"), (1, "package"), (4, "apart"), (12, "apart")] {
        frame_of(&xml, class, &format!("node {node}"));
    }
    let [label] = words_at(&xml, "small", "GPU memory: shown apart, never planned")[..] else { panic!("{svg}") };
    assert!(holds(&frame_of(&xml, "apart", "node 12"), label));

    let svg = super::machine(&samples::unknown_gpus());
    let xml = Xml::parse(&svg).unwrap();
    let [label] = words_at(&xml, "small", "memory without cpus")[..] else { panic!("{svg}") };
    assert!(holds(&frame_of(&xml, "apart", "node 2"), label));
    for (words, class) in [("gpu 0", "package"), ("gpu 1", "lost"), ("gpu 3", "lost"), ("node 2", "apart")] {
        frame_of(&xml, class, words);
    }
}

#[test]
fn a_plan_writes_each_rank_on_exactly_its_cores_its_node_its_gpu_and_its_line() {
    let machine = samples::two_socket();
    let planned = samples::planned(&machine, "exclusive", "auto");
    let svg = plan(&machine, &planned);
    let xml = Xml::parse(&svg).unwrap();
    for rank in &planned.ranks {
        // Two threads to a core.
        let cores = rank.cpus.as_ref().unwrap().len() / 2;
        assert_eq!(words_at(&xml, "number", &rank.rank.to_string()).len(), cores + 3, "rank {}", rank.rank);
        let card = frame_of(&xml, "node", &format!("node {}", rank.cpu_nodes));
        let inside = words_at(&xml, "number", &rank.rank.to_string()).into_iter().filter(|at| holds(&card, *at));
        assert_eq!(inside.count(), cores + 2, "rank {}", rank.rank);
    }
}

#[test]
fn cores_that_many_ranks_share_say_how_many() {
    let machine = crowded();
    let svg = plan(&machine, &samples::planned(&machine, "auto", "none"));
    let xml = Xml::parse(&svg).unwrap();
    assert_eq!(words_at(&xml, "number", "×16").len(), 32);
}

#[test]
fn unbound_ranks_and_warnings_are_in_the_picture() {
    let machine = samples::unknown_gpus();
    let planned = samples::planned(&machine, "auto", "auto");
    let svg = plan(&machine, &planned);
    let xml = Xml::parse(&svg).unwrap();
    let alarms: Vec<&str> =
        xml.descendants().filter(|element| has_class(element, "alarm")).filter_map(|element| element.text()).collect();
    assert_eq!(alarms.iter().filter(|text| text.contains("unbound:")).count(), planned.warnings.len(), "{alarms:?}");
    assert_eq!(
        alarms.iter().filter(|text| text.contains("cpus\u{a0}unbound") || text.contains("cpus unbound")).count(),
        2
    );
}

#[test]
fn several_plans_stand_one_below_the_other_with_their_owners() {
    let machine = samples::two_socket();
    let (one, other) = (samples::planned(&machine, "auto", "auto"), samples::planned(&machine, "exclusive", "none"));
    let svg = plans(&machine, &[("Job <a>".to_owned(), &one), ("Job b".to_owned(), &other)]);
    let xml = Xml::parse(&svg).unwrap();
    let height = |svg: &str| number(&Xml::parse(svg).unwrap().root_element(), "height");
    let (first, second) =
        (height(&plans(&machine, &[("x".to_owned(), &one)])), height(&plans(&machine, &[("x".to_owned(), &other)])));
    assert!((number(&xml.root_element(), "height") - first - second).abs() < 0.1);
    assert_eq!(words_at(&xml, "strong", "Job <a>").len() + words_at(&xml, "strong", "Job b").len(), 2);
    let below = xml.descendants().filter_map(|element| element.attribute("transform")).collect::<Vec<_>>();
    assert_eq!(below, [format!("translate(0 {})", px(first))]);
}

#[test]
fn names_from_outside_are_words_and_nothing_else() {
    let mut machine = samples::two_socket();
    machine.name = "</title><script>alert(1)</script>&amp;\"'\u{0}\u{1b}\u{ffff}".to_owned();
    for gpu in &mut machine.gpus {
        gpu.model = Some("]]><a href='x'>&#0;".to_owned());
    }
    let svg = super::machine(&machine);
    check(&svg);
    let xml = Xml::parse(&svg).unwrap();
    assert!(!xml.descendants().any(|element| element.has_tag_name("script") || element.has_tag_name("a")), "{svg}");
    let shown = "</title><script>alert(1)</script>&amp;\"'\u{fffd}\u{fffd}\u{fffd}";
    assert_eq!(words_at(&xml, "title", shown).len(), 1, "{svg}");
}

#[test]
fn everything_with_a_colour_has_one_for_the_dark() {
    let sheet = style::sheet();
    let (light, dark) = sheet.split_once("@media (prefers-color-scheme:dark){").unwrap();
    for class in ["page", "title", "strong", "plain", "mono", "node", "package", "idle", "gpu", "alarm", "cell"] {
        let rule = format!(".oarlock .{class}{{");
        assert!(light.contains(&rule) && dark.contains(&rule), "{class}");
    }
    assert_eq!(sheet.matches('{').count(), sheet.matches('}').count());
}

#[test]
fn a_machine_of_four_thousand_cpus_is_still_a_page() {
    let machine = huge();
    let svg = plan(&machine, &samples::planned(&machine, "exclusive", "auto"));
    let xml = Xml::parse(&svg).unwrap();
    let root = xml.root_element();
    assert!(number(&root, "width") <= 3000.0 && number(&root, "height") <= 3000.0, "{root:?}");
    assert!(svg.len() < 300_000, "{} bytes", svg.len());
}

fn machines() -> impl Strategy<Value = Machine> {
    let shape = (1..4_u32, 1..6_u32, 1..4_u32, 1..20_u32, 1..5_u32, 0..20_u32);
    let silent = proptest::array::uniform4(any::<bool>());
    let odd = (any::<String>(), any::<Option<String>>(), 0..3_usize, any::<Option<u64>>(), any::<bool>());
    (shape, silent, odd).prop_map(|((packages, per, l3_per_node, cores_per_l3, threads, gpus), silent, odd)| {
        let shape = Shape { packages, nodes: packages * per, l3_per_node, cores_per_l3, threads, gpus };
        let (name, model, without_cpus, memory_mb, lose) = odd;
        let mut machine = samples::regular(&name, shape);
        machine.cores = machine.cores.filter(|_| !silent[0]);
        machine.l3 = machine.l3.filter(|_| !silent[1]);
        machine.packages = machine.packages.filter(|_| !silent[2]);
        machine.distances = machine.distances.filter(|_| !silent[3] && without_cpus == 0);
        machine.nodes[0].memory_mb = memory_mb;
        for index in 0..without_cpus {
            machine.nodes.push(Node {
                id: 900 + index as u32,
                cpus: CpuSet::new(),
                memory_mb: Some(u64::MAX >> 30),
                gpu_memory: index == 1,
            });
        }
        for gpu in machine.gpus.iter_mut().step_by(3) {
            *gpu = odd_gpu(gpu, model.clone(), lose, without_cpus);
        }
        if lose && packages == 1 {
            machine.packages = Some(vec![Package { id: 77, cpus: machine.nodes[0].cpus.clone() }]);
        }
        machine.checked().unwrap()
    })
}

/// A GPU of unknown place, or one that is attached to a node without CPUs.
fn odd_gpu(gpu: &Gpu, model: Option<String>, lose: bool, without_cpus: usize) -> Gpu {
    let locality = match without_cpus {
        _ if lose => Locality::Unknown { why: "nobody knows".to_owned() },
        0 => gpu.locality.clone(),
        count => Locality::Node { node: 899 + count as u32, from: Evidence::NumaNode },
    };
    Gpu {
        model,
        locality,
        memory_node: (without_cpus > 0).then_some(900),
        pci: gpu.pci.filter(|_| lose),
        ..gpu.clone()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_machine_and_any_plan_is_a_whole_picture(machine in machines(), map in 0..4_usize, ranks in 0..40_u32) {
        check(&super::machine(&machine));
        let mut request = Request { ranks: (ranks > 0).then_some(ranks), ..Request::default() };
        request.set("cpu-map", ["auto", "numa", "exclusive", "none"][map]).unwrap();
        request.set("mem-map", ["numa", "auto", "none", "auto"][map]).unwrap();
        let planned: Result<Plan, _> = oarlock_core::plan(&machine, &Ledger::default(), &request);
        if let Ok(planned) = planned {
            check(&plan(&machine, &planned));
        }
    }
}
