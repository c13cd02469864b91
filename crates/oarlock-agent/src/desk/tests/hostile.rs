//! Pods that mean no good: their containers start, a line says what is wrong, and nobody else pays for it.

use super::*;

/// As long as all annotations of a pod may be, together.
const LONG: usize = 256 << 10;

#[test]
fn endless_annotations_leave_the_container_as_it_was_with_a_line_that_says_why() {
    let mut office = office();
    let good = pod("good", &AUTO);
    let hostile = [
        ("cpu-map", "0,".repeat(LONG / 2)),
        ("cpu-map", "9".repeat(LONG)),
        ("cpu-map", format!("cpus:{}", "0-3;".repeat(LONG / 4))),
        ("mem-map", format!("{}0", "1,".repeat(1_000_000))),
        ("rank-gpus", format!("0;{}", "x".repeat(LONG))),
        ("containers", "a".repeat(LONG)),
        ("no-key-of-ours", "a".repeat(LONG)),
    ];
    for (number, (key, value)) in hostile.into_iter().enumerate() {
        let annotated = pod(&format!("bad{number}"), &[AUTO[0], (key, &value)]);
        assert_eq!(office.create(&annotated, &container(&annotated, &BOTH_GPUS, "")), Created::default());
        let (what, words) = office.notice();
        assert!(what == What::RanksUnbound && words.starts_with(&format!("{PREFIX}{key} ")), "{words:.700}");
        assert!(words.len() < 700, "{key}: {} bytes", words.len());
        let refused = pod(&format!("worse{number}"), &[AUTO[0], (key, &value), ("on-failure", "refuse")]);
        let refusal = office.desk.create(&refused, &container(&refused, &BOTH_GPUS, "")).unwrap_err();
        assert!(refusal.to_string().len() < 700 && office.notice().0 == What::BindingRefused);
    }
    assert_eq!(office.entries(), [""; 0]);
    assert_eq!(adjusted(office.create(&good, &container(&good, &BOTH_GPUS, ""))).0, "0-7");
}

#[test]
fn thousands_of_ranks_get_no_variable_that_the_kernel_would_refuse_and_are_found_again_after_a_restart() {
    let office = office();
    let many = pod("many", &[("cpu-map", "numa"), ("mem-map", "numa"), ("ranks", "8192")]);
    let env = office.create(&many, &container(&many, &BOTH_GPUS, "")).adjust.unwrap().env;
    assert!(env.iter().any(|entry| entry.key == "OARLOCK_RANK_CPUS"), "short lists fit");
    // On a machine with more CPUs.
    let mut known = office.desk.state().containers["main-many"].clone();
    for entry in &mut known.placement.as_mut().unwrap().ranks.ranks {
        entry.cpus = Some((0..64).map(|cpu| cpu * 2).collect());
    }
    let env = adjustment(&known, false).env;
    let length = |entry: &KeyValue| entry.key.len() + entry.value.len() + 2;
    assert!(env.iter().all(|entry| length(entry) <= 128 << 10), "{:?}", env.iter().map(length).max());
    assert!(env.iter().any(|entry| entry.key == "OARLOCK_RANKS" && entry.value == "8192"));
    let state = office.desk.state();
    office.desk.write(&state, &known);
    drop(state);
    let mut reader = LedgerFolder::in_run_dir(office.run_dir.path()).reader("b007");
    let entries = reader.read().unwrap();
    assert_eq!(entries.faults().count(), 0);
    assert_eq!(entries.entries().map(|entry| entry.ranks.ranks.len()).collect::<Vec<_>>(), [8192]);
}

#[test]
fn of_an_environment_of_megabytes_only_what_is_asked_for_is_kept() {
    let mut office = office();
    let annotated = pod("a", &AUTO);
    let mut main = container(&annotated, &BOTH_GPUS, "");
    main.env.extend((0..100_000).map(|number| format!("V{number}=x")));
    main.env.extend(["X".repeat(1 << 20), format!("OARLOCK_GPUS={}", "no-gpu,".repeat(1 << 17))]);
    main.annotations.insert("example.org/notes".to_owned(), "a".repeat(LONG));
    assert_eq!(adjusted(office.create(&annotated, &main)).0, "0-7", "what Allocate never gave is no gpu's name");
    let state = office.desk.state();
    let kept: usize = state.containers["main-a"].env.iter().map(String::len).sum();
    assert!(kept < 1 << 20, "{kept} bytes");
    assert_eq!((state.containers["main-a"].annotations.len(), state.containers["main-a"].env.len()), (0, 2));
    drop(state);

    let named = pod("b", &AUTO);
    let list = format!("NVIDIA_VISIBLE_DEVICES=GPU-1,{}", "\u{1f5a5}".repeat(1 << 18));
    office.create(&named, &container(&named, &[&list], ""));
    let warnings = office.desk.state().containers["main-b"].placement.clone().unwrap().warnings;
    assert!(warnings.iter().map(String::len).sum::<usize>() < 1000, "{warnings:.1000?}");
    assert!(office.notices.try_recv().is_err());
}
