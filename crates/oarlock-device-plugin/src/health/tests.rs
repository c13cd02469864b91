use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn policy() -> Policy {
    Policy { hiccups: 3, driver_grace: 5 * SECOND, recover_probes: 3, recover_after: 10 * SECOND, ..Policy::default() }
}

/// Two whole GPUs, and one that is cut in two.
fn health() -> Health {
    let mut health = Health::new(policy());
    let part = |id: &str| (id.to_owned(), Some("c".to_owned()));
    let whole = |id: &str| (id.to_owned(), None);
    health.set_devices([whole("a"), whole("b"), whole("c"), part("c1"), part("c2")]);
    health
}

fn round(health: &mut Health, at: u64, odd: &[(&str, Probe)]) -> Vec<Change> {
    let mut results: BTreeMap<String, Probe> = health.devices.keys().map(|id| (id.clone(), Probe::Good)).collect();
    results.extend(odd.iter().map(|(id, probe)| ((*id).to_owned(), probe.clone())));
    health.round(&results, SECOND * at as u32)
}

fn hiccup() -> Probe {
    Probe::Hiccup("unknown error".to_owned())
}

fn lost() -> Probe {
    Probe::Lost("the gpu is lost".to_owned())
}

fn sick(health: &Health) -> Vec<&str> {
    health.ids().filter(|id| health.reason(id).is_some()).collect()
}

#[test]
fn an_xid_of_the_hardware_takes_the_gpu_and_all_its_parts_and_one_of_a_program_takes_none() {
    let mut health = health();
    for xid in APPLICATION_XIDS {
        assert_eq!(health.xid("c", xid), []);
    }
    let changes = health.xid("c", 79);
    assert_eq!(changes.iter().map(|change| change.id.as_str()).collect::<Vec<_>>(), ["c", "c1", "c2"]);
    assert_eq!(changes[1].reason.as_ref().unwrap().to_string(), "its GPU: it reported XID 79, and has to be reset");
    assert_eq!(changes[1].reason.as_ref().unwrap().label(), "xid-79");
    assert_eq!(sick(&health), ["c", "c1", "c2"]);
    assert_eq!(health.xid("c", 79), [], "the same again is no change");
    assert_eq!(health.xid("ghost", 79), []);
}

#[test]
fn a_part_that_is_lost_takes_neither_its_gpu_nor_its_neighbours() {
    let mut health = health();
    round(&mut health, 0, &[("c1", lost())]);
    assert_eq!(sick(&health), ["c1"]);
}

#[test]
fn a_device_is_healthy_again_after_enough_good_probes_over_enough_time() {
    let mut health = health();
    health.xid("a", 94);
    for at in [100, 101, 102, 103, 109] {
        assert_eq!(round(&mut health, at, &[]), [], "at {at}: many probes, too little time");
    }
    assert_eq!(round(&mut health, 110, &[]), [Change { id: "a".to_owned(), reason: None }]);

    health.xid("a", 94);
    round(&mut health, 200, &[]);
    assert_eq!(round(&mut health, 300, &[]), [], "much time, too few probes");
    assert_eq!(round(&mut health, 301, &[]).len(), 1);
}

#[test]
fn a_bad_probe_or_another_xid_while_recovering_begins_it_anew() {
    for bad in [Some(hiccup()), Some(lost()), None] {
        let mut health = health();
        health.xid("a", 94);
        round(&mut health, 0, &[]);
        round(&mut health, 9, &[]);
        match &bad {
            Some(probe) => drop(round(&mut health, 10, &[("a", probe.clone())])),
            None => drop(health.xid("a", 94)),
        }
        for at in [11, 12, 13, 20] {
            round(&mut health, at, &[]);
            assert_eq!(sick(&health), ["a"], "{bad:?} at {at}");
        }
        round(&mut health, 21, &[]);
        assert!(sick(&health).is_empty(), "{bad:?}");
    }
}

/// Good rounds for a long time.
fn long(health: &mut Health, from: u64) -> u64 {
    for at in (from..from + 1000).step_by(10) {
        round(health, at, &[]);
    }
    from + 1000
}

#[test]
fn after_an_xid_that_asks_for_a_reset_good_probes_count_only_once_the_gpu_has_been_away() {
    for xid in RESET_XIDS {
        for away in [lost(), Probe::Absent("no such gpu".to_owned())] {
            let mut health = health();
            health.xid("a", xid);
            let now = long(&mut health, 0);
            assert_eq!(sick(&health), ["a"], "XID {xid}");
            round(&mut health, now, &[("a", hiccup())]);
            let now = long(&mut health, now + 1);
            assert_eq!(sick(&health), ["a"], "a failed call is no reset: XID {xid}");
            round(&mut health, now, &[("a", away)]);
            round(&mut health, now + 1, &[]);
            assert_eq!(sick(&health), ["a"], "it has to earn its way back: XID {xid}");
            long(&mut health, now + 2);
            assert!(sick(&health).is_empty(), "XID {xid}");
        }
    }
}

#[test]
fn another_gpu_that_is_away_another_xid_and_a_silent_driver_are_no_reset_and_an_unloaded_driver_is() {
    let mut health = health();
    health.xid("c", 79);
    round(&mut health, 0, &[("a", lost()), ("c1", lost())]);
    assert_eq!(health.xid("c", 94), [], "a lesser error does not hide that a reset is due");
    assert_eq!(health.driver_away("NVML failed: unknown error", SECOND), []);
    let now = long(&mut health, 2);
    assert_eq!(sick(&health), ["c", "c1", "c2"]);
    health.driver_unloaded();
    round(&mut health, now, &[]);
    assert_eq!(sick(&health), ["c", "c1", "c2"]);
    long(&mut health, now + 1);
    assert!(sick(&health).is_empty());
}

#[test]
fn no_xid_is_both_a_programs_and_one_that_asks_for_a_reset() {
    assert!(RESET_XIDS.iter().all(|xid| !APPLICATION_XIDS.contains(xid)));
}

#[test]
fn a_hiccup_counts_when_it_comes_again_and_again_and_not_before() {
    let mut health = health();
    for at in [1, 2, 4, 5, 7, 8] {
        round(&mut health, at, &[("a", hiccup())]);
        assert!(sick(&health).is_empty());
        if at % 3 == 2 {
            round(&mut health, at + 1, &[]);
        }
    }
    for at in [10, 11] {
        round(&mut health, at, &[("a", hiccup())]);
    }
    let changes = round(&mut health, 12, &[("a", hiccup())]);
    assert_eq!(changes[0].reason, Some(Reason::Failing("unknown error".to_owned())));
}

#[test]
fn when_every_call_of_a_round_fails_the_library_is_at_fault_and_no_gpu() {
    let mut health = health();
    for at in 0..50 {
        let all = ["a", "b", "c", "c1", "c2"].map(|id| (id, hiccup()));
        assert_eq!(round(&mut health, at, &all), []);
    }
    round(&mut health, 50, &[("b", hiccup())]);
    assert!(sick(&health).is_empty(), "nothing was counted");
}

#[test]
fn a_driver_that_comes_back_within_the_grace_harms_nobody_and_one_that_stays_away_takes_all() {
    let mut health = health();
    for at in [0, 4] {
        assert_eq!(health.driver_away("reloading", SECOND * at), []);
    }
    round(&mut health, 5, &[]);
    for at in [6, 10] {
        assert_eq!(health.driver_away("reloading", SECOND * at), [], "the grace begins anew");
    }
    assert_eq!(health.driver_away("reloading", SECOND * 11).len(), 5);
    assert_eq!(health.reason("b").unwrap().label(), "driver");
    for at in [20, 25] {
        assert_eq!(round(&mut health, at, &[]), []);
    }
    assert_eq!(round(&mut health, 30, &[]).len(), 5);
}

#[test]
fn what_is_known_of_a_device_outlives_a_new_list() {
    let mut health = health();
    health.xid("a", 79);
    health.xid("b", 79);
    health.set_devices([("a".to_owned(), None), ("d".to_owned(), None)]);
    assert_eq!(sick(&health), ["a"]);
    health.set_devices([("b".to_owned(), None)]);
    assert!(sick(&health).is_empty(), "what was gone is new");
}

#[derive(Debug, Clone)]
enum Step {
    Xid(usize, u64),
    Round(Vec<Probe>),
    DriverAway,
}

const IDS: [&str; 5] = ["a", "b", "c", "c1", "c2"];

fn probe(weight_of_faults: u32) -> impl Strategy<Value = Probe> {
    prop_oneof![
        6 => Just(Probe::Good),
        3 => Just(Probe::Hiccup("why".to_owned())),
        weight_of_faults => Just(Probe::Lost("why".to_owned())),
        weight_of_faults => Just(Probe::Absent("why".to_owned())),
    ]
}

fn step(weight_of_faults: u32) -> impl Strategy<Value = Step> {
    prop_oneof![
        weight_of_faults => (0..3_usize, prop_oneof![Just(13), Just(94), Just(48)]).prop_map(|(gpu, xid)| Step::Xid(gpu, xid)),
        8 => proptest::collection::vec(probe(weight_of_faults), 5).prop_map(Step::Round),
        weight_of_faults => Just(Step::DriverAway),
    ]
}

fn act(health: &mut Health, step: &Step, now: Duration) -> Vec<Change> {
    match step {
        Step::Xid(gpu, xid) => health.xid(IDS[*gpu], *xid),
        Step::Round(probes) => {
            health.round(&IDS.map(str::to_owned).into_iter().zip(probes.iter().cloned()).collect(), now)
        }
        Step::DriverAway => {
            health.driver_unloaded();
            health.driver_away("why", now)
        }
    }
}

proptest! {
    #[test]
    fn hiccups_alone_never_take_every_device(steps in proptest::collection::vec((step(0), 0..20_u32), 1..80)) {
        let (mut health, mut now) = (health(), Duration::ZERO);
        for (step, wait) in &steps {
            now += SECOND * *wait;
            act(&mut health, step, now);
            // c is not given away itself: its parts are.
            prop_assert!(["a", "b", "c1", "c2"].iter().any(|id| health.reason(id).is_none()));
        }
    }

    #[test]
    fn recovery_is_earned_parts_share_their_gpus_fate_and_changes_tell_all(
        steps in proptest::collection::vec((step(2), 0..8_u32), 1..120)
    ) {
        let (mut health, mut now) = (health(), Duration::ZERO);
        // Per device: when the current row of good probes began, and how many they are.
        let mut rows: BTreeMap<&str, (Duration, u32)> = BTreeMap::new();
        let mut await_reset: BTreeSet<&str> = BTreeSet::new();
        for (step, wait) in &steps {
            now += SECOND * *wait;
            let before: Vec<Option<Reason>> = IDS.iter().map(|id| health.reason(id)).collect();
            let own_before: Vec<bool> = IDS.iter().map(|id| health.devices[*id].fault.is_some()).collect();
            let changes = act(&mut health, step, now);
            if let Step::Round(probes) = step
                && !probes.iter().all(|probe| matches!(probe, Probe::Hiccup(_)))
            {
                for (id, probe) in IDS.iter().copied().zip(probes) {
                    match probe {
                        Probe::Good if await_reset.contains(id) => {}
                        Probe::Good => {
                            let row = rows.entry(id).or_insert((now, 0));
                            row.1 += 1;
                        }
                        Probe::Hiccup(_) => drop(rows.remove(id)),
                        Probe::Lost(_) | Probe::Absent(_) => {
                            rows.remove(id);
                            await_reset.remove(id);
                        }
                    }
                }
            }
            if let Step::Xid(gpu, xid @ (94 | 48)) = step {
                rows.remove(IDS[*gpu]);
                if *xid == 48 {
                    await_reset.insert(IDS[*gpu]);
                }
            }
            if let Step::DriverAway = step {
                await_reset.clear();
            }
            for (at, id) in IDS.iter().copied().enumerate() {
                let after = health.reason(id);
                let told = changes.iter().find(|change| change.id == id).map(|change| change.reason.clone());
                prop_assert_eq!(told, (after != before[at]).then(|| after.clone()));
                if own_before[at] && health.devices[id].fault.is_none() {
                    let (since, good) = rows[id];
                    prop_assert!(good >= 3 && now >= since + 10 * SECOND, "{} after {} good since {:?}", id, good, since);
                }
                if id.starts_with('c') && health.reason("c").is_some() {
                    prop_assert!(after.is_some());
                }
            }
        }
    }
}
