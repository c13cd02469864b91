//! torchrun's own binding cases, and the ones its rules imply, through the command line: the same machines, the same
//! answers where torchrun works, and an answer where it fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod call;

use call::{Call, oarlock};
use oarlock_testkit::{Siblings, SysDevice, SysTree};
use serde_json::Value;

/// A machine on disk, and calls of `oarlock plan` on it.
struct Case(tempfile::TempDir);

impl Case {
    fn new(tree: &SysTree) -> Self {
        let dir = tempfile::tempdir().unwrap();
        tree.write(dir.path()).unwrap();
        Self(dir)
    }

    /// torchrun's test machine: sockets × nodes per socket × GPUs per node × L3 per node × cores per L3.
    fn torchrun(sockets: u32, nodes: u32, gpus: u32, l3: u32, cores: u32) -> Self {
        Self::new(&SysTree::torchrun(sockets, nodes, gpus, l3, cores))
    }

    fn call(&self, args: &[&str]) -> Call {
        let machine = self.0.path().to_str().unwrap();
        oarlock(&[&["plan", "--format", "json", "--machine", machine], args].concat())
    }

    fn plan(&self, args: &[&str]) -> Value {
        let call = self.call(args);
        assert_eq!(call.status, 0, "{args:?}: {}", call.stderr);
        serde_json::from_str(&call.stdout).unwrap()
    }

    fn cpus(&self, args: &[&str], rank: usize) -> String {
        self.plan(args)["ranks"][rank]["cpus"].as_str().unwrap().to_owned()
    }

    fn refusal(&self, args: &[&str]) -> Value {
        let call = self.call(args);
        assert_eq!((call.status, call.stderr.as_str()), (1, ""), "{args:?}: {}", call.stdout);
        serde_json::from_str::<Value>(&call.stdout).unwrap()["refusal"].clone()
    }
}

#[test]
fn node_binds_rank_11_to_the_node_of_gpu_11() {
    let case = Case::torchrun(4, 2, 2, 4, 2);
    let plan = case.plan(&["--cpu-map", "node", "--mem-map", "auto", "--mem-policy", "preferred"]);
    assert_eq!(plan["ranks"][11]["cpus"], "80-95");
    assert_eq!(plan["ranks"][11]["mems"], "5", "numactl --preferred=5 in torchrun's first version");
    assert_eq!(plan["mem_policy"], "preferred");
}

#[test]
fn nothing_is_bound_where_nothing_was_asked_for() {
    let plan = Case::torchrun(4, 2, 2, 4, 2).plan(&[]);
    assert_eq!(plan["ranks"][11]["cpus"], Value::Null);
    assert_eq!(plan["container"]["cpus"], "0-127");
}

#[test]
fn a_node_that_cannot_be_found_leaves_the_rank_unbound_or_refuses_where_that_was_asked_for() {
    let tree = SysTree::new(2, 1, 1, 1, 2).siblings(Siblings::Adjacent).device(SysDevice::gpu("0000:00:00.0"));
    let case = Case::new(&tree);
    let plan = case.plan(&["--cpu-map", "node"]);
    assert_eq!(plan["ranks"][0]["cpus"], Value::Null);
    assert!(plan["warnings"][0].as_str().unwrap().contains("rank 0 stays unbound"), "{plan}");
    let refusal = case.refusal(&["--cpu-map", "node", "--on-failure", "refuse"]);
    assert_eq!(refusal["key"], "oarlock.dev/on-failure");
}

#[test]
fn no_program_in_the_path_is_needed() {
    let case = Case::torchrun(2, 1, 1, 1, 1);
    let machine = case.0.path().to_str().unwrap();
    let output = assert_cmd::Command::cargo_bin("oarlock")
        .unwrap()
        .args(["plan", "--machine", machine, "--cpu-map", "node", "--format", "json"])
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["ranks"][1]["cpus"], "2-3");
}

#[test]
fn more_ranks_than_gpus_is_no_failure() {
    let plan = Case::torchrun(1, 1, 1, 1, 1).plan(&["--cpu-map", "node", "--ranks", "2"]);
    assert_eq!((&plan["ranks"][0]["cpus"], &plan["ranks"][1]["cpus"]), (&"0-1".into(), &Value::Null));
}

#[test]
fn socket_joins_the_nodes_of_one_package() {
    let case = Case::torchrun(4, 2, 2, 4, 2);
    let plan = case.plan(&["--cpu-map", "socket", "--mem-map", "auto"]);
    assert_eq!(plan["ranks"][15]["cpus"], "96-127");
    assert_eq!(plan["ranks"][15]["mems"], "6-7", "numactl --preferred-many=6-7 in torchrun's first version");
    let single = Case::torchrun(4, 1, 2, 4, 2).plan(&["--cpu-map", "socket", "--mem-map", "auto"]);
    assert_eq!((&single["ranks"][7]["cpus"], &single["ranks"][7]["mems"]), (&"48-63".into(), &"3".into()));
}

#[test]
fn exclusive_gives_the_first_gpus_the_extra_cores() {
    let case = Case::torchrun(2, 1, 2, 1, 3);
    let plan = case.plan(&["--cpu-map", "exclusive", "--mem-map", "auto"]);
    assert_eq!((&plan["ranks"][0]["cpus"], &plan["ranks"][1]["cpus"]), (&"0-3".into(), &"4-5".into()));
    assert_eq!(plan["ranks"][0]["mems"], "0");
}

#[test]
fn exclusive_with_fewer_cores_than_gpus_is_refused_with_both_numbers() {
    let refusal = Case::torchrun(2, 1, 2, 1, 1).refusal(&["--cpu-map", "exclusive"]);
    assert_eq!((&refusal["key"], &refusal["value"]), (&"oarlock.dev/cpu-map".into(), &"exclusive".into()));
    let message = refusal["message"].as_str().unwrap();
    assert!(message.contains("node 0 has 1 free core for 2 ranks"), "{message}");
}

#[test]
fn core_complex_deals_caches_out_in_turn() {
    let plan = Case::torchrun(2, 1, 2, 3, 3).plan(&["--cpu-map", "core-complex", "--mem-map", "auto"]);
    assert_eq!((&plan["ranks"][3]["cpus"], &plan["ranks"][3]["mems"]), (&"24-29".into(), &"1".into()));
    assert_eq!(Case::torchrun(2, 1, 2, 1, 3).cpus(&["--cpu-map", "core-complex"], 3), "6-11");
}

#[test]
fn core_complex_prefers_the_cache_with_more_allowed_cpus_and_then_the_lower() {
    let args = ["--cpu-map", "core-complex", "--allowed-cpus", "0,4,6-7,9"];
    assert_eq!(Case::torchrun(1, 1, 1, 3, 3).cpus(&args, 0), "6-7,9");
    assert_eq!(Case::torchrun(1, 1, 1, 2, 1).cpus(&["--cpu-map", "core-complex"], 0), "0-1");
}

#[test]
fn minus_one_is_node_0_only_where_there_is_one_node() {
    let gpu = || SysDevice::gpu("0000:00:00.0").numa_node(-1);
    let one = SysTree::new(1, 1, 1, 1, 2).siblings(Siblings::Adjacent).device(gpu());
    assert_eq!(Case::new(&one).cpus(&["--cpu-map", "node"], 0), "0-1");
    let two = SysTree::new(2, 1, 1, 1, 2).siblings(Siblings::Adjacent).device(gpu());
    assert_eq!(Case::new(&two).plan(&["--cpu-map", "node"])["ranks"][0]["cpus"], Value::Null, "torchrun says node 0");
}

#[test]
fn an_empty_set_is_never_bound_to() {
    let refusal = Case::torchrun(1, 1, 1, 1, 1).refusal(&["--cpu-map", "node", "--allowed-cpus", "2-3"]);
    assert!(refusal["message"].as_str().unwrap().contains("no cpu is left"), "{refusal}");
}

#[test]
fn ranges_are_read_in_any_order_and_printed_in_one() {
    let case = Case::torchrun(1, 1, 1, 1, 4);
    assert_eq!(case.cpus(&["--cpu-map", "cpus:0-2,4,6-7"], 0), "0-2,4,6-7");
    assert_eq!(case.cpus(&["--cpu-map", "cpus:7,0,1,6,2,4"], 0), "0-2,4,6-7");
}

#[test]
fn exclusive_on_two_sockets_of_52_cores() {
    let tree = SysTree::new(2, 1, 1, 52, 2).siblings(Siblings::Interleaved);
    let tree = (0..4).fold(tree, |tree, gpu| tree.device(SysDevice::gpu(&format!("0000:{gpu:02x}:00.0")).numa_node(0)));
    let plan = Case::new(&tree).plan(&["--cpu-map", "exclusive"]);
    for (rank, cpus) in ["0-12,104-116", "13-25,117-129", "26-38,130-142", "39-51,143-155"].iter().enumerate() {
        assert_eq!(plan["ranks"][rank]["cpus"], *cpus);
    }
}

#[test]
fn exclusive_on_two_sockets_of_24_cores_with_eight_gpus() {
    let tree = SysTree::new(2, 1, 1, 24, 2).siblings(Siblings::Interleaved);
    let gpu = |gpu: i64| SysDevice::gpu(&format!("0000:{gpu:02x}:00.0")).numa_node(gpu / 4);
    let plan = Case::new(&(0..8).fold(tree, |tree, index| tree.device(gpu(index)))).plan(&["--cpu-map", "exclusive"]);
    let expected = [
        "0-5,48-53",
        "6-11,54-59",
        "12-17,60-65",
        "18-23,66-71",
        "24-29,72-77",
        "30-35,78-83",
        "36-41,84-89",
        "42-47,90-95",
    ];
    for (rank, cpus) in expected.iter().enumerate() {
        assert_eq!(plan["ranks"][rank]["cpus"], *cpus);
    }
}

#[test]
fn exclusive_leaves_reserved_cores_alone() {
    let tree = SysTree::new(2, 1, 1, 24, 2).siblings(Siblings::Interleaved);
    let tree = (0..3).fold(tree, |tree, gpu| tree.device(SysDevice::gpu(&format!("0000:{gpu:02x}:00.0")).numa_node(0)));
    let plan = Case::new(&tree).plan(&["--cpu-map", "exclusive", "--reserved-cpus", "0-1,48-49"]);
    for (rank, cpus) in ["2-9,50-57", "10-16,58-64", "17-23,65-71"].iter().enumerate() {
        assert_eq!(plan["ranks"][rank]["cpus"], *cpus);
    }
}

#[test]
fn a_node_of_a_dgx_a100_is_split_by_cache_or_by_core() {
    let tree = SysTree::new(2, 4, 4, 4, 2).siblings(Siblings::Interleaved);
    let tree = (0..2).fold(tree, |tree, gpu| tree.device(SysDevice::gpu(&format!("0000:{gpu:02x}:00.0")).numa_node(3)));
    let case = Case::new(&tree);
    assert_eq!(case.cpus(&["--cpu-map", "auto"], 0), "48-63,176-191");
    assert_eq!(case.cpus(&["--cpu-map", "core-complex"], 0), "48-51,176-179");
    assert_eq!(case.cpus(&["--cpu-map", "core-complex"], 1), "52-55,180-183");
    assert_eq!(case.cpus(&["--cpu-map", "exclusive"], 0), "48-55,176-183");
    assert_eq!(case.cpus(&["--cpu-map", "exclusive"], 1), "56-63,184-191");
}

#[test]
fn caches_go_by_what_is_allowed_of_them() {
    let tree = SysTree::new(1, 1, 3, 6, 1);
    let tree = (0..3).fold(tree, |tree, gpu| tree.device(SysDevice::gpu(&format!("0000:{gpu:02x}:00.0")).numa_node(0)));
    let plan = Case::new(&tree).plan(&["--cpu-map", "core-complex", "--allowed-cpus", "0-1,6-15"]);
    for (rank, cpus) in ["6-11", "12-15", "0-1"].iter().enumerate() {
        assert_eq!(plan["ranks"][rank]["cpus"], *cpus);
    }
}

#[test]
fn socket_passes_over_nodes_without_cpus_offline_nodes_and_disallowed_ones() {
    let tree = SysTree::torchrun(2, 2, 1, 1, 2).memory_only_node(9, 4096);
    let case = Case::new(&tree);
    assert_eq!(case.cpus(&["--cpu-map", "socket"], 3), "8-15");
    let cut = ["--cpu-map", "socket", "--allowed-cpus", "0-3,8-11", "--gpus", "2"];
    assert_eq!(case.cpus(&cut, 0), "8-11", "no cpu of node 3 is allowed");
}
