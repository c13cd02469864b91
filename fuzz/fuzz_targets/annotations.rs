//! Annotations: one `key=value` a line. A request is the same when its maps are printed and read again, and plans or is
//! refused, but never panics.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use oarlock_core::idset::CpuSet;
use oarlock_core::ledger::Ledger;
use oarlock_core::locality::{Evidence, Locality};
use oarlock_core::machine::{Gpu, Machine, Node};
use oarlock_core::request::{CpuMap, MemMap, Request};
use oarlock_core::plan;

/// Three nodes, one of them without CPUs, and four GPUs in no order.
static MACHINE: LazyLock<Machine> = LazyLock::new(|| {
    let cpus = |list: &str| list.parse::<CpuSet>().expect("a list");
    let node = |id, list| Node { id, cpus: cpus(list), memory_mb: Some(1024), gpu_memory: false };
    let gpu = |index, node| Gpu {
        index,
        pci: None,
        uuid: None,
        model: None,
        locality: Locality::Node { node, from: Evidence::NumaNode },
        local_cpus: None,
        memory_node: None,
    };
    let machine = Machine {
        nodes: vec![node(0, "0-7"), node(1, ""), node(3, "8-15")],
        gpus: vec![gpu(0, 3), gpu(1, 3), gpu(2, 0), gpu(3, 1)],
        ..Machine::default()
    };
    machine.checked().expect("the parts fit together")
});

fuzz_target!(|text: &str| {
    let keyed: Vec<(String, &str)> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (format!("oarlock.dev/{key}"), value))
        .collect();
    let Ok(Some(request)) = Request::from_annotations(keyed.iter().map(|(key, value)| (key.as_str(), *value))) else {
        return;
    };
    assert_eq!(CpuMap::parse(&request.cpu_map.to_string()).as_ref(), Ok(&request.cpu_map));
    assert_eq!(MemMap::parse(&request.mem_map.to_string()).as_ref(), Ok(&request.mem_map));
    if let Ok(plan) = plan(&MACHINE, &Ledger::default(), &request) {
        let all = MACHINE.cpus();
        for rank in &plan.ranks {
            assert!(rank.cpus.as_ref().is_none_or(|cpus| !cpus.is_empty() && cpus.is_subset(&all)), "{rank:?}");
        }
    }
});
