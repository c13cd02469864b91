//! Every real machine of `tests/fixtures/topologies`, with the answer written by hand from what its source states: each
//! GPU's node and that node's CPUs, or the refusal's words where the source does not state enough.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};

use oarlock_core::ledger::Ledger;
use oarlock_core::plan;
use oarlock_core::request::Request;
use oarlock_discovery::{Found, Options, Source, discover, machine_file};
use serde_json::{Value, json};

/// What a machine file must give.
enum Answer {
    /// Runs of GPUs in index order: how many, their node, and the CPUs of a rank there. No node is "unknown".
    Gpus(&'static [(usize, Option<u32>, &'static str)]),
    /// No GPU in the file: the nodes with CPUs, which ranks share in block order.
    NoGpus(&'static [(u32, &'static str)]),
    /// The refusal names what is missing.
    Refused(&'static str),
}

use Answer::{Gpus, NoGpus, Refused};

const EMPTY: &str = "nodes is empty: a plan needs the machine's nodes, each with its id";

/// One row a file.
const TABLE: [(&str, Answer); 40] = [
    ("4090-8gpu-sys-inside-node", Gpus(&[(4, Some(0), "0-55,112-167"), (4, Some(1), "56-111,168-223")])),
    ("a100-pcie-4gpu-2x52", Gpus(&[(2, Some(0), "0-51,104-155"), (2, Some(1), "52-103,156-207")])),
    // Read inside a cpuset: the affinity of GPUs 4 to 7 was printed blank.
    ("a100-pcie-8gpu-32cpu-cpuset", Refused("node 1: cpulist is missing, and no gpu on it has a cpu_affinity")),
    (
        "amd-16gpu-4node",
        Gpus(&[
            (4, Some(0), "0-31,128-159"),
            (4, Some(1), "32-63,160-191"),
            (4, Some(2), "64-95,192-223"),
            (4, Some(3), "96-127,224-255"),
        ]),
    ),
    (
        "amd-16gpu-vm-random-domains",
        Gpus(&[(4, Some(0), "0-23"), (4, Some(1), "24-47"), (4, Some(2), "48-71"), (4, Some(3), "72-95")]),
    ),
    ("amd-mi250x-one-node", Gpus(&[(8, Some(0), "0-127")])),
    ("amd-mi300x-2x56", Gpus(&[(4, Some(0), "0-55,112-167"), (4, Some(1), "56-111,168-223")])),
    ("amd-mi355x-384cpus", Gpus(&[(4, Some(0), "0-95,192-287"), (4, Some(1), "96-191,288-383")])),
    ("amd-nodes-1-and-3", Gpus(&[(4, Some(1), "24-47"), (4, Some(3), "72-95")])),
    (
        "amd-rome-nps4-uneven",
        Gpus(&[
            (1, Some(1), "16-31"),
            (2, Some(2), "32-47"),
            (1, Some(3), "48-63"),
            (2, Some(5), "80-95"),
            (1, Some(6), "96-111"),
            (1, Some(7), "112-127"),
        ]),
    ),
    ("aurora-hbm", NoGpus(&[(0, "0-51,104-155"), (1, "52-103,156-207")])),
    ("aws-g5-48xl-measured", Refused(EMPTY)),
    ("aws-g5-48xl", Refused("nodes 0-1: cpulist is missing, and no gpu on them has a cpu_affinity")),
    ("aws-g6-8xl4", Refused("nodes 0-1: cpulist is missing, and no gpu on them has a cpu_affinity")),
    ("aws-p4d", Gpus(&[(4, Some(0), "0-23,48-71"), (4, Some(1), "24-47,72-95")])),
    ("aws-p6-b200", Gpus(&[(4, Some(0), "0-47,96-143"), (4, Some(1), "48-95,144-191")])),
    ("azure-ncv4", Gpus(&[(1, Some(0), "0-23"), (1, Some(1), "24-47"), (1, Some(2), "48-71"), (1, Some(3), "72-95")])),
    ("azure-ndv2", Gpus(&[(4, Some(0), "0-19"), (4, Some(1), "20-39")])),
    ("dell-8gpu-odd-even-cut-column", Gpus(&[(4, Some(0), "0,2,4,6,8,10"), (4, Some(1), "1,3,5,7,9,11")])),
    (
        "dgx-a100-nps4",
        Gpus(&[
            (2, Some(3), "48-63,176-191"),
            (2, Some(1), "16-31,144-159"),
            (2, Some(7), "112-127,240-255"),
            (2, Some(5), "80-95,208-223"),
        ]),
    ),
    ("gb10-dgx-spark", Gpus(&[(1, Some(0), "0-19")])),
    ("geopm-6gpu-2package", Refused(EMPTY)),
    ("gh200-nvl2", Gpus(&[(1, Some(0), "0-71"), (1, Some(1), "72-143")])),
    ("gh200-single-9nodes", NoGpus(&[(0, "0-71")])),
    ("h100-8gpu-2x52", Gpus(&[(4, Some(0), "0-51,104-155"), (4, Some(1), "52-103,156-207")])),
    ("h100-dgx-2x56", Gpus(&[(4, Some(0), "0-55,112-167"), (4, Some(1), "56-111,168-223")])),
    ("h100-vm-2x88", Refused(EMPTY)),
    ("iluvatar-3gpu-1-plus-2", Gpus(&[(1, Some(0), "0-19,40-59"), (2, Some(1), "20-39,60-79")])),
    (
        "levante-slurm-superset",
        Gpus(&[
            (1, Some(1), "16-31,144-159"),
            (1, Some(3), "48-63,176-191"),
            (1, Some(5), "80-95,208-223"),
            (1, Some(7), "112-127,240-255"),
        ]),
    ),
    ("mi300a-12partitions", Refused("nodes 0-3: cpulist is missing, and no gpu on them has a cpu_affinity")),
    (
        "mi300a-4apu",
        Gpus(&[
            (1, Some(0), "0-23,96-119"),
            (1, Some(1), "24-47,120-143"),
            (1, Some(2), "48-71,144-167"),
            (1, Some(3), "72-95,168-191"),
        ]),
    ),
    // The one GPU that the job saw has no stated node, and there are eight.
    ("notch-epyc7513-nps4", Gpus(&[(1, None, "")])),
    ("octopus-titanx-2x6", Gpus(&[(2, Some(0), "0-5"), (2, Some(1), "6-11")])),
    ("p4-one-gpu-numa-na", Refused(EMPTY)),
    (
        "polaris",
        Gpus(&[
            (1, Some(3), "24-31,56-63"),
            (1, Some(2), "16-23,48-55"),
            (1, Some(1), "8-15,40-47"),
            (1, Some(0), "0-7,32-39"),
        ]),
    ),
    ("rocm-2gpu-node6", Refused("node 6: cpulist is missing, and no gpu on it has a cpu_affinity")),
    ("rocm-8gpu-2node", Refused("nodes 0-1: cpulist is missing, and no gpu on them has a cpu_affinity")),
    ("tioga-mi250x-l3", Refused(EMPTY)),
    ("v100-sxm2-2x24", Gpus(&[(4, Some(0), "0-23,48-71"), (4, Some(1), "24-47,72-95")])),
    // The tool printed all CPUs and "0-1": unknown, and never node 0.
    ("z9pe-3gpu-no-pci-numa", Gpus(&[(3, None, "")])),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/topologies")
}

fn read(name: &str) -> Found {
    discover(&Source::File(folder().join(format!("{name}.json"))), &Options::default())
        .unwrap_or_else(|error| panic!("{name}: {error}: {}", error.source().unwrap()))
}

fn auto() -> Request {
    let mut request = Request::default();
    request.set("cpu-map", "auto").unwrap();
    request.set("mem-map", "auto").unwrap();
    request
}

fn expected(runs: &[(usize, Option<u32>, &str)]) -> Vec<(Option<u32>, Option<String>)> {
    runs.iter()
        .flat_map(|(count, node, cpus)| {
            std::iter::repeat_n((*node, node.is_some().then(|| (*cpus).to_owned())), *count)
        })
        .collect()
}

#[test]
fn every_file_is_in_the_table_and_every_row_has_a_file() {
    let files: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let rows: BTreeSet<String> = TABLE.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(files, rows);
}

#[test]
fn each_gpu_is_on_the_node_that_the_source_states() {
    for (name, answer) in &TABLE {
        let Gpus(runs) = answer else { continue };
        let machine = read(name).machine;
        let found: Vec<_> = machine
            .gpus
            .iter()
            .map(|gpu| {
                let node = gpu.locality.node();
                (node, node.map(|id| machine.node(id).unwrap().cpus.to_string()))
            })
            .collect();
        assert_eq!(found, expected(runs), "{name}");
    }
}

#[test]
fn each_file_plans_as_its_source_states_with_auto() {
    for (name, answer) in &TABLE {
        let Gpus(runs) = answer else { continue };
        let plan = plan(&read(name).machine, &Ledger::default(), &auto()).unwrap();
        let found: Vec<_> = plan
            .ranks
            .iter()
            .map(|rank| (rank.cpu_nodes.first(), rank.cpus.as_ref().map(ToString::to_string)))
            .collect();
        assert_eq!(found, expected(runs), "{name}");
        for rank in &plan.ranks {
            let node = rank.cpus.as_ref().map(|_| rank.cpu_nodes.clone());
            assert_eq!(rank.mems, node, "{name}: memory of rank {}", rank.rank);
        }
    }
}

#[test]
fn a_file_without_gpus_shares_its_nodes_with_cpus_in_block_order() {
    for (name, answer) in &TABLE {
        let NoGpus(nodes) = answer else { continue };
        let mut request = auto();
        request.set("ranks", &(nodes.len() * 2).to_string()).unwrap();
        let plan = plan(&read(name).machine, &Ledger::default(), &request).unwrap();
        let found: Vec<_> = plan
            .ranks
            .iter()
            .map(|rank| (rank.cpu_nodes.to_string(), rank.cpus.clone().unwrap().to_string()))
            .collect();
        let twice: Vec<_> =
            nodes.iter().flat_map(|(id, cpus)| std::iter::repeat_n((id.to_string(), (*cpus).to_owned()), 2)).collect();
        assert_eq!(found, twice, "{name}");
    }
}

#[test]
fn a_file_that_states_too_little_is_refused_with_what_is_missing() {
    for (name, answer) in &TABLE {
        let Refused(words) = answer else { continue };
        let path = folder().join(format!("{name}.json"));
        let error = discover(&Source::File(path.clone()), &Options::default()).unwrap_err();
        assert_eq!(error.to_string(), path.display().to_string(), "{name}");
        assert_eq!(error.source().unwrap().to_string(), *words, "{name}");
    }
}

#[test]
fn other_node_ids_and_another_order_of_gpus_give_the_same_places() {
    for (name, answer) in &TABLE {
        let Gpus(runs) = answer else { continue };
        // There the ids themselves carry a fact: the seven after a GPU's memory node belong to it.
        if *name == "gh200-nvl2" {
            continue;
        }
        let text = std::fs::read_to_string(folder().join(format!("{name}.json"))).unwrap();
        let mut file: Value = serde_json::from_str(&text).unwrap();
        let renumber = |value: &mut Value| {
            if let Some(id) = value.as_u64() {
                *value = json!(700 - 3 * id);
            }
        };
        file["nodes"].as_array_mut().unwrap().iter_mut().for_each(|node| renumber(&mut node["id"]));
        if let Some(ids) = file["distances"].get_mut("ids") {
            ids.as_array_mut().unwrap().iter_mut().for_each(renumber);
        }
        let gpus = file["gpus"].as_array_mut().unwrap();
        for (index, gpu) in gpus.iter_mut().enumerate() {
            renumber(&mut gpu["numa_node"]);
            gpu["index"] = json!(index);
        }
        gpus.reverse();
        let machine = machine_file::parse(file.to_string().as_bytes(), Path::new("permuted.json")).unwrap().machine;
        let plan = plan(&machine, &Ledger::default(), &auto()).unwrap();
        let found: Vec<_> = plan
            .ranks
            .iter()
            .map(|rank| (rank.cpu_nodes.first(), rank.cpus.as_ref().map(ToString::to_string)))
            .collect();
        let permuted: Vec<_> =
            expected(runs).into_iter().map(|(node, cpus)| (node.map(|id| 700 - 3 * id), cpus)).collect();
        assert_eq!(found, permuted, "{name}");
    }
}

#[test]
fn a_printed_gpu_numa_id_is_memory_and_the_seven_silent_nodes_after_it_belong_to_it() {
    let machine = read("gh200-nvl2").machine;
    assert_eq!(machine.gpus.iter().map(|gpu| gpu.memory_node).collect::<Vec<_>>(), [Some(2), Some(10)]);
    let ordinary: Vec<u32> = machine.nodes.iter().filter(|node| !node.gpu_memory).map(|node| node.id).collect();
    assert_eq!(ordinary, [0, 1]);
    assert_eq!(machine.node(2).unwrap().memory_mb, Some(146_176));
    assert_eq!(machine.node(9).unwrap().memory_mb, Some(0));
    let plan = plan(&machine, &Ledger::default(), &auto()).unwrap();
    assert_eq!(plan.ranks[0].gpu_mems.to_string(), "2");
    assert_eq!(plan.ranks[1].gpu_mems.to_string(), "10");
}

#[test]
fn threads_pair_by_position_where_each_node_is_two_runs() {
    // aws-p6-b200 states its siblings: 0,96 1,97 …
    let found = read("aws-p6-b200");
    let cores = found.machine.cores.unwrap();
    assert_eq!((cores.len(), cores[0].to_string(), cores[95].to_string()), (96, "0,96".into(), "95,191".into()));
    assert!(found.warnings.is_empty(), "smt is stated: {:?}", found.warnings);
    let packages = found.machine.packages.unwrap();
    assert_eq!(
        packages.iter().map(|p| (p.id, p.cpus.to_string())).collect::<Vec<_>>(),
        [(0, "0-47,96-143".to_owned()), (1, "48-95,144-191".to_owned())]
    );
}

#[test]
fn threads_paired_without_a_stated_smt_are_an_assumption() {
    let found = read("dgx-a100-nps4");
    assert!(found.machine.cores_assumed);
    assert_eq!(found.machine.cores.unwrap()[0].to_string(), "16,144");
    assert!(!read("aws-p6-b200").machine.cores_assumed, "smt is stated");
}

#[test]
fn cpus_in_one_run_leave_the_cores_unknown() {
    assert_eq!(read("azure-ncv4").machine.cores, None);
    // Six single CPUs a node: neither runs nor a stated smt.
    assert_eq!(read("dell-8gpu-odd-even-cut-column").machine.cores, None);
}

#[test]
fn unknown_fields_and_nics_are_kept() {
    let found = read("aws-p4d");
    assert!(found.extra.contains_key("also") && found.extra.contains_key("source"));
    assert_eq!(found.extra["nics"].as_array().unwrap().len(), 4);
    let nic = &found.machine.devices[2];
    assert_eq!((nic.address.to_string(), nic.locality.node()), ("0000:90:1b.0".to_owned(), Some(1)));
}

#[test]
fn what_is_written_reads_back_as_the_same_machine() {
    for (name, answer) in &TABLE {
        if matches!(answer, Refused(_)) {
            continue;
        }
        let found = read(name);
        let text = machine_file::write(&found.machine, &found.extra);
        let again = machine_file::parse(text.as_bytes(), Path::new("again.json")).unwrap();
        assert_eq!(again.machine, found.machine, "{name}");
        for (key, value) in &found.extra {
            assert_eq!(again.extra.get(key), Some(value), "{name}: {key}");
        }
    }
}
