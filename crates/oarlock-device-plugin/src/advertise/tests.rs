use oarlock_core::locality::{Evidence, Locality};
use oarlock_core::machine::Gpu;

use super::*;

/// Two nodes of four cores with two threads each, the second thread of core c being CPU c + 8; node 2 is memory only and
/// nearest to node 1. One GPU a node, in no order, and one whose node is not known.
fn machine() -> Machine {
    let cpus = |list: &str| list.parse::<CpuSet>().unwrap();
    let node = |id, list: &str| Node { id, cpus: cpus(list), memory_mb: Some(64), gpu_memory: false };
    let gpu = |index, bus, node: Option<u32>| Gpu {
        index,
        pci: Some(PciAddress { domain: 0, bus, device: 0, function: 0 }),
        uuid: Some(format!("GPU-{index}")),
        model: None,
        locality: match node {
            Some(node) => Locality::Node { node, from: Evidence::NumaNode },
            None => Locality::Unknown { why: "-1".to_owned() },
        },
        local_cpus: None,
        memory_node: None,
    };
    Machine {
        nodes: vec![node(0, "0-3,8-11"), node(1, "4-7,12-15"), node(2, "")],
        cores: Some((0..8).map(|core| [core, core + 8].into_iter().collect()).collect()),
        distances: Some(vec![vec![10, 20, 40], vec![20, 10, 30], vec![40, 30, 10]]),
        gpus: vec![gpu(0, 9, Some(1)), gpu(1, 7, Some(0)), gpu(2, 5, Some(2)), gpu(3, 3, None)],
        ..Machine::default()
    }
    .checked()
    .unwrap()
}

fn gpu_settings(mig: MigStrategy) -> GpuSettings {
    GpuSettings { name: "oarlock.dev/gpu".parse().unwrap(), mig, mig_prefix: "oarlock.dev/mig-".to_owned() }
}

fn node_settings(slots_per_node: u32, reserved: &str) -> NodeSettings {
    NodeSettings { name: "oarlock.dev/numa-node".parse().unwrap(), slots_per_node, reserved: reserved.parse().unwrap() }
}

fn cut(bus: u8, slices: &[(&str, &str)]) -> Sliced {
    Sliced {
        gpu: PciAddress { domain: 0, bus, device: 0, function: 0 },
        slices: slices.iter().map(|(id, profile)| ((*id).to_owned(), Some((*profile).to_owned()))).collect(),
    }
}

fn shown(offer: &Offer) -> Vec<(&str, String)> {
    offer.items.iter().map(|item| (item.id.as_str(), item.nodes.to_string())).collect()
}

fn slots(machine: &Machine, settings: &NodeSettings) -> Vec<(String, String)> {
    let offer = nodes(machine, settings).unwrap();
    let cpus = |item: Item| match item.thing {
        Thing::Node { cpus, .. } => (item.id, cpus.to_string()),
        other => panic!("{other:?} among nodes"),
    };
    offer.items.into_iter().map(cpus).collect()
}

#[test]
fn a_gpu_is_near_its_own_node_else_near_the_nearest_with_cpus_and_an_unknown_one_near_none() {
    let offers = gpus(&machine(), |_| true, &[], &gpu_settings(MigStrategy::None)).unwrap();
    let [offer] = &offers.offers[..] else { panic!("{offers:?}") };
    let expected = [("GPU-0", "1"), ("GPU-1", "0"), ("GPU-2", "1"), ("GPU-3", "")];
    assert_eq!(shown(offer), expected.map(|(id, nodes)| (id, nodes.to_owned())));
    assert_eq!(offers.warnings, Vec::<String>::new());
}

#[test]
fn without_uuid_the_address_is_the_id_and_without_either_a_gpu_is_left_out_and_named() {
    let mut machine = machine();
    for gpu in &mut machine.gpus {
        gpu.uuid = None;
    }
    machine.gpus[2].pci = None;
    let offers = gpus(&machine, |_| true, &[], &gpu_settings(MigStrategy::None)).unwrap();
    let ids: Vec<&str> = offers.offers[0].items.iter().map(|item| item.id.as_str()).collect();
    assert_eq!(ids, ["0000:09:00.0", "0000:07:00.0", "0000:03:00.0"]);
    assert_eq!(offers.warnings, ["gpu 2 has neither UUID nor PCI address: it is not offered"]);
}

#[test]
fn a_gpu_that_is_not_to_be_offered_is_on_no_list_and_no_warning() {
    let offers = gpus(&machine(), |gpu| gpu.index != 1, &[], &gpu_settings(MigStrategy::None)).unwrap();
    let ids: Vec<&str> = offers.offers[0].items.iter().map(|item| item.id.as_str()).collect();
    assert_eq!((ids, offers.warnings.len()), (vec!["GPU-0", "GPU-2", "GPU-3"], 0));
}

#[test]
fn mixed_mig_devices_are_a_resource_for_each_profile_on_the_node_of_their_gpu() {
    let cut = [cut(7, &[("MIG-a", "1g.10gb+me"), ("MIG-b", "3g.40gb")]), cut(9, &[("MIG-c", "3g.40gb")]), cut(5, &[])];
    let offers = gpus(&machine(), |_| true, &cut, &gpu_settings(MigStrategy::Mixed)).unwrap().offers;
    let named: Vec<_> = offers.iter().map(|offer| (offer.name.as_str(), shown(offer))).collect();
    let at = |id, node: &str| (id, node.to_owned());
    assert_eq!(
        named,
        [
            ("oarlock.dev/gpu", vec![at("GPU-3", "")]),
            ("oarlock.dev/mig-1g.10gb.me", vec![at("MIG-a", "0")]),
            ("oarlock.dev/mig-3g.40gb", vec![at("MIG-c", "1"), at("MIG-b", "0")]),
        ]
    );
}

#[test]
fn single_mig_devices_are_the_gpu_resource_and_only_where_all_are_alike() {
    let alike = [9, 7, 5, 3].map(|bus| cut(bus, &[(["MIG-x", "MIG-y"][usize::from(bus > 5)], "2g.20gb")]));
    let offers = gpus(&machine(), |_| true, &alike, &gpu_settings(MigStrategy::Single)).unwrap().offers;
    assert_eq!(offers.len(), 1);
    assert_eq!((offers[0].name.as_str(), offers[0].items.len()), ("oarlock.dev/gpu", 4));
    let unlike = [cut(7, &[("MIG-a", "2g.20gb"), ("MIG-b", "1g.10gb")])];
    let error = gpus(&machine(), |_| true, &unlike, &gpu_settings(MigStrategy::Single)).unwrap_err().to_string();
    assert!(error.ends_with("here are profile 1g.10gb, profile 2g.20gb, 3 whole GPUs"), "{error}");
    let uncut = gpus(&machine(), |_| true, &[], &gpu_settings(MigStrategy::Single)).unwrap().offers;
    assert_eq!(uncut[0].items.len(), 4, "no GPU is cut: whole ones");
    let ignored = gpus(&machine(), |_| true, &unlike, &gpu_settings(MigStrategy::None)).unwrap().offers;
    assert_eq!(ignored[0].items[1].id, "GPU-1");
}

#[test]
fn a_profile_that_makes_no_resource_name_is_an_error_that_names_it() {
    let cut = [cut(7, &[("MIG-a", "1g 10gb")])];
    let error = gpus(&machine(), |_| true, &cut, &gpu_settings(MigStrategy::Mixed)).unwrap_err();
    assert_eq!(error.to_string(), "the MIG profile \"1g 10gb\" makes no resource name");
}

#[test]
fn nodes_with_cpus_are_offered_whole_less_what_is_reserved() {
    let expected = [("node-0", "1-3,9-11"), ("node-1", "4-7,12-15")];
    assert_eq!(
        slots(&machine(), &node_settings(1, "0,8")),
        expected.map(|(id, cpus)| (id.to_owned(), cpus.to_owned()))
    );
    assert_eq!(slots(&machine(), &node_settings(1, "0-3,8-11")).len(), 1, "a node that is all reserved is not offered");
}

#[test]
fn slots_are_equal_numbers_of_whole_cores_and_left_over_cores_belong_to_nobody() {
    let found = slots(&machine(), &node_settings(3, ""));
    let expected = ["0,8", "1,9", "2,10", "4,12", "5,13", "6,14"];
    assert_eq!(found.iter().map(|(_, cpus)| cpus.as_str()).collect::<Vec<_>>(), expected);
    assert_eq!(found[4].0, "node-1-slot-1");
    let halves = slots(&machine(), &node_settings(2, ""));
    assert_eq!(halves[1], ("node-0-slot-1".to_owned(), "2-3,10-11".to_owned()));
}

#[test]
fn a_core_with_one_reserved_thread_is_in_no_slot() {
    let found = slots(&machine(), &node_settings(3, "9"));
    assert_eq!(found.iter().take(3).map(|(_, cpus)| cpus.as_str()).collect::<Vec<_>>(), ["0,8", "2,10", "3,11"]);
}

#[test]
fn fewer_cores_than_slots_is_an_error_with_both_numbers() {
    let error = nodes(&machine(), &node_settings(4, "0,4-5")).unwrap_err().to_string();
    assert!(error.starts_with("slotsPerNode is 4, but node 0 has 3 whole cores"), "{error}");
    let mut silent = machine();
    silent.cores = None;
    assert_eq!(nodes(&silent, &node_settings(2, "")).unwrap_err(), AdvertiseError::CoresUnknown(2));
    assert_eq!(nodes(&silent, &node_settings(1, "")).unwrap().items.len(), 2);
}

#[test]
fn what_is_preferred_is_told_by_id_and_ids_of_no_device_are_dropped() {
    let offer = nodes(&machine(), &node_settings(2, "")).unwrap();
    let ids = |list: &[&str]| list.iter().map(|&id| id.to_owned()).collect::<Vec<_>>();
    let all = ids(&["node-1-slot-1", "ghost", "node-0-slot-0", "node-1-slot-0"]);
    assert_eq!(offer.prefer(&all, &[], 2), ["node-1-slot-0", "node-1-slot-1"]);
    assert_eq!(offer.prefer(&all, &ids(&["node-0-slot-0"]), 1), ["node-0-slot-0"]);
    assert_eq!(offer.prefer(&[], &[], 3), Vec::<String>::new());
}
