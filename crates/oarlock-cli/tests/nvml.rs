//! The commands on this very host with the GPUs of another machine, through the real NVML wrapper and the library that
//! stands in for NVML.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod call;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use call::Call;
use oarlock_testkit::nvml::{CONTROL, MACHINE, Stub, library};
use serde_json::Value;
use tempfile::TempDir;

const TOPOLOGIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/topologies");
const LIBRARY: &str = "OARLOCK_NVML_LIBRARY";

/// Calls `oarlock` with this library and nothing else of NVML in its environment but `env`.
fn oarlock(library: &Path, env: impl IntoIterator<Item = (&'static str, OsString)>, args: &[&str]) -> Call {
    let mut command = assert_cmd::Command::cargo_bin("oarlock").unwrap();
    command.env_remove(MACHINE).env_remove(CONTROL).env(LIBRARY, library).envs(env);
    command.args(args).output().unwrap().into()
}

/// The stand-in with the GPUs of a known machine, in a folder that lives as long.
fn stub(fixture: &str) -> (Stub, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let machine = std::fs::read_to_string(Path::new(TOPOLOGIES).join(fixture)).unwrap();
    (Stub::new(folder.path(), &machine), folder)
}

fn json(call: &Call) -> Value {
    assert_eq!(call.status, 0, "{call:?}");
    serde_json::from_str(&call.stdout).unwrap()
}

/// This host's nodes, and those of them that have CPUs.
fn nodes() -> (BTreeSet<u64>, BTreeSet<u64>) {
    let machine = json(&call::oarlock(&["topology", "--format", "json"]));
    let nodes = machine["nodes"].as_array().unwrap();
    let id = |node: &Value| node["id"].as_u64().unwrap();
    let bearing = nodes.iter().filter(|node| node["cpulist"] != "").map(id).collect();
    (nodes.iter().map(id).collect(), bearing)
}

#[test]
fn the_gpus_of_nvml_are_captured_with_their_links_and_where_nvml_says_that_they_are() {
    let (all, bearing) = nodes();
    for fixture in ["dgx-a100-nps4.json", "v100-sxm2-2x24.json", "h100-8gpu-2x52.json", "h100-dgx-2x56.json"] {
        let (stub, folder) = stub(fixture);
        let stated: Value = serde_json::from_slice(&std::fs::read(&stub.machine).unwrap()).unwrap();
        let file = folder.path().join("captured.json");
        let captured = oarlock(library(), stub.env(), &["capture", "--output", file.to_str().unwrap()]);
        assert_eq!(captured.status, 0, "{captured:?}");
        assert_eq!(captured.stderr.matches("where sysfs has no device").count(), 8, "{captured:?}");
        let machine: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let gpus = machine["gpus"].as_array().unwrap();
        assert_eq!(gpus.len(), 8);
        for (gpu, stated) in gpus.iter().zip(stated["gpus"].as_array().unwrap()) {
            assert!(gpu["uuid"].as_str().unwrap().starts_with("GPU-"), "{gpu}");
            let (node, from) = (gpu["numa_node"].as_u64(), gpu["numa_node_from"].as_str());
            match stated["numa_node"].as_u64().filter(|node| all.contains(node)) {
                Some(stated) => assert_eq!((node, from), (Some(stated), Some("nvml")), "{gpu}"),
                None if bearing.len() == 1 => {
                    assert_eq!((node, from), (bearing.first().copied(), Some("only_node")), "{gpu}");
                }
                None => assert_eq!((node, from), (None, None), "{gpu}"),
            }
        }
        for gpu in 0..8 {
            let row = |machine: &Value| machine["link_matrix"]["rows"][format!("GPU{gpu}")].as_array().unwrap().clone();
            assert_eq!(row(&machine), row(&stated)[..8], "{fixture}");
        }
        // What was captured is a machine file like any other.
        let shown = call::oarlock(&["topology", "--machine", file.to_str().unwrap()]);
        assert!(
            shown.status == 0 && shown.stdout.contains("\nLINKS\n") && !shown.stdout.contains("warning"),
            "{shown:?}"
        );
    }
}

#[test]
fn a_plan_names_the_gpus_by_nvmls_index_and_uuid() {
    let (stub, _folder) = stub("dgx-a100-nps4.json");
    let env = || stub.env();
    let plan = json(&oarlock(library(), env(), &["plan", "--cpu-map", "auto", "--format", "json"]));
    let gpus: Vec<&Value> = plan["ranks"].as_array().unwrap().iter().map(|rank| &rank["gpus"][0]).collect();
    assert_eq!(gpus, [0, 1, 2, 3, 4, 5, 6, 7]);
    let machine = json(&oarlock(library(), env(), &["topology", "--format", "json"]));
    let uuid = machine["gpus"][5]["uuid"].as_str().unwrap();
    let plan = json(&oarlock(library(), env(), &["plan", "--cpu-map", "auto", "--gpus", uuid, "--format", "json"]));
    assert_eq!(plan["ranks"][0]["gpus"][0], 5);
}

#[test]
fn the_flag_counts_before_the_environment() {
    let (stub, _folder) = stub("polaris.json");
    let args = ["topology", "--format", "json", "--nvml-library", library().to_str().unwrap()];
    let machine = json(&oarlock(Path::new("/nonexistent.so"), stub.env(), &args));
    assert_eq!(machine["gpus"].as_array().unwrap().len(), 4);
}

/// What `capture` says of a library, beside a machine without its GPUs.
#[track_caller]
fn said_without_gpus(library: &Path, env: impl IntoIterator<Item = (&'static str, OsString)>) -> String {
    let call = oarlock(library, env, &["capture"]);
    assert_eq!(json(&call)["gpus"], json(&call::oarlock(&["capture"]))["gpus"]);
    call.stderr
}

#[test]
fn a_library_that_is_absent_none_or_foreign_is_a_warning_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let (absent, text) = (folder.path().join("libnvidia-ml.so.1"), folder.path().join("text.so"));
    std::fs::write(&text, "no library").unwrap();
    for path in [&absent, &text] {
        let said = said_without_gpus(path, []);
        let begins = format!("oarlock: no NVML, so GPUs have no UUID: {} cannot be loaded: ", path.display());
        assert!(said.starts_with(&begins) && said.matches('\n').count() == 1, "{said}");
    }
    let said = said_without_gpus(Path::new("libc.so.6"), []);
    assert!(said.starts_with("oarlock: no NVML, so GPUs have no UUID: libc.so.6 does not start: "), "{said}");
}

#[test]
fn a_driver_that_is_not_loaded_is_a_warning() {
    let said = said_without_gpus(library(), []);
    assert!(said.ends_with(" is here, but NVIDIA's driver is not loaded\n") && said.lines().count() == 1, "{said}");
    let (stub, _folder) = stub("polaris.json");
    std::fs::write(&stub.machine, "{").unwrap();
    let said = said_without_gpus(library(), stub.env());
    assert!(said.contains("oarlock-nvml-stub: ") && said.contains("driver is not loaded"), "{said}");
}

#[test]
fn a_lost_gpu_is_left_out_by_name_and_the_others_keep_their_numbers() {
    let (stub, _folder) = stub("dgx-a100-nps4.json");
    stub.order("lost 3");
    let call = oarlock(library(), stub.env(), &["capture"]);
    let machine = json(&call);
    let indices: Vec<u64> =
        machine["gpus"].as_array().unwrap().iter().map(|gpu| gpu["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [0, 1, 2, 4, 5, 6, 7]);
    assert!(call.stderr.starts_with("oarlock: NVML cannot reach gpu 3: the gpu is lost: "), "{call:?}");
    assert_eq!(machine["link_matrix"]["rows"]["GPU7"][3], "NV12");
    let refused = oarlock(library(), stub.env(), &["plan", "--cpu-map", "auto", "--gpus", "3"]);
    assert!(refused.says("oarlock", 1).contains("has no gpu 3"), "{refused:?}");
    stub.order("back 3");
    assert_eq!(json(&oarlock(library(), stub.env(), &["capture"]))["gpus"].as_array().unwrap().len(), 8);
}

#[test]
fn a_short_hiccup_changes_nothing_and_a_long_one_is_a_warning() {
    let (stub, _folder) = stub("polaris.json");
    let calm = oarlock(library(), stub.env(), &["capture"]);
    stub.order("hiccup 2");
    let hiccup = oarlock(library(), stub.env(), &["capture"]);
    assert_eq!((hiccup.status, &hiccup.stdout, &hiccup.stderr), (0, &calm.stdout, &calm.stderr));
    stub.order("hiccup 1000000");
    let said = said_without_gpus(library(), stub.env());
    assert!(said.contains(" does not start: ") && said.lines().count() == 1, "{said}");
}

#[test]
fn a_machine_that_is_read_from_a_file_asks_no_nvml() {
    let (stub, _folder) = stub("polaris.json");
    let file = stub.machine.to_str().unwrap();
    let call = oarlock(Path::new("/nonexistent.so"), [], &["topology", "--machine", file]);
    assert!(call.status == 0 && !call.stdout.contains("NVML"), "{call:?}");
}
