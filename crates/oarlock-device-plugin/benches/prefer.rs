//! How long choosing devices takes, for every size of 8 and of 16 GPUs.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use oarlock_core::Machine;
use oarlock_core::idset::CpuSet;
use oarlock_core::link::Link;
use oarlock_core::locality::{Evidence, Locality};
use oarlock_core::machine::{Gpu, Node};
use oarlock_device_plugin::prefer::Closeness;

/// GPUs on four nodes, no two pairs of them joined alike over and over, so that nothing can be skipped.
fn machine(count: usize) -> Machine {
    let kinds = [Link::NvLink(12), Link::NvLink(6), Link::Switch, Link::Switches, Link::HostBridge, Link::System];
    let gpu = |index: usize| Gpu {
        index: index as u32,
        pci: None,
        uuid: None,
        model: None,
        locality: Locality::Node { node: (index * 4 / count) as u32, from: Evidence::NumaNode },
        local_cpus: None,
        memory_node: None,
    };
    Machine {
        name: "bench".to_owned(),
        nodes: (0..4).map(|id| Node { id, cpus: CpuSet::of(id), memory_mb: None, gpu_memory: false }).collect(),
        gpus: (0..count).map(gpu).collect(),
        links: Some((0..count).map(|i| (0..count).map(|j| kinds[(i * j + i + j) % kinds.len()]).collect()).collect()),
        ..Machine::default()
    }
    .checked()
    .expect("the parts fit together by construction")
}

fn choose(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("prefer");
    // 48 benchmarks: a second each says enough.
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for (name, uniform) in [("mixed links", false), ("all alike", true)] {
        for count in [8, 16] {
            let mut machine = machine(count);
            if uniform {
                machine.links = Some(vec![vec![Link::NvLink(18); count]; count]);
            }
            let all: Vec<usize> = (0..count).collect();
            let closeness = Closeness::of_gpus(&machine, &all);
            for size in 1..=count {
                group.bench_function(BenchmarkId::new(format!("{name}, of {count}"), size), |bencher| {
                    bencher.iter(|| closeness.choose(black_box(&all), &[], black_box(size)));
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, choose);
criterion_main!(benches);
