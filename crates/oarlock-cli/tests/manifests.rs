//! The examples of `manifests/`, planned as they are.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod call;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use call::oarlock;
use serde_json::Value;

/// A file; its pod templates, each with the nodes of its ranks; and how many CPUs a rank has.
type Expected = (&'static str, &'static [(&'static str, &'static str)], usize);

/// On four nodes of 16 cores, numbered 1, 3, 5 and 7, with two GPUs each, the first ones on node 3.
const EXPECTED: [Expected; 7] = [
    ("jobset.yaml", &[("JobSet train-set/workers", "3,3,1,1,7,7,5,5")], 32),
    ("pod.yaml", &[("Pod train", "3,3,1,1,7,7,5,5")], 32),
    ("pytorchjob-1x8.yaml", &[("PyTorchJob train-1x8/Master", "3,3,1,1,7,7,5,5")], 32),
    ("pytorchjob-4x8.yaml", &[("PyTorchJob train-4x8/Worker", "3,3,1,1,7,7,5,5")], 8),
    ("pytorchjob-cpu.yaml", &[("PyTorchJob train-cpu/Worker", "1,3,5,7")], 32),
    (
        "pytorchjob-one-rank-per-pod.yaml",
        &[("PyTorchJob train-pods/Master", "3"), ("PyTorchJob train-pods/Worker", "3")],
        32,
    ),
    ("trainjob.yaml", &[("TrainJob train-job", "3,3,1,1,7,7,5,5")], 32),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// The plans that a file gives, by what they are of.
fn plans(file: &Path) -> BTreeMap<String, Value> {
    let machine = root().join("tests/fixtures/topologies/dgx-a100-nps4.json");
    let call =
        oarlock(&["plan", "--machine", machine.to_str().unwrap(), "-f", file.to_str().unwrap(), "--format", "json"]);
    assert_eq!((call.status, call.stderr.as_str()), (0, ""), "{}", file.display());
    let printed: Value = serde_json::from_str(&call.stdout).unwrap();
    let plans = printed["plans"].as_array().unwrap().iter();
    plans.map(|one| (one["source"].as_str().unwrap().to_owned(), one["plan"].clone())).collect()
}

#[test]
fn every_example_is_planned_as_it_is() {
    let folder = root().join("manifests/examples");
    let mut files: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort_unstable();
    assert_eq!(files, EXPECTED.map(|(file, ..)| file));
    for (file, templates, cpus) in EXPECTED {
        let plans = plans(&folder.join(file));
        let nodes: Vec<(&str, String)> = plans
            .iter()
            .map(|(source, plan)| {
                let ranks = plan["ranks"].as_array().unwrap().iter();
                (source.as_str(), ranks.map(|rank| rank["mems"].as_str().unwrap()).collect::<Vec<_>>().join(","))
            })
            .collect();
        let expected: Vec<(&str, String)> =
            templates.iter().map(|(source, nodes)| (*source, (*nodes).to_owned())).collect();
        assert_eq!(nodes, expected, "{file}");
        for plan in plans.values() {
            for rank in plan["ranks"].as_array().unwrap() {
                let set: oarlock_core::CpuSet = rank["cpus"].as_str().unwrap().parse().unwrap();
                assert_eq!(set.len(), cpus, "{file}");
            }
        }
    }
}
