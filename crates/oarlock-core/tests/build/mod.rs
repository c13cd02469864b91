//! Machines for the tests, built by rule.
#![allow(dead_code, reason = "each test binary uses its own part")]

use oarlock_core::idset::{CpuSet, NodeSet};
use oarlock_core::ledger::Ledger;
use oarlock_core::locality::{Evidence, Locality};
use oarlock_core::machine::{Gpu, Machine, Node, Package};
use oarlock_core::{Plan, Refusal, Request, plan};

pub(crate) fn cpus(text: &str) -> CpuSet {
    text.parse().unwrap()
}

pub(crate) fn nodes(text: &str) -> NodeSet {
    text.parse().unwrap()
}

pub(crate) fn on(node: u32) -> Locality {
    Locality::Node { node, from: Evidence::NumaNode }
}

pub(crate) fn unknown() -> Locality {
    Locality::Unknown { why: "its numa_node is -1 and it has no local cpus".to_owned() }
}

pub(crate) fn gpu(index: u32, locality: Locality) -> Gpu {
    Gpu {
        index,
        pci: format!("0000:{:02x}:00.0", 0x10 + index).parse().ok(),
        uuid: None,
        model: None,
        locality,
        local_cpus: None,
        memory_node: None,
    }
}

pub(crate) fn node(id: u32, cpulist: &str, memory_mb: Option<u64>) -> Node {
    Node { id, cpus: cpus(cpulist), memory_mb, gpu_memory: false }
}

/// Nodes with these ids and CPU lists, 1024 MiB each, and one GPU per entry of `gpus`.
pub(crate) fn machine(list: &[(u32, &str)], gpus: &[Locality]) -> Machine {
    Machine {
        name: "test".to_owned(),
        nodes: list.iter().map(|(id, cpulist)| node(*id, cpulist, Some(1024))).collect(),
        gpus: gpus.iter().enumerate().map(|(index, locality)| gpu(index as u32, locality.clone())).collect(),
        ..Machine::default()
    }
    .checked()
    .unwrap()
}

/// Two nodes of four cores with two threads (c, c+8), two L3 groups each, two packages, two GPUs on each.
pub(crate) fn two_socket() -> Machine {
    let mut machine = machine(&[(0, "0-3,8-11"), (1, "4-7,12-15")], &[on(0), on(0), on(1), on(1)]);
    machine.cores = Some((0..8).map(|c| CpuSet::from_iter([c, c + 8])).collect());
    machine.l3 = Some(["0-1,8-9", "2-3,10-11", "4-5,12-13", "6-7,14-15"].map(cpus).to_vec());
    machine.packages =
        Some(vec![Package { id: 0, cpus: cpus("0-3,8-11") }, Package { id: 1, cpus: cpus("4-7,12-15") }]);
    machine.distances = Some(vec![vec![10, 21], vec![21, 10]]);
    machine.checked().unwrap()
}

/// A request from annotations without their prefix.
pub(crate) fn request(pairs: &[(&str, &str)]) -> Request {
    let mut request = Request::default();
    for (key, value) in pairs {
        request.set(key, value).unwrap();
    }
    request
}

pub(crate) fn planned(machine: &Machine, pairs: &[(&str, &str)]) -> Plan {
    plan(machine, &Ledger::default(), &request(pairs)).unwrap()
}

pub(crate) fn refused(machine: &Machine, pairs: &[(&str, &str)]) -> Refusal {
    let mut request = Request::default();
    for (key, value) in pairs {
        if let Err(refusal) = request.set(key, value) {
            return refusal;
        }
    }
    plan(machine, &Ledger::default(), &request).unwrap_err()
}

/// Each rank's CPUs in list form, `-` where unbound.
pub(crate) fn cpus_of(plan: &Plan) -> Vec<String> {
    plan.ranks.iter().map(|rank| rank.cpus.as_ref().map_or("-".to_owned(), ToString::to_string)).collect()
}

/// Each rank's memory nodes in list form, `-` where unbound.
pub(crate) fn mems_of(plan: &Plan) -> Vec<String> {
    plan.ranks.iter().map(|rank| rank.mems.as_ref().map_or("-".to_owned(), ToString::to_string)).collect()
}

pub(crate) fn warnings_of(plan: &Plan) -> String {
    plan.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
