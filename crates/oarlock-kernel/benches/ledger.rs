//! How long reading a ledger of a hundred containers takes: where nothing changed, and where one entry did.

use std::fs::File;
use std::time::{Duration, SystemTime};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use oarlock_core::rankenv::{RankEntry, RankEnv};
use oarlock_core::request::MemPolicy;
use oarlock_kernel::ledger::{Before, ContainerSets, Entry, LedgerFolder, Pod, Source};

const BOOT: &str = "b007";

/// A container of eight ranks.
fn entry(number: usize) -> Entry {
    let rank = RankEntry {
        cpus: Some((0..16).collect()),
        mems: Some((0..1).collect()),
        gpus: vec![3],
        ..RankEntry::default()
    };
    Entry {
        id: format!("{number:064x}"),
        name: "trainer".to_owned(),
        pod: Pod { namespace: "ml".to_owned(), name: format!("job-worker-{number}"), uid: "0d5f".to_owned() },
        boot: BOOT.to_owned(),
        source: Source::Nri,
        cgroup: Some(format!("/kubepods.slice/cri-containerd-{number:064x}.scope")),
        ranks: RankEnv {
            cpu_map: "auto".to_owned(),
            mem_map: "auto".to_owned(),
            mem_policy: MemPolicy::Bind,
            ranks: vec![rank; 8],
        },
        container: ContainerSets::default(),
        before: Before::default(),
        exclusive: (0..16).collect(),
        alone: false,
        reasons: vec!["gpu 3 (0000:07:00.0) is on node 3".to_owned(); 8],
        warnings: Vec::new(),
        unpinned: false,
        other: serde_json::Map::new(),
    }
}

fn read(criterion: &mut Criterion) {
    let run = tempfile::tempdir_in("/dev/shm").expect("a folder in memory, as /run is");
    let ledger = LedgerFolder::in_run_dir(run.path());
    let locked = ledger.lock(Duration::from_secs(10)).expect("nobody else knows this folder");
    for number in 0..100 {
        locked.put(&entry(number)).expect("the folder can be written");
    }
    let mut reader = ledger.reader(BOOT);
    let settle = || {
        let folder = File::open(run.path().join("ledger")).expect("it was made above");
        folder.set_modified(SystemTime::now() - Duration::from_secs(60)).expect("it is our own");
    };
    let mut group = criterion.benchmark_group("ledger");
    settle();
    group.bench_function("nothing changed", |bencher| {
        bencher.iter(|| reader.read().expect("it is there").entries().next().is_some());
    });
    group.bench_function("one of 100 entries changed", |bencher| {
        let change = || locked.put(&entry(7)).expect("the folder can be written");
        bencher.iter_batched(
            change,
            |()| reader.read().expect("it is there").get("7").is_some(),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("an entry is written", |bencher| {
        let entry = entry(8);
        bencher.iter(|| locked.put(&entry).expect("the folder can be written"));
    });
    group.finish();
}

criterion_group!(benches, read);
criterion_main!(benches);
