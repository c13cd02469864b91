//! What the hook has placed.

use oarlock_core::rankenv::RankEntry;
use oarlock_kernel::ledger::{Before, ContainerSets, Entry, Source};

use super::*;

/// Container `c` of the hook's, with a rank on node 1.
fn entry(pod_uid: &str) -> Entry {
    let rank = RankEntry { cpus: "4-7".parse().ok(), mems: "1".parse().ok(), gpus: vec![0], ..RankEntry::default() };
    Entry {
        id: "c".to_owned(),
        name: "trainer".to_owned(),
        pod: Pod { namespace: "ml".to_owned(), name: "job".to_owned(), uid: pod_uid.to_owned() },
        boot: "b007".to_owned(),
        source: Source::Hook,
        cgroup: Some("/machine/c".to_owned()),
        ranks: RankEnv { ranks: vec![rank], ..RankEnv::default() },
        container: ContainerSets::default(),
        before: Before::default(),
        exclusive: CpuSet::new(),
        alone: false,
        reasons: Vec::new(),
        warnings: Vec::new(),
        unpinned: false,
        other: serde_json::Map::new(),
    }
}

impl Office {
    fn written(&self, entry: &Entry) {
        let ledger = LedgerFolder::in_run_dir(self.run_dir.path());
        ledger.lock(LEDGER_PATIENCE).unwrap().put(entry).unwrap();
        self.desk.heed_hooks();
    }

    fn order(&mut self) -> Option<Order> {
        self.orders.try_recv().ok()
    }
}

#[test]
fn the_ranks_of_what_the_hook_placed_are_held_once_it_has_a_cgroup_until_it_ends() {
    let run_dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(run_dir.path().join("cgroups/machine/c")).unwrap();
    let mut office = office_in(run_dir, ContainerCpuset::Own);
    office.written(&Entry { cgroup: None, ..entry("u") });
    assert!(office.order().is_none(), "its runtime has not made it yet");
    office.written(&entry("u"));
    let ward = office.ward().unwrap();
    assert_eq!((ward.id.as_str(), ward.cgroup.as_str(), ward.gpus.len()), ("c", "/machine/c", 1));
    assert_eq!(ward.ranks, entry("u").ranks);
    office.desk.heed_hooks();
    assert!(office.order().is_none(), "once");
    let place = office.desk.place_of("c", 0).unwrap();
    assert_eq!((place.container.as_str(), place.cpus.as_str(), place.mems.as_str()), ("trainer", "4-7", "1"));
    office.desk.tell("c", What::RanksBound, "all".to_owned());
    assert_eq!(office.notice(), (What::RanksBound, "all".to_owned()));
    office.desk.replan("c", Some(5));
    let (what, words) = office.notice();
    assert_eq!((what, words.contains("5 local ranks")), (What::RanksUnbound, true), "nobody plans it anew");

    office.desk.forget_hooked();
    assert_eq!(office.entries(), ["c.json"]);
    std::fs::remove_dir(office.run_dir.path().join("cgroups/machine/c")).unwrap();
    office.desk.forget_hooked();
    assert_eq!(office.entries(), [""; 0], "the hook may have been killed");
    office.desk.heed_hooks();
    assert!(matches!(office.order(), Some(Order::Forget(id)) if id == "c"));
    assert!(office.desk.place_of("c", 0).is_none());
}

#[test]
fn what_was_unpinned_by_hand_is_let_go_and_what_has_no_pod_is_told_to_nobody() {
    let mut office = office();
    office.written(&entry("c"));
    assert!(office.ward().is_some());
    office.desk.tell("c", What::RanksBound, "all".to_owned());
    assert!(office.notices.try_recv().is_err());
    office.written(&Entry { unpinned: true, ..entry("c") });
    assert!(matches!(office.order(), Some(Order::Forget(id)) if id == "c"));
}
