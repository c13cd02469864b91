//! Machine files that contradict themselves, and that what is written reads back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::path::Path;

use oarlock_core::CpuSet;
use oarlock_core::link::Link;
use oarlock_core::locality::{Evidence, Locality};
use oarlock_core::machine::{Gpu, Machine, Node, Package, PciDevice};
use oarlock_core::pci::PciAddress;
use oarlock_discovery::{DiscoveryError, Found, machine_file};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn parse(text: &str) -> Result<Found, DiscoveryError> {
    machine_file::parse(text.as_bytes(), Path::new("box.json"))
}

/// The refusal as it is printed, cause last.
fn refusal(text: &str) -> String {
    let error = parse(text).unwrap_err();
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    assert!(!line.contains('\n') && line.len() < 400, "one short line: {line}");
    line
}

/// Two nodes of four CPUs and a GPU on each; `change` breaks something.
fn broken(change: impl FnOnce(&mut Value)) -> String {
    let mut file = json!({
        "name": "box", "cpus_total": 8,
        "nodes": [{"id": 4, "cpulist": "0-3"}, {"id": 7, "cpulist": "4-7"}],
        "distances": {"ids": [7, 4], "matrix": [[10, 31], [32, 10]]},
        "gpus": [
            {"index": 0, "pci": "0000:81:00.0", "numa_node": 7, "cpu_affinity": "4-7"},
            {"index": 1, "pci": "0000:07:00.0", "numa_node": 4, "cpu_affinity": "0-3"},
        ],
    });
    change(&mut file);
    file.to_string()
}

#[test]
fn the_file_that_the_next_tests_break_is_whole() {
    let machine = parse(&broken(|_| ())).unwrap().machine;
    assert_eq!(machine.gpus.iter().map(|gpu| gpu.locality.node()).collect::<Vec<_>>(), [Some(7), Some(4)]);
    // The matrix was in the order 7, 4.
    assert_eq!((machine.distance(7, 4), machine.distance(4, 7)), (Some(31), Some(32)));
    assert_eq!(machine.nodes[0].memory_mb, None);
}

#[test]
fn links_are_read_by_the_gpus_index_whatever_the_order_of_columns_and_gpus() {
    let file = broken(|f| {
        f["link_matrix"] = json!({
            "columns": ["GPU1", "NIC0", "GPU0"],
            "rows": {"GPU1": ["X", "PIX", " NV4"], "NIC0": ["PIX", "X", "SYS"]},
        });
    });
    let found = parse(&file).unwrap();
    // The row of GPU 0 is missing: the other end's word counts.
    let nv4 = Link::NvLink(4);
    assert_eq!(found.machine.links, Some(vec![vec![Link::Unknown, nv4], vec![nv4, Link::Unknown]]));
    // What is written is what the file said, the column of the NIC included.
    let written: Value = serde_json::from_str(&machine_file::write(&found.machine, &found.extra)).unwrap();
    assert_eq!(written["link_matrix"]["columns"], json!(["GPU1", "NIC0", "GPU0"]));
    assert_eq!(parse(&broken(|_| ())).unwrap().machine.links, None);
}

#[test]
fn a_word_that_no_class_has_leaves_the_pair_unknown() {
    let file = broken(|f| {
        f["link_matrix"] = json!({"columns": ["GPU0", "GPU1"], "rows": {"GPU0": ["X", "INTE"], "GPU1": [null]}});
    });
    assert_eq!(parse(&file).unwrap().machine.links, Some(vec![vec![Link::Unknown; 2]; 2]));
}

#[test]
fn contradictions_are_refused_with_both_parts() {
    for (change, words) in [
        ((|f| f["nodes"][1]["id"] = json!(4)) as fn(&mut Value), "node 4 is described twice"),
        (|f| f["gpus"][1]["index"] = json!(0), "gpu 0 is described twice"),
        (|f| f["gpus"][1]["pci"] = json!("00000000:81:00.0"), "pci address 0000:81:00.0 is described twice"),
        (|f| f["nics"] = json!([{"pci": "0000:07:00.0"}]), "pci address 0000:07:00.0 is described twice"),
        (|f| f["gpus"][1]["numa_node"] = json!(5), "gpu 1: numa_node 5 is not among the nodes 4,7"),
        (
            |f| f["gpus"][1]["numa_node"] = json!(7),
            "gpu 1: cpu_affinity 0-3 has no cpu of its numa_node 7, whose cpulist is 4-7",
        ),
        (
            |f| f["nodes"][1]["cpulist"] = json!("3-7"),
            "cpus 3 are on node 4 and on node 7: each cpu is on one node, unless nodes_overlap is true",
        ),
        (|f| f["link_matrix"] = json!([]), "link_matrix: an array is not an object with columns and rows"),
        (
            |f| f["link_matrix"] = json!({"columns": ["GPU0"], "rows": {"GPU0": "X"}}),
            "link_matrix.rows.GPU0: \"X\" is not an array of texts",
        ),
        (|f| f["cpus_total"] = json!(7), "cpus_total is 7, and the nodes have 8 cpus"),
        (
            |f| f["distances"]["ids"] = json!([7, 5]),
            "distances.ids are [7, 5], and the nodes are 4,7: one row and one column per node",
        ),
        (
            |f| f["distances"]["matrix"] = json!([[10, 21]]),
            "distances has row lengths [2] for 2 nodes: one row and one column per node",
        ),
        (
            |f| f["distances"] = json!([[10], [21, 10]]),
            "distances has row lengths [1, 2] for 2 nodes: one row and one column per node",
        ),
        (|f| f["cores"] = json!(["0,1", "1,2"]), "cpus 1 are in two cores: each cpu is in one"),
        (|f| f["l3"] = json!(["0-3", "4-8"]), "cpus 8 are in l3 groups but in no node"),
        (
            |f| {
                f["nodes"][0]["cpulist"] = Value::Null;
                f["gpus"][1]["cpu_affinity"] = Value::Null;
            },
            "node 4: cpulist is missing, and no gpu on it has a cpu_affinity",
        ),
        (|f| f["nodes"] = json!([]), "nodes is empty: a plan needs the machine's nodes, each with its id"),
        (|f| f["nodes"] = Value::Null, "nodes is missing: a plan needs the machine's nodes, each with its id"),
        (|f| f["nodes"] = json!([{"id": 4, "cpulist": ""}, {"id": 7, "cpulist": ""}]), "no node has a cpu"),
    ] {
        assert_eq!(refusal(&broken(change)), format!("box.json: {words}"));
    }
}

#[test]
fn wrong_types_and_texts_are_refused_with_their_field() {
    for (change, words) in [
        ((|f| f["nodes"] = json!({"0": "0-3"})) as fn(&mut Value), "nodes: an object is not an array"),
        (|f| f["nodes"][1] = json!("7"), "nodes[1]: \"7\" is not an object"),
        (|f| f["nodes"][1]["id"] = Value::Null, "nodes[1].id: null is not the node's number"),
        (|f| f["nodes"][1]["id"] = json!(-1), "nodes[1].id: -1 is not a whole number from 0"),
        (
            |f| f["nodes"][1]["id"] = json!(1024),
            "nodes[1].id: 1024 is not a node number below 1024, the kernel's bound",
        ),
        (|f| f["nodes"][1]["cpulist"] = json!([4, 5]), "nodes[1].cpulist: an array is not a text"),
        (
            |f| f["nodes"][1]["cpulist"] = json!("4-x"),
            "nodes[1].cpulist: \"4-x\" is not a list of cpus: \"4-x\" at character 1 is not a cpu number or a range like 0-3",
        ),
        (
            |f| f["nodes"][1]["cpulist"] = json!("7-4"),
            "nodes[1].cpulist: \"7-4\" is not a list of cpus: range \"7-4\" at character 1 is reversed: the lower cpu comes first",
        ),
        (|f| f["nodes"][1]["memory_mb"] = json!("16G"), "nodes[1].memory_mb: \"16G\" is not a whole number from 0"),
        (
            |f| f["gpus"][0]["numa_node"] = json!(1.5),
            "gpus[0].numa_node: 1.5 is not a node number, or null where it is unknown",
        ),
        (
            |f| f["gpus"][0]["numa_node"] = json!([7]),
            "gpus[0].numa_node: an array is not a node number, or null where it is unknown",
        ),
        (|f| f["gpus"][0]["index"] = json!("0"), "gpus[0].index: \"0\" is not a whole number from 0"),
        (
            |f| f["gpus"][0]["pci"] = json!("81:00"),
            "gpus[0].pci: \"81:00\" is not a PCI address: \"81:00\" is not a PCI address like 0000:07:00.0",
        ),
        (|f| f["smt"] = json!("two"), "smt: \"two\" is not a whole number from 0"),
        (|f| f["distances"] = json!("far"), "distances: \"far\" is not an object with ids and matrix"),
        (|f| f["distances"]["matrix"] = json!([[10, "far"], [21, 10]]), "distances: an array is not rows of numbers"),
        (|f| f["name"] = json!(7), "name: 7 is not a text"),
    ] {
        assert_eq!(refusal(&broken(change)), format!("box.json: {words}"));
    }
    assert_eq!(refusal("[]"), "box.json: the file: an array is not an object");
}

#[test]
fn what_is_no_json_or_goes_on_after_it_is_refused_with_its_place() {
    assert_eq!(refusal(""), "box.json: not a JSON document: EOF while parsing a value at line 1 column 0");
    let garbage = broken(|_| ()) + "\n{}";
    assert!(refusal(&garbage).starts_with("box.json: not a JSON document: trailing characters at line 2"), "{garbage}");
    let cut = &broken(|_| ())[..40];
    assert!(refusal(cut).contains("EOF while parsing"), "{}", refusal(cut));
    let deep = "[".repeat(1_000_000);
    assert!(refusal(&deep).contains("recursion limit"), "{}", refusal(&deep));
}

#[test]
fn hostile_sizes_are_refused_at_once() {
    let huge = format!("{{\"name\": \"{}\"}}", "x".repeat(17 << 20));
    assert_eq!(refusal(&huge), "box.json is larger than 16 MiB, the most that is read");
    let nodes: Vec<Value> = (0..1025).map(|id| json!({"id": id, "cpulist": ""})).collect();
    assert_eq!(
        refusal(&json!({ "nodes": nodes }).to_string()),
        "box.json: nodes: 1025 entries, and at most 1024 are read"
    );
    let gpus = vec![json!({}); 1025];
    assert_eq!(
        refusal(&broken(|f| f["gpus"] = json!(gpus))),
        "box.json: gpus: 1025 entries, and at most 1024 are read"
    );
    let long = "0-".repeat(1 << 20);
    let line = refusal(&broken(|f| f["nodes"][0]["cpulist"] = json!(long)));
    assert!(line.contains("nodes[0].cpulist"), "{line}");
}

#[test]
fn what_tools_print_for_unknown_is_unknown_and_the_affinity_decides() {
    for printed in [json!(null), json!(-1), json!("N/A"), json!("0-1"), json!("")] {
        let machine = parse(&broken(|f| f["gpus"][0]["numa_node"] = printed.clone())).unwrap().machine;
        assert_eq!(machine.gpus[0].locality, Locality::Node { node: 7, from: Evidence::LocalCpus }, "{printed}");
    }
    let wide = parse(&broken(|f| {
        f["gpus"][0]["numa_node"] = json!("0-1");
        f["gpus"][0]["cpu_affinity"] = json!("0-7");
    }));
    assert_eq!(wide.unwrap().machine.gpus[0].locality.node(), None);
}

#[test]
fn gpus_without_an_index_follow_the_file_and_a_bare_bus_number_is_no_address() {
    let machine = parse(&broken(|f| {
        for gpu in 0..2 {
            f["gpus"][gpu]["index"] = Value::Null;
        }
        f["gpus"][0]["pci"] = json!("d1");
    }))
    .unwrap()
    .machine;
    let found: Vec<_> = machine.gpus.iter().map(|gpu| (gpu.index, gpu.pci.is_some(), gpu.locality.node())).collect();
    assert_eq!(found, [(0, false, Some(7)), (1, true, Some(4))]);
}

#[test]
fn nodes_may_overlap_where_the_file_says_that_they_do() {
    let text = broken(|f| {
        f["nodes"][1]["cpulist"] = json!("0-7");
        f["nodes_overlap"] = json!(true);
    });
    let found = parse(&text).unwrap();
    assert_eq!(found.machine.nodes[1].cpus.to_string(), "0-7");
    let again = parse(&machine_file::write(&found.machine, &found.extra)).unwrap();
    assert_eq!(again.machine, found.machine);
}

#[test]
fn a_gpu_numa_id_that_is_no_memory_is_left_out_with_a_warning() {
    for (printed, words) in [(json!(9), "is not among the nodes"), (json!("4"), "is a node with cpus")] {
        let found = parse(&broken(|f| f["gpus"][0]["gpu_numa_id_printed"] = printed.clone())).unwrap();
        assert_eq!(found.machine.gpus[0].memory_node, None);
        assert!(found.warnings.iter().any(|warning| warning.contains(words)), "{:?}", found.warnings);
    }
}

#[test]
fn only_the_seven_nodes_after_a_gpus_memory_may_be_silent() {
    let with = |silent: u32| {
        parse(&broken(|f| {
            f["nodes"].as_array_mut().unwrap().extend([json!({"id": 20, "cpulist": ""}), json!({ "id": silent })]);
            f["distances"] = Value::Null;
            f["gpus"][0]["gpu_numa_id_printed"] = json!("20");
        }))
    };
    assert!(with(27).unwrap().machine.node(27).unwrap().gpu_memory);
    assert!(with(28).is_err() && with(19).is_err());
}

#[test]
fn two_ports_of_one_card_are_one_device() {
    let nics = json!([
        {"name": "mlx5_1", "pci": "0000:05:00.0", "numa_node": 7},
        {"name": "mlx5_2", "pci": "0000:05:00.0", "numa_node": 7},
        {"name": "eth0", "pci": null, "numa_node": 4},
    ]);
    let found = parse(&broken(|f| f["nics"] = nics.clone())).unwrap();
    let devices: Vec<_> =
        found.machine.devices.iter().map(|device| (device.address.bus, device.locality.node())).collect();
    assert_eq!(devices, [(5, Some(7))]);
    assert_eq!(found.extra["nics"], nics, "as they were stated");
}

#[test]
fn runs_of_unequal_length_pair_no_threads() {
    let found = parse(&broken(|f| {
        f["nodes"][1]["cpulist"] = json!("4-6,8");
        f["nodes"][0]["cpulist"] = json!("0-1,9-10");
        f["gpus"] = json!([]);
    }));
    assert_eq!(found.unwrap().machine.cores, None);
}

#[test]
fn smt_decides_the_cores_and_captured_cores_win() {
    let cores = |smt: Value, cores: Value| {
        let text = broken(|f| {
            f["smt"] = smt;
            if !cores.is_null() {
                f["cores"] = cores;
            }
            f["nodes"][0]["cpulist"] = json!("0-1,4-5");
            f["nodes"][1]["cpulist"] = json!("2-3,6-7");
            f["gpus"] = json!([]);
        });
        let found = parse(&text).unwrap();
        let cores = found.machine.cores.map(|cores| cores.iter().map(ToString::to_string).collect::<Vec<_>>());
        (cores, found.machine.cores_assumed)
    };
    let list = |texts: &[&str]| Some(texts.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(cores(json!(1), json!(null)), (list(&["0", "1", "2", "3", "4", "5", "6", "7"]), false));
    assert_eq!(cores(json!(2), json!(null)), (list(&["0,4", "1,5", "2,6", "3,7"]), false));
    assert_eq!(cores(json!(null), json!(null)), (list(&["0,4", "1,5", "2,6", "3,7"]), true));
    assert_eq!(cores(json!(4), json!(null)), (None, false));
    assert_eq!(cores(json!(2), json!(["0-1", "4-5", "2-3", "6-7"])), (list(&["0-1", "2-3", "4-5", "6-7"]), false));
}

fn locality(nodes: Vec<u32>) -> impl Strategy<Value = Locality> {
    let evidence = prop::sample::select(vec![
        Evidence::NumaNode,
        Evidence::LocalCpus,
        Evidence::Bridge,
        Evidence::Nvml,
        Evidence::Override,
        Evidence::OnlyNode,
        Evidence::Plugin,
    ]);
    prop_oneof![
        (prop::sample::select(nodes), evidence).prop_map(|(node, from)| Locality::Node { node, from }),
        "[ -~é\"]{0,20}".prop_map(|why| Locality::Unknown { why }),
    ]
}

/// Any machine that a source can give: ids with gaps, nodes without CPUs or sizes, unknown places, missing parts.
fn machine() -> impl Strategy<Value = Machine> {
    let ids = prop::collection::btree_set(0u32..1024, 1..6);
    (ids, 1u32..9, any::<(bool, bool, bool, bool)>()).prop_flat_map(
        |(ids, width, (with_cores, with_l3, packages, far))| {
            let ids: Vec<u32> = ids.into_iter().collect();
            let count = ids.len();
            let nodes: Vec<Node> = ids
                .iter()
                .zip(0u32..)
                .map(|(&id, at)| Node {
                    id,
                    // Every third node is memory only, the first never.
                    cpus: if at % 3 == 2 { CpuSet::new() } else { (at * width * 3..(at * 3 + 2) * width).collect() },
                    memory_mb: [None, Some(0), Some(u64::from(id) << 20)][(id % 3) as usize],
                    gpu_memory: at % 3 == 2 && id % 2 == 0,
                })
                .collect();
            let memory: Vec<Option<u32>> =
                nodes.iter().filter(|node| node.gpu_memory).map(|node| Some(node.id)).chain([None]).collect();
            let gpu = (locality(ids.clone()), any::<Option<u8>>(), prop::sample::select(memory), any::<bool>());
            (
                "[ -~é]{0,12}",
                prop::collection::vec(gpu, 0..5),
                prop::collection::vec((locality(ids), any::<Option<u32>>()), 0..4),
                prop::collection::vec(prop::collection::vec(any::<u32>(), count), count),
            )
                .prop_map(move |(name, gpus, devices, matrix)| {
                    let bearing = || nodes.iter().map(|node| node.cpus.clone()).filter(|cpus| !cpus.is_empty());
                    let cores = bearing().flat_map(|cpus| cpus.iter().map(CpuSet::of).collect::<Vec<_>>());
                    let gpu =
                        |(index, (locality, bus, memory_node, local)): (u32, (Locality, Option<u8>, _, bool))| Gpu {
                            index: index * 2,
                            pci: bus.map(|bus| PciAddress { domain: 0x10000 + index, bus, device: 0, function: 1 }),
                            uuid: local.then(|| format!("GPU-{index}")),
                            model: (!local).then(|| "a model".to_owned()),
                            locality,
                            local_cpus: local.then(|| bearing().next().unwrap_or_default()),
                            memory_node,
                        };
                    let device = |(at, (locality, code)): (u8, (Locality, Option<u32>))| PciDevice {
                        address: PciAddress { domain: 7, bus: at, device: 31, function: 7 },
                        class: code,
                        vendor: code.map(|code| code as u16),
                        device: code.map(|code| (code >> 16) as u16),
                        name: code.map(|code| format!("mlx5_{code}")),
                        locality,
                        local_cpus: None,
                    };
                    let count = gpus.len();
                    let link = |from: usize, to: usize| match (from.max(to), from.min(to)) {
                        (1, 0) => Link::NvLink(17),
                        (3, 1) => Link::Unknown,
                        (4, 0) => Link::System,
                        _ if from == to => Link::Unknown,
                        _ => Link::Switches,
                    };
                    let matrix_of_links: Vec<Vec<Link>> =
                        (0..count).map(|from| (0..count).map(|to| link(from, to)).collect()).collect();
                    Machine {
                        links: (with_l3 && count > 0).then_some(matrix_of_links),
                        name,
                        nodes: nodes.clone(),
                        cores: with_cores.then(|| cores.collect()),
                        cores_assumed: with_cores && with_l3,
                        l3: with_l3.then(|| bearing().collect()),
                        packages: packages
                            .then(|| bearing().zip(0..).map(|(cpus, id)| Package { id: id * 5, cpus }).collect()),
                        distances: far.then_some(matrix),
                        gpus: (0..).zip(gpus).map(gpu).collect(),
                        devices: (0..).zip(devices).map(device).collect(),
                    }
                    .checked()
                    .unwrap()
                })
        },
    )
}

proptest! {
    #[test]
    fn a_written_machine_reads_back_as_itself(machine in machine()) {
        let mut extra = Map::new();
        extra.insert("also".to_owned(), json!({"left": [1, null]}));
        extra.insert("nothing".to_owned(), Value::Null);
        let text = machine_file::write(&machine, &extra);
        let found = parse(&text).unwrap();
        prop_assert_eq!(found.machine, machine);
        for (key, value) in &extra {
            prop_assert_eq!(found.extra.get(key), Some(value));
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = machine_file::parse(&bytes, Path::new("box.json"));
    }

    #[test]
    fn no_change_of_a_field_makes_the_reader_panic(
        name in prop::sample::select(vec!["nodes", "gpus", "nics", "devices", "distances", "cores", "packages", "smt"]),
        place in 0usize..3,
        field in prop::sample::select(vec!["id", "cpulist", "pci", "numa_node", "cpu_affinity", "matrix", "ids", "index"]),
        value in prop_oneof![
            Just(json!(null)), Just(json!([])), Just(json!({})), any::<u64>().prop_map(|n| json!(n)),
            any::<i64>().prop_map(|n| json!(n)), "[0-9,:.x-]{0,12}".prop_map(|text| json!(text)),
        ],
    ) {
        let text = broken(|file| match &mut file[name] {
            Value::Array(entries) if place < entries.len() => entries[place][field] = value,
            Value::Object(object) => { object.insert(field.to_owned(), value); }
            other => *other = value,
        });
        let _ = parse(&text);
    }
}
