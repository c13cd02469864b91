use super::*;
use crate::render::samples::{self, Shape};
use oarlock_core::link::Link;

const PLAIN: Style = Style { color: false };
const NOTHING: &[String] = &[];
const COLOURED: Style = Style { color: true };

fn show(machine: &Machine) -> String {
    topology(machine, None, None, NOTHING, PLAIN)
}

#[test]
fn a_machine_prints_its_nodes_distances_gpus_and_nics_in_aligned_tables() {
    let cpus: CpuSet = "0-7".parse().unwrap();
    let text = topology(
        &samples::two_socket(),
        Some(&cpus),
        Some(&NodeSet::of(1)),
        &["the cpus and the memory allowed here are on different nodes".to_owned()],
        PLAIN,
    );
    insta::assert_snapshot!(text);
}

#[test]
fn gpu_memory_nodes_and_the_gpus_they_belong_to_are_shown_apart() {
    insta::assert_snapshot!(show(&samples::gpu_memory()));
}

#[test]
fn gpus_without_a_node_say_so_and_why() {
    insta::assert_snapshot!(show(&samples::unknown_gpus()));
}

#[test]
fn links_are_a_matrix_by_index_and_are_left_out_where_none_is_known_or_they_are_too_many() {
    let mut machine = samples::gpu_memory();
    machine.gpus[0].index = 3;
    machine.links = Some(vec![vec![Link::Unknown, Link::NvLink(18)], vec![Link::NvLink(18), Link::Unknown]]);
    let text = show(&machine.clone().checked().unwrap());
    let table: Vec<&str> =
        text.lines().skip_while(|line| *line != "LINKS").take_while(|line| !line.is_empty()).collect();
    assert_eq!(table, ["LINKS", "gpu    1     3", "1      -     NV18", "3      NV18  -"]);
    machine.links = Some(vec![vec![Link::Unknown; 2]; 2]);
    assert!(!show(&machine).contains("LINKS"));
    let shape = Shape { packages: 1, nodes: 1, l3_per_node: 1, cores_per_l3: 4, threads: 1, gpus: 17 };
    machine = samples::regular("wide", shape);
    machine.links = Some(vec![vec![Link::Node; 17]; 17]);
    assert!(!show(&machine).contains("LINKS"));
}

#[test]
fn what_the_source_does_not_state_is_not_made_up() {
    insta::assert_snapshot!(show(&samples::bare()));
}

#[test]
fn a_plan_prints_the_container_and_one_row_for_each_rank() {
    insta::assert_snapshot!(plan(
        &samples::gpu_memory(),
        &samples::planned(&samples::gpu_memory(), "auto", "auto"),
        PLAIN
    ));
}

#[test]
fn unbound_ranks_and_warnings_stand_out_in_words() {
    let machine = samples::unknown_gpus();
    insta::assert_snapshot!(plan(&machine, &samples::planned(&machine, "auto", "auto"), PLAIN));
}

#[test]
fn a_map_that_nobody_asked_for_leaves_no_rank_unbound() {
    let machine = samples::two_socket();
    let text = plan(&machine, &samples::planned(&machine, "none", "auto"), COLOURED);
    assert!(text.contains("as given") && !text.contains("UNBOUND"), "{text}");
    assert!(!text.contains(&AnsiColor::Yellow.on_default().bold().to_string()), "{text}");
}

#[test]
fn colour_marks_exactly_the_unbound_rows_and_the_warnings() {
    let machine = samples::unknown_gpus();
    let alarm = AnsiColor::Yellow.on_default().bold().to_string();
    let text = plan(&machine, &samples::planned(&machine, "auto", "auto"), COLOURED);
    let marked: Vec<&str> = text.lines().filter(|line| line.contains(&alarm)).collect();
    assert_eq!(marked.len(), 4, "two ranks and their two warnings: {marked:#?}");
    assert!(marked.iter().all(|line| line.contains("UNBOUND") || line.contains("warning:")), "{marked:#?}");
}

#[test]
fn without_colour_no_escape_sequence_is_written() {
    let machine = samples::unknown_gpus();
    for text in [show(&machine), plan(&machine, &samples::planned(&machine, "auto", "auto"), PLAIN)] {
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}

#[test]
fn colour_is_for_terminals_and_never_where_no_color_is_set() {
    for (terminal, no_color, color) in [
        (true, None, true),
        (true, Some(""), true),
        (true, Some("1"), false),
        (true, Some("0"), false),
        (false, None, false),
    ] {
        assert_eq!(Style::choose(terminal, no_color.map(OsStr::new)).color, color, "{terminal} {no_color:?}");
    }
}

#[test]
fn a_hostile_name_stays_on_its_line_and_writes_no_escape_sequence() {
    let mut machine = samples::two_socket();
    machine.name = "a\u{1b}]0;x\u{7}\nb".to_owned();
    machine.gpus[0].model = Some("c\u{1b}[2J\nd".to_owned());
    machine.devices[0].name = Some("e\rf".to_owned());
    let calm = show(&samples::two_socket());
    for style in [PLAIN, COLOURED] {
        let text = topology(&machine, None, None, &["g\nh".to_owned()], style);
        assert!(!text.contains("\u{1b}]") && !text.contains("\u{1b}[2J") && !text.contains('\r'), "{text:?}");
        // The blank line and the warning are what the second machine has more.
        assert_eq!(text.lines().count(), calm.lines().count() + 2, "{text}");
    }
}

#[test]
fn long_lists_are_never_wrapped() {
    let mut machine = samples::two_socket();
    // Every second CPU: the longest list form there is.
    machine.nodes[0].cpus = (0..8192).step_by(2).collect();
    machine.nodes[1].cpus = (1..8192).step_by(2).collect();
    let text = show(&machine);
    assert!(
        text.lines().any(|line| line.contains(&machine.nodes[1].cpus.to_string())),
        "node 1's cpus are not on one line"
    );
}

#[test]
fn many_nodes_list_their_distances_in_groups() {
    let shape = samples::Shape { packages: 8, nodes: 64, l3_per_node: 1, cores_per_l3: 4, threads: 1, gpus: 0 };
    let text = show(&samples::regular("wide", shape));
    assert!(text.contains("\n   9  10 to 9; 12 to 8,10-15; 32 to 0-7,16-63\n"), "{text}");
}
