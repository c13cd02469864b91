use std::collections::BTreeMap;

use oarlock_core::locality::{Evidence, Locality};
use oarlock_core::machine::{Gpu, Node};
use oarlock_core::place::Held;
use oarlock_core::request::GpuRef;
use oarlock_core::{CpuSet, Machine, NodeSet};
use oarlock_device_plugin::pod_resources::HeldDevices;

use super::{Given, Knowledge, OwnResources, held};

/// Nodes 3 and 1 with CPUs 0-3 and 4-7; GPUs by index on nodes 3, 1, 1, 3, their addresses in another order.
fn known() -> Knowledge {
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
    Knowledge {
        machine: machine.checked().unwrap(),
        slices: BTreeMap::from([("MIG-a".to_owned(), "0000:05:00.0".parse().unwrap())]),
        slots: BTreeMap::from([("node-1".to_owned(), (1, set("4-7"))), ("node-3".to_owned(), (3, set("1-3")))]),
        given: Given::default(),
        own: OwnResources {
            gpu: "oarlock.dev/gpu".to_owned(),
            mig_prefix: "oarlock.dev/mig-".to_owned(),
            numa_node: "oarlock.dev/numa-node".to_owned(),
        },
    }
}

fn set(cpus: &str) -> CpuSet {
    cpus.parse().unwrap()
}

fn nodes(nodes: &str) -> NodeSet {
    nodes.parse().unwrap()
}

fn devices(resource: &str, ids: &[&str], on: &str) -> HeldDevices {
    let ids = ids.iter().map(|&id| id.to_owned()).collect();
    HeldDevices { resource: resource.to_owned(), ids, nodes: nodes(on) }
}

fn indices(held: &Held) -> Vec<u32> {
    let index = |gpu: &GpuRef| match gpu {
        GpuRef::Index(index) => *index,
        other => panic!("{other}"),
    };
    held.gpus.iter().map(index).collect()
}

/// What a container holds with this word of kubelet's, this environment and these annotations.
fn holds(
    known: &Knowledge,
    devices: Option<&[HeldDevices]>,
    env: &[(&'static str, &'static str)],
    annotations: &[(&'static str, &'static str)],
) -> Held {
    let env = |key: &str| env.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
    held(known, devices, &env, annotations.iter().copied())
}

#[test]
fn kubelets_word_counts_and_gpus_are_in_the_order_of_their_addresses() {
    let word = [devices("nvidia.com/gpu", &["GPU-0", "GPU-2"], ""), devices("rdma/hca", &["GPU-1"], "1")];
    assert_eq!(indices(&holds(&known(), Some(&word), &[], &[])), [2, 0]);
    let mig = [devices("oarlock.dev/mig-1g.10gb", &["MIG-a"], ""), devices("nvidia.com/gpu", &["GPU-2::3"], "")];
    assert_eq!(indices(&holds(&known(), Some(&mig), &[], &[])), [2], "two parts of one gpu are one place");
    let address = [devices("oarlock.dev/gpu", &["0000:07:00.0"], "")];
    assert_eq!(indices(&holds(&known(), Some(&address), &[], &[])), [1]);
}

#[test]
fn an_environment_does_not_widen_what_kubelet_gave() {
    let forged =
        [("NVIDIA_VISIBLE_DEVICES", "all"), ("OARLOCK_GPUS", "GPU-0,GPU-1,GPU-2,GPU-3"), ("OARLOCK_NUMA_NODES", "1")];
    assert_eq!(holds(&known(), Some(&[]), &forged, &[("cdi.k8s.io/x", "nvidia.com/gpu=GPU-1")]), Held::default());
    let word = [devices("nvidia.com/gpu", &["GPU-1"], "1")];
    assert_eq!(indices(&holds(&known(), Some(&word), &forged, &[])), [1]);
}

#[test]
fn without_kubelets_word_own_variables_count_only_where_allocate_wrote_them() {
    let known = known();
    let env = [("OARLOCK_GPUS", "GPU-0"), ("NVIDIA_VISIBLE_DEVICES", "GPU-1"), ("OARLOCK_NUMA_NODES", "3")];
    let without = holds(&known, None, &env, &[]);
    assert_eq!((indices(&without), without.own), (vec![1], None));
    known.given.add(&["GPU-0", "node-3"].map(str::to_owned));
    let with = holds(&known, None, &env, &[]);
    assert_eq!((indices(&with), with.own), (vec![0], Some((set("1-3"), nodes("3")))));
}

#[test]
fn without_kubelets_word_the_runtimes_variable_and_cdi_names_tell() {
    let by = |value| holds(&known(), None, &[("NVIDIA_VISIBLE_DEVICES", value)], &[]);
    assert_eq!(indices(&by("all")), [3, 2, 1, 0]);
    assert_eq!(indices(&by("1,GPU-0")), [1, 0], "by NVML's index, too");
    for none in ["none", "void", "", ","] {
        assert_eq!(by(none), Held::default(), "{none:?}");
    }
    assert_eq!(by("GPU-9").unknown, ["GPU-9"]);
    let cdi = holds(
        &known(),
        None,
        &[],
        &[("cdi.k8s.io/a_b", "nvidia.com/gpu=GPU-3,nvidia.com/gpu=MIG-a"), ("x", "y=GPU-0")],
    );
    assert_eq!(indices(&cdi), [3, 2]);
}

#[test]
fn cuda_visible_devices_reorders_and_narrows_what_is_held() {
    let word = [devices("nvidia.com/gpu", &["GPU-0", "GPU-1", "GPU-3"], "")];
    let by = |value| indices(&holds(&known(), Some(&word), &[("CUDA_VISIBLE_DEVICES", value)], &[]));
    assert_eq!(by("2,0"), [0, 3], "numbers count what is held, by address");
    assert_eq!(by("GPU-1,GPU-2"), [1], "the list ends at what is not held");
}

#[test]
fn nodes_given_by_kubelet_are_the_containers_own() {
    let word = [devices("oarlock.dev/numa-node", &["node-3", "node-9"], "3")];
    assert_eq!(holds(&known(), Some(&word), &[], &[]).own, Some((set("1-3"), nodes("3"))));
}
