use std::collections::BTreeMap;

use super::{Ask, Decision, Held, Placement, decide};
use crate::ledger::{Holding, Ledger};
use crate::locality::{Evidence, Locality};
use crate::machine::{Gpu, Node};
use crate::request::GpuRef;
use crate::{CpuSet, Machine, NodeSet};

/// Nodes 3 and 1 with CPUs 0-3 and 4-7; GPUs by index on nodes 3, 1, 1, 3, their addresses in another order.
fn machine() -> Machine {
    let node = |id, cpus: &str| Node { id, cpus: set(cpus), memory_mb: Some(1024), gpu_memory: false };
    let gpu = |index: u32, bus: u8, node| Gpu {
        index,
        pci: format!("0000:{bus:02x}:00.0").parse().ok(),
        uuid: Some(format!("GPU-{index}")),
        model: None,
        locality: Locality::Node { node, from: Evidence::NumaNode },
        local_cpus: None,
        memory_node: None,
    };
    let machine = Machine {
        nodes: vec![node(1, "4-7"), node(3, "0-3")],
        gpus: vec![gpu(0, 9, 3), gpu(1, 7, 1), gpu(2, 5, 1), gpu(3, 3, 3)],
        ..Machine::default()
    };
    machine.checked().unwrap()
}

fn set(cpus: &str) -> CpuSet {
    cpus.parse().unwrap()
}

fn nodes(nodes: &str) -> NodeSet {
    nodes.parse().unwrap()
}

/// A container `main` without environment, on the machine of these tests.
struct Case {
    machine: Machine,
    ledger: Ledger,
    annotations: BTreeMap<String, String>,
    env: BTreeMap<&'static str, &'static str>,
    held: Held,
    others_hold_gpus: bool,
    cpus: Option<CpuSet>,
    reserved: CpuSet,
}

fn case(annotations: &[(&str, &str)], gpus: &[u32]) -> Case {
    Case {
        machine: machine(),
        ledger: Ledger::default(),
        annotations: annotations
            .iter()
            .map(|(key, value)| (format!("oarlock.dev/{key}"), (*value).to_owned()))
            .collect(),
        env: BTreeMap::new(),
        held: Held { gpus: gpus.iter().map(|&gpu| GpuRef::Index(gpu)).collect(), ..Held::default() },
        others_hold_gpus: false,
        cpus: None,
        reserved: CpuSet::new(),
    }
}

impl Case {
    fn decide(&self) -> Decision {
        let ask = Ask {
            annotations: &self.annotations,
            name: "main",
            env: &self.env,
            held: &self.held,
            stated_ranks: None,
            others_hold_gpus: self.others_hold_gpus,
            cpus: self.cpus.clone(),
            mems: None,
            within: (None, None),
            memory_limit: None,
            reserved: &self.reserved,
        };
        decide(&self.machine, &self.ledger, &ask)
    }

    fn placement(&self) -> Placement {
        match self.decide() {
            Decision::Place(placement) => *placement,
            other => panic!("{other:?}"),
        }
    }

    fn cpus_of_ranks(&self) -> Vec<Option<String>> {
        let ranks = self.placement().ranks.ranks;
        ranks.iter().map(|rank| rank.cpus.as_ref().map(ToString::to_string)).collect()
    }
}

const AUTO: [(&str, &str); 2] = [("cpu-map", "auto"), ("mem-map", "auto")];

#[test]
fn ranks_are_next_to_the_gpus_that_the_container_holds() {
    let case = case(&AUTO, &[1, 0]);
    assert_eq!(case.cpus_of_ranks(), [Some("4-7".to_owned()), Some("0-3".to_owned())]);
    let placement = case.placement();
    assert_eq!((placement.cpus, placement.mems), (Some(set("0-7")), Some(nodes("1,3"))));
    assert_eq!(placement.exclusive, CpuSet::new());
}

#[test]
fn a_container_that_asks_for_nothing_is_left_alone() {
    assert_eq!(case(&[], &[0]).decide(), Decision::Leave);
    assert_eq!(case(&[("smt", "one")], &[0]).decide(), Decision::Leave);
    assert_eq!(Case { others_hold_gpus: true, ..case(&AUTO, &[]) }.decide(), Decision::Leave, "another holds the gpus");
    assert_eq!(case(&[("cpu-map", "auto"), ("containers", "other")], &[0]).decide(), Decision::Leave);
}

#[test]
fn only_what_a_map_was_asked_for_is_touched() {
    let cpus_only = case(&[("cpu-map", "auto")], &[2]).placement();
    assert_eq!((cpus_only.cpus, cpus_only.mems), (Some(set("4-7")), None));
    let mems_only = case(&[("mem-map", "auto")], &[2]).placement();
    assert_eq!((mems_only.cpus, mems_only.mems), (None, Some(nodes("1"))));
    let preferred = case(&[("cpu-map", "auto"), ("mem-map", "auto"), ("mem-policy", "preferred")], &[2]).placement();
    assert_eq!((preferred.cpus, preferred.mems), (Some(set("4-7")), None), "no wall");
}

#[test]
fn nodes_that_all_ranks_prefer_are_the_containers_where_first_touch_would_find_others() {
    let preferred = |maps: [(&str, &str); 2], gpus: &[u32]| {
        let placement = case(&[maps[0], maps[1], ("mem-policy", "preferred")], gpus).placement();
        assert_eq!(placement.mems, None, "no wall");
        placement.preferred_mems
    };
    assert_eq!(preferred([("cpu-map", "1"), ("mem-map", "3")], &[0]), Some(nodes("3")));
    assert_eq!(preferred([("cpu-map", "1,3"), ("mem-map", "3,3")], &[0, 1]), Some(nodes("3")));
    assert_eq!(preferred([("cpu-map", "1+3,1"), ("mem-map", "1,1")], &[0, 1]), Some(nodes("1")));
    assert_eq!(preferred([("ranks", "1"), ("mem-map", "3")], &[0]), Some(nodes("3")), "any cpu");
    assert_eq!(preferred([("cpu-map", "1,3"), ("mem-map", "3,1")], &[0, 1]), None, "each prefers another");
    assert_eq!(preferred(AUTO, &[1]), None, "the cpus are near");
    assert_eq!(preferred([("cpu-map", "1"), ("mem-map", "1+3")], &[0]), None, "they are near one of them");
    let walled = case(&[("cpu-map", "1"), ("mem-map", "3")], &[0]).placement();
    assert_eq!((walled.mems, walled.preferred_mems), (Some(nodes("3")), None));
}

#[test]
fn kubelets_cpus_bound_the_plan_and_the_systems_are_left_out_where_there_are_none() {
    let given = Case { cpus: Some(set("2,3,5")), reserved: set("5"), ..case(&AUTO, &[1, 0]) };
    assert_eq!(given.cpus_of_ranks(), [Some("5".to_owned()), Some("2-3".to_owned())]);
    let free = Case { reserved: set("0,5"), ..case(&AUTO, &[1, 0]) };
    assert_eq!(free.cpus_of_ranks(), [Some("4,6-7".to_owned()), Some("1-3".to_owned())]);
}

#[test]
fn the_number_of_ranks_is_the_annotations_else_the_environments_else_that_of_the_gpus() {
    let ranks = |case: &Case| case.placement().ranks.ranks.len();
    assert_eq!(ranks(&case(&AUTO, &[1, 0])), 2);
    let by_env = Case { env: BTreeMap::from([("PET_NPROC_PER_NODE", "4")]), ..case(&AUTO, &[1, 0]) };
    assert_eq!(ranks(&by_env), 4);
    let both = Case { env: by_env.env, ..case(&[AUTO[0], ("ranks", "1")], &[1, 0]) };
    assert_eq!(ranks(&both), 1);
    assert_eq!(ranks(&case(&AUTO, &[])), 1);
}

#[test]
fn omp_threads_are_set_where_the_pod_does_not() {
    let asked = case(&[("cpu-map", "auto"), ("omp-threads", "3")], &[1, 0]);
    assert_eq!(asked.placement().omp_threads, Some(3));
    let own = Case { env: BTreeMap::from([("OMP_NUM_THREADS", "9")]), ..asked };
    assert_eq!(own.placement().omp_threads, None);
}

#[test]
fn what_is_refused_runs_unbound_unless_the_pod_wants_otherwise_even_where_nothing_can_be_read() {
    for wrong in [("cpu-map", "sideways"), ("cpu-map", "0,1,1"), ("cpu-mapp", "auto")] {
        let run = case(&[wrong, ("mem-map", "auto")], &[0]).decide();
        assert!(matches!(&run, Decision::Unbound(refusal) if refusal.key.ends_with(wrong.0)), "{run:?}");
        let refuse = case(&[wrong, ("mem-map", "auto"), ("on-failure", " refuse ")], &[0]).decide();
        assert!(matches!(&refuse, Decision::Refuse(refusal) if refusal.key.ends_with(wrong.0)), "{refuse:?}");
    }
}

#[test]
fn a_holder_of_nodes_has_them_alone_with_and_without_ranks() {
    let own = Some((set("1-3"), nodes("3")));
    let plain = Case { held: Held { own: own.clone(), ..Held::default() }, ..case(&[], &[]) }.placement();
    assert_eq!((plain.cpus, plain.mems, plain.exclusive), (Some(set("1-3")), Some(nodes("3")), set("1-3")));
    assert!(plain.alone && plain.ranks.ranks.is_empty());
    let ranks = [("cpu-map", "cpus:1;2"), ("ranks", "2"), ("mem-map", "auto")];
    let with_ranks = Case { held: Held { own, ..Held::default() }, ..case(&ranks, &[]) };
    assert_eq!(with_ranks.cpus_of_ranks(), [Some("1".to_owned()), Some("2".to_owned())]);
    let placement = with_ranks.placement();
    assert_eq!((placement.cpus, placement.exclusive), (Some(set("1-3")), set("1-3")), "the whole node is its own");
}

#[test]
fn exclusive_ranks_hold_what_they_get_and_keep_off_what_others_hold() {
    let mut case = case(&[("cpu-map", "exclusive")], &[1, 0]);
    case.machine.cores = Some((0..8).map(CpuSet::of).collect());
    case.ledger.holdings = vec![Holding { holder: "default/other/main".to_owned(), cpus: set("0,4-5") }];
    assert_eq!(case.placement().exclusive, set("1-3,6-7"));
    case.ledger.holdings[0].cpus = set("0-7");
    let refused = case.decide();
    assert!(
        matches!(&refused, Decision::Unbound(refusal) if refusal.message.contains("default/other/main")),
        "{refused:?}"
    );
}

#[test]
fn gpus_of_a_vendor_whose_ids_say_nothing_are_placed_by_what_their_plugin_told() {
    let held = Held { foreign: vec![nodes("1"), nodes("1"), nodes("1,3")], ..Held::default() };
    assert!(held.has_gpus());
    let case = Case { held, ..case(&AUTO, &[]) };
    assert_eq!(case.cpus_of_ranks(), [Some("4-7".to_owned()), Some("4-7".to_owned()), None]);
    let placement = case.placement();
    assert_eq!(placement.cpus, Some(set("0-7")), "a rank that stays unbound may use all");
    assert!(
        placement.warnings.iter().any(|warning| warning.contains("its device plugin names nodes")),
        "{placement:?}"
    );
}
