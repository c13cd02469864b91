//! What the hook has placed.

use oarlock_core::rankenv::RankEntry;
use oarlock_kernel::ledger::{Asked, Before, ContainerSets, Entry, Source};

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
        asked: None,
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

/// The container as crun makes it, without GPUs and planned for one rank, on node 0: its processes are one cgroup below what
/// was given the cpuset.
fn of_one_rank(annotations: &[(&str, &str)]) -> Entry {
    let rank = RankEntry { cpus: "0-1,3".parse().ok(), mems: "0".parse().ok(), ..RankEntry::default() };
    let annotations =
        AUTO.iter().chain(annotations).map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned()));
    Entry {
        cgroup: Some("/machine/crun-c.scope/container".to_owned()),
        ranks: RankEnv { ranks: vec![rank], ..RankEnv::default() },
        container: ContainerSets { cpus: set("0-1,3"), mems: "0".parse().unwrap(), ..ContainerSets::default() },
        asked: Some(Asked {
            annotations: annotations.collect(),
            memory_limit: Some(4 << 40),
            reserved: set("2"),
            ..Asked::default()
        }),
        ..entry("u")
    }
}

const SCOPE: &str = "machine/crun-c.scope";
const INNER: &str = "machine/crun-c.scope/container";

/// A desk that holds the ranks of this container. Above it CPU 7 is somebody else's.
fn office_with(entry: &Entry) -> Office {
    let run_dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(run_dir.path().join("cgroups")).unwrap();
    let mut office = office_in(run_dir, ContainerCpuset::Own);
    office.cgroup("machine", ["", "", "0-6", "0-1"]);
    office.cgroup(SCOPE, ["0-1,3", "0", "0-1,3", "0"]);
    office.cgroup(INNER, ["", "0", "0-1,3", "0"]);
    office.written(entry);
    assert!(office.ward().is_some());
    office
}

impl Office {
    /// `cpuset.cpus` and `cpuset.mems` of a cgroup, and what is in effect there.
    fn cgroup(&self, path: &str, files: [&str; 4]) {
        let folder = self.run_dir.path().join("cgroups").join(path);
        std::fs::create_dir_all(&folder).unwrap();
        for (file, text) in ["cpus", "mems", "cpus.effective", "mems.effective"].into_iter().zip(files) {
            std::fs::write(folder.join(format!("cpuset.{file}")), text).unwrap();
        }
    }

    fn cpusets(&self) -> [String; 4] {
        let text = |path: &str, file: &str| {
            let path = self.run_dir.path().join("cgroups").join(path).join(format!("cpuset.{file}"));
            std::fs::read_to_string(path).unwrap().trim().to_owned()
        };
        [text(SCOPE, "cpus"), text(SCOPE, "mems"), text(INNER, "cpus"), text(INNER, "mems")]
    }

    fn entry(&self) -> Entry {
        let mut reader = LedgerFolder::in_run_dir(self.run_dir.path()).reader("b007");
        reader.read().unwrap().get("c").unwrap().clone()
    }
}

/// The CPUs and memory nodes of each rank.
fn places(ranks: &RankEnv) -> Vec<(String, String)> {
    let words = |rank: &RankEntry| (rank.cpus.clone().unwrap().to_string(), rank.mems.clone().unwrap().to_string());
    ranks.ranks.iter().map(words).collect()
}

fn place(cpus: &str, mems: &str) -> (String, String) {
    (cpus.to_owned(), mems.to_owned())
}

#[test]
fn another_number_of_ranks_than_the_hook_planned_is_planned_for_within_what_is_above_the_container() {
    let mut office = office_with(&of_one_rank(&[]));
    office.desk.replan("c", Some(2));
    assert_eq!(office.cpusets(), ["0-1,3-6", "0-1", "", "0-1"], "where nothing was set, nothing is");
    let ward = office.ward().unwrap();
    assert_eq!(places(&ward.ranks), [place("0-1,3", "0"), place("4-6", "1")]);
    assert_eq!(ward.cgroup, format!("/{INNER}"));
    let entry = office.entry();
    assert_eq!((entry.ranks, entry.container.cpus), (ward.ranks, set("0-1,3-6")));
    assert_eq!((entry.container.mems.to_string(), entry.source), ("0-1".to_owned(), Source::Hook));
    assert!(
        entry.warnings.iter().any(|warning| warning.contains("memory")),
        "its limit is known: {:?}",
        entry.warnings
    );
    assert_eq!(office.desk.place_of("c", 1).unwrap().cpus, "4-6");
    office.desk.heed_hooks();
    assert!(office.order().is_none() && office.notices.try_recv().is_err(), "once, and nothing to tell");

    office.desk.replan("c", Some(1));
    assert_eq!(office.cpusets(), ["0-1,3", "0-1", "", "0-1"], "memory that it has is not taken from it");
    assert_eq!(places(&office.ward().unwrap().ranks), [place("0-1,3", "0")]);
}

#[test]
fn a_number_that_is_not_planned_for_is_told_with_the_reason_and_changes_nothing() {
    for (entry, reason) in [
        (of_one_rank(&[("ranks", "1")]), "the pod states its number itself"),
        (of_one_rank(&[("mem-map", "0")]), "oarlock.dev/mem-map"),
        (Entry { asked: None, ..of_one_rank(&[]) }, "its hook has not noted what it asked for"),
    ] {
        let mut office = office_with(&entry);
        office.desk.replan("c", Some(5));
        let (what, words) = office.notice();
        let expected = "the launcher states 5 local ranks, and was planned for another number: ";
        assert_eq!(what, What::RanksUnbound);
        assert!(words.starts_with(expected) && words.contains(reason), "{words}");
        assert_eq!((office.cpusets(), office.entry()), (["0-1,3", "0", "", "0"].map(str::to_owned), entry));
        assert!(office.order().is_none(), "{reason}");
    }
}

#[test]
fn a_cpuset_that_cannot_be_written_leaves_all_as_it_was() {
    let entry = of_one_rank(&[]);
    let mut office = office_with(&entry);
    let mems = office.run_dir.path().join("cgroups").join(INNER).join("cpuset.mems");
    // It can be read, and no link is written to.
    std::fs::rename(&mems, mems.with_file_name("link")).unwrap();
    std::os::unix::fs::symlink("link", &mems).unwrap();
    office.desk.replan("c", Some(2));
    let (what, words) = office.notice();
    assert!(what == What::RanksUnbound && words.contains("failed to write \"0-1\" to"), "{words}");
    assert_eq!((office.cpusets(), office.entry()), (["0-1,3", "0", "", "0"].map(str::to_owned), entry));
    assert!(office.order().is_none());
}

#[test]
fn a_container_that_was_given_another_cpuset_by_somebody_else_is_planned_within_that() {
    let mut office = office_with(&of_one_rank(&[]));
    office.cgroup(INNER, ["1-2,5", "0-1", "1,5", "0-1"]);
    office.desk.replan("c", Some(2));
    assert_eq!(places(&office.ward().unwrap().ranks), [place("1", "0"), place("5", "1")]);
    assert_eq!(office.cpusets(), ["0-1,3", "0", "1-2,5", "0-1"], "it is not fought");
    office.cgroup(INNER, ["0,4", "0-1", "0,4", "0-1"]);
    office.desk.replan("c", None);
    assert_eq!(places(&office.ward().unwrap().ranks), [place("0", "0"), place("4", "1")], "as many as before");
    assert_eq!(office.cpusets(), ["0-1,3", "0", "0,4", "0-1"]);
}

#[test]
fn what_the_container_had_before_the_hook_bounds_it() {
    let before = Before { cpus: Some(set("1-5")), mems: None };
    let mut office = office_with(&Entry { before, ..of_one_rank(&[]) });
    // The hook came after the runtime, and changed one of the two.
    office.cgroup(SCOPE, ["1-5", "", "1-5", "0-1"]);
    office.cgroup(INNER, ["0-1,3", "0", "1,3", "0"]);
    office.desk.replan("c", Some(2));
    assert_eq!(
        places(&office.ward().unwrap().ranks),
        [place("1-3", "0"), place("4-5", "1")],
        "kubelet left out its own"
    );
    assert_eq!(office.cpusets(), ["1-5", "", "1-5", "0-1"]);
}

#[test]
fn a_container_that_is_planned_anew_holds_the_gpus_that_it_held() {
    for (gpus, expected) in [(vec![1], [vec![1], vec![]]), (vec![1, 0], [vec![1], vec![0]]), (vec![], [vec![], vec![]])]
    {
        let mut entry = of_one_rank(&[]);
        entry.asked.as_mut().unwrap().gpus = gpus;
        let mut office = office_with(&entry);
        office.desk.replan("c", Some(2));
        let ranks = office.ward().unwrap().ranks.ranks;
        assert_eq!(ranks.into_iter().map(|rank| rank.gpus).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_launcher_that_changes_its_mind_again_and_again_is_left_alone() {
    let mut office = office_with(&of_one_rank(&[]));
    for replan in 1..8 {
        office.desk.replan("c", Some(2 + replan % 2));
        assert_eq!(office.ward().unwrap().ranks.ranks.len() as u32, 2 + replan % 2);
    }
    let entry = office.entry();
    office.desk.replan("c", Some(9));
    assert!(matches!(office.order(), Some(Order::Forget(id)) if id == "c"));
    assert!(office.notice().1.contains("left alone"));
    office.desk.replan("c", Some(10));
    assert!(office.order().is_none() && office.notices.try_recv().is_err());
    assert_eq!(office.entry(), entry);
}

#[test]
fn what_was_unpinned_a_moment_ago_is_not_planned_anew() {
    let mut office = office_with(&of_one_rank(&[]));
    let unpinned = Entry { unpinned: true, ..of_one_rank(&[]) };
    LedgerFolder::in_run_dir(office.run_dir.path()).lock(LEDGER_PATIENCE).unwrap().put(&unpinned).unwrap();
    office.desk.replan("c", Some(2));
    assert_eq!((office.cpusets(), office.entry()), (["0-1,3", "0", "", "0"].map(str::to_owned), unpinned));
    assert!(matches!(office.order(), Some(Order::Forget(id)) if id == "c"));
}
