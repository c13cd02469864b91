//! How long one plan takes: DESIGN's two sizes, and the id set.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use oarlock_core::idset::CpuSet;
use oarlock_core::ledger::Ledger;
use oarlock_core::locality::{Evidence, Locality};
use oarlock_core::machine::{Gpu, Machine, Node, Package};
use oarlock_core::{Request, plan};

/// `nodes` nodes of `cpus` CPUs in all with two threads per core, and `gpus` GPUs spread over them backwards.
fn machine(nodes: u32, cpus: u32, gpus: u32) -> Machine {
    let cores = cpus / 2;
    let per_node = cores / nodes;
    let threads = |first: u32, count: u32| -> CpuSet { (first..first + count).flat_map(|c| [c, c + cores]).collect() };
    Machine {
        links: None,
        name: "bench".to_owned(),
        nodes: (0..nodes)
            .map(|id| Node { id, cpus: threads(id * per_node, per_node), memory_mb: Some(64 << 10), gpu_memory: false })
            .collect(),
        cores: Some((0..cores).map(|core| threads(core, 1)).collect()),
        cores_assumed: false,
        l3: Some((0..cores).step_by(4).map(|core| threads(core, 4)).collect()),
        packages: Some(vec![Package { id: 0, cpus: threads(0, cores) }]),
        distances: Some((0..nodes).map(|from| (0..nodes).map(|to| 10 + 2 * from.abs_diff(to)).collect()).collect()),
        gpus: (0..gpus)
            .map(|index| Gpu {
                index,
                pci: None,
                uuid: None,
                model: None,
                locality: Locality::Node { node: nodes - 1 - index * nodes / gpus, from: Evidence::NumaNode },
                local_cpus: None,
                memory_node: None,
            })
            .collect(),
        devices: Vec::new(),
    }
    .checked()
    .expect("the parts fit together by construction")
}

fn plans(criterion: &mut Criterion) {
    let ledger = Ledger::default();
    let mut group = criterion.benchmark_group("plan");
    for (name, machine) in [
        ("8 ranks, 8 nodes, 256 cpus", machine(8, 256, 8)),
        ("128 ranks, 32 nodes, 2048 cpus", machine(32, 2048, 128)),
        ("256 ranks, 64 nodes, 4096 cpus", machine(64, 4096, 256)),
    ] {
        for map in ["auto", "exclusive"] {
            let mut request = Request::default();
            request.set("cpu-map", map).expect("a map");
            request.set("mem-map", "auto").expect("a map");
            group.bench_function(BenchmarkId::new(map, name), |bencher| {
                bencher.iter(|| plan(black_box(&machine), &ledger, black_box(&request)));
            });
        }
    }
    group.finish();
}

fn idset(criterion: &mut Criterion) {
    let text = "0-63,128-191,256-319,384-447";
    let set: CpuSet = text.parse().expect("a list");
    let mut group = criterion.benchmark_group("idset");
    group.bench_function("parse 256 cpus", |bencher| bencher.iter(|| black_box(text).parse::<CpuSet>()));
    group.bench_function("print 256 cpus", |bencher| bencher.iter(|| black_box(&set).to_string()));
    group.finish();
}

criterion_group!(benches, plans, idset);
criterion_main!(benches);
