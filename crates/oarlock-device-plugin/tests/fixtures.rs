//! The choice of devices on every known machine, against comparing all sets.

use std::path::Path;

use oarlock_device_plugin::prefer::Closeness;
use oarlock_discovery::{Options, Source, discover};

#[test]
fn no_set_scores_higher_than_the_chosen_one_on_any_known_machine() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/topologies");
    let mut tried = 0;
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        // Those that miss something are refused, which discovery's own tests show.
        let Ok(found) = discover(&Source::File(path.clone()), &Options::default()) else { continue };
        let count = found.machine.gpus.len();
        if !(2..=8).contains(&count) {
            continue;
        }
        tried += 1;
        let all: Vec<usize> = (0..count).collect();
        let closeness = Closeness::of_gpus(&found.machine, &all);
        for size in 1..=count {
            let sets = (0_u32..1 << count).filter(|bits| bits.count_ones() as usize == size);
            let best = sets
                .map(|bits| closeness.score(&all.iter().copied().filter(|i| bits & (1 << i) != 0).collect::<Vec<_>>()));
            let chosen = closeness.choose(&all, &[], size);
            assert_eq!(chosen.len(), size);
            assert_eq!(Some(closeness.score(&chosen)), best.max(), "{} of {}", size, path.display());
        }
    }
    assert!(tried >= 20, "only {tried} machines had two to eight GPUs");
}
