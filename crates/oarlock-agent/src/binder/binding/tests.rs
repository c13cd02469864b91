//! Containers that mean no good, over a `/proc` that tests write. There is no cgroup tree, so that ranks are held by the
//! affinity of their threads: here that of this process, which has it already.

use std::fs;

use oarlock_core::locality::Locality;
use oarlock_core::machine::Gpu;
use oarlock_core::pci::PciAddress;
use oarlock_core::rankenv::{RankEntry, RankEnv};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::unnamed::LATE;
use super::*;

const CONTAINER: &str = "/kubepods/pod 1/c:tr (deleted)";

struct World {
    root: tempfile::TempDir,
    binding: Binding,
    told: UnboundedReceiver<Told>,
}

/// A host that holds the ranks of one container, so many.
fn world(ranks: usize) -> World {
    let root = tempfile::tempdir().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    let mut binding = Binding {
        proc: Proc::open_any_folder(root.path()).unwrap(),
        hierarchy: None,
        wards: BTreeMap::new(),
        at: HashMap::new(),
        nvml_tells: false,
        tell,
    };
    let entry = RankEntry { cpus: affinity::of_thread(std::process::id()).unwrap().here(), ..RankEntry::default() };
    binding.keep(Ward {
        id: "c".to_owned(),
        cgroup: CONTAINER.to_owned(),
        init: Some(10),
        ranks: RankEnv { cpu_map: "auto".to_owned(), ranks: vec![entry; ranks], ..RankEnv::default() },
        gpus: Vec::new(),
    });
    World { root, binding, told }
}

impl World {
    fn put(&self, pid: u32, cgroup: &str, environ: &[u8]) {
        let process = self.root.path().join(pid.to_string());
        fs::create_dir_all(process.join("task").join(std::process::id().to_string())).unwrap();
        fs::write(process.join("status"), format!("Name:\tx\nState:\tS\nPid:\t{pid}\nTgid:\t{pid}\nPPid:\t1\n"))
            .unwrap();
        fs::write(process.join("cgroup"), format!("4:cpu:/\n0::{cgroup}\n")).unwrap();
        fs::write(process.join("environ"), environ).unwrap();
    }

    /// What is told when these processes execute a program.
    fn execute(&mut self, pids: impl IntoIterator<Item = u32>) -> Vec<Told> {
        for pid in pids {
            self.binding.executed(pid, || None);
        }
        self.told()
    }

    fn told(&mut self) -> Vec<Told> {
        std::iter::from_fn(|| self.told.try_recv().ok()).collect()
    }
}

/// The ranks that are bound, and to which process.
fn bound(told: &[Told]) -> Vec<(u32, u32)> {
    let pair = |told: &Told| match told {
        Told::Bound { rank, pid, how: How::Affinity, .. } => Some((*rank, *pid)),
        _ => None,
    };
    told.iter().filter_map(pair).collect()
}

#[test]
fn a_rank_is_found_in_a_cgroup_that_its_container_made_whatever_its_name_and_nobody_elses_is() {
    let mut world = world(4);
    for (pid, cgroup) in [
        (20, CONTAINER.to_owned()),
        (21, format!("{CONTAINER}/it's/own : one (deleted)")),
        (22, format!("{CONTAINER} 2")),
        (23, "/kubepods/pod 1".to_owned()),
    ] {
        world.put(pid, &cgroup, format!("LOCAL_RANK={}\0", pid - 20).as_bytes());
    }
    assert_eq!(bound(&world.execute(20..25)), [(0, 20), (1, 21)]);
    world.binding.sweep_all(true);
    assert_eq!(world.told(), []);
}

#[test]
fn an_environment_of_megabytes_is_read_to_its_end_and_a_number_of_megabytes_is_none() {
    let mut world = world(2);
    world.put(20, CONTAINER, &[b"LOCAL_RAN=0\0".repeat(400_000).as_slice(), b"LOCAL_RANK=1\0"].concat());
    world.put(21, CONTAINER, &[b"LOCAL_RANK=".as_slice(), &b"1".repeat(5 << 20)].concat());
    let told = world.execute([20, 21]);
    assert_eq!(bound(&told), [(1, 20)]);
    let [_, Told::Unbound { why, .. }] = told.as_slice() else { panic!("{} told", told.len()) };
    assert!(why.starts_with("LOCAL_RANK \"111") && why.len() < 300, "{} bytes", why.len());
}

#[test]
fn ranks_that_were_never_planned_are_complained_of_and_of_thousands_only_some() {
    let mut world = world(2);
    world.put(20, CONTAINER, b"LOCAL_RANK=-1\0");
    world.put(21, CONTAINER, b"LOCAL_RANK=99999999999\0");
    assert_eq!(world.execute([20, 21, 20]).len(), 2);
    for pid in 1000..3000 {
        world.put(pid, CONTAINER, format!("LOCAL_RANK={pid}\0").as_bytes());
    }
    assert_eq!(world.execute(1000..3000).len(), MOST_SAID - 2);
    world.put(22, CONTAINER, b"LOCAL_RANK=1\0LOCAL_WORLD_SIZE=2\0");
    assert_eq!(bound(&world.execute([22])), [(1, 22)], "and the others are held all the same");
}

#[test]
fn of_a_flood_of_new_ranks_few_are_moved_until_the_next_sweep() {
    let mut world = world(2);
    for pid in 1000..2000 {
        world.put(pid, CONTAINER, b"LOCAL_RANK=1\0");
    }
    let few = bound(&world.execute(1000..2000)).len();
    assert!((2..=2 * 2 + 9).contains(&few), "{few}");
    for pid in 1000..2000 {
        fs::remove_dir_all(world.root.path().join(pid.to_string())).unwrap();
    }
    world.put(30, CONTAINER, b"LOCAL_RANK=0\0");
    assert_eq!(bound(&world.execute([30])), []);
    world.binding.sweep_all(false);
    assert_eq!(bound(&world.told()), [(0, 30)], "a rank in the flood waits for the sweep");
    world.put(31, CONTAINER, b"LOCAL_RANK=1\0");
    assert_eq!(bound(&world.execute([31])), [(1, 31)]);
}

#[test]
fn who_was_no_rank_is_looked_at_again_after_a_loss_unless_the_last_look_was_cut_short() {
    let mut world = world(2);
    world.put(20, CONTAINER, b"A=1\0");
    world.binding.sweep_all(false);
    world.put(20, CONTAINER, b"LOCAL_RANK=1\0");
    world.binding.sweep_all(false);
    assert_eq!(world.told(), []);
    world.binding.wards.get_mut("c").unwrap().is_cut = true;
    world.binding.sweep_all(true);
    assert_eq!(world.told(), [], "it goes on where it ended");
    world.binding.sweep_all(true);
    assert_eq!(bound(&world.told()), [(1, 20)]);
}

#[test]
fn a_launcher_that_binds_its_ranks_is_told_once_and_its_numactl_is_left_to_do_its_work() {
    let mut world = world(2);
    let run =
        |pid: u32, arguments: &[u8]| fs::write(world.root.path().join(format!("{pid}/cmdline")), arguments).unwrap();
    // The parent of all processes here.
    world.put(1, CONTAINER, b"");
    run(1, b"python\0torchrun\0--numa-binding=socket\0train.py\0");
    for (pid, rank) in [(20, 0), (21, 1)] {
        world.put(pid, CONTAINER, format!("LOCAL_RANK={rank}\0").as_bytes());
        run(pid, b"numactl\0--physcpubind=4-7\0python\0train.py\0");
    }
    assert_eq!(world.execute([20, 21]), []);
    for pid in [20, 21] {
        fs::write(world.root.path().join(format!("{pid}/cmdline")), b"python\0train.py\0").unwrap();
    }
    let told = world.execute([20, 21]);
    assert_eq!(bound(&told), [(0, 20), (1, 21)]);
    assert_eq!(told[1], Told::LauncherBinds { id: "c".to_owned(), mode: "socket" });
    assert_eq!(told.len(), 3);
}

/// A ward of four ranks, rank 0 with GPU 3, and so on downwards, and processes 20 to 23 that name no rank.
fn unnamed() -> World {
    let mut world = world(4);
    let gpu = |index: u32| Gpu {
        index,
        pci: Some(address(index)),
        uuid: None,
        model: None,
        locality: Locality::Unknown { why: String::new() },
        local_cpus: None,
        memory_node: None,
    };
    let mut ward = world.binding.wards["c"].ward.clone();
    ward.gpus = (0..4).map(gpu).collect();
    for (entry, index) in ward.ranks.ranks.iter_mut().zip((0..4).rev()) {
        entry.gpus = vec![index];
    }
    world.binding.keep(ward);
    for pid in [10, 20, 21, 22, 23] {
        world.put(pid, CONTAINER, b"A=1\0");
        let process = world.root.path().join(pid.to_string());
        // The first process has started the others, the last one first.
        fs::write(process.join("stat"), format!("{pid} (python) S 1 {}{} 0\n", "0 ".repeat(17), 900 - pid)).unwrap();
        fs::write(process.join("cmdline"), b"python\0-c\0spawn_main()\0--multiprocessing-fork\0").unwrap();
    }
    fs::write(world.root.path().join("10/cmdline"), b"python\0train.py\0").unwrap();
    world.binding.sweep_all(false);
    assert_eq!(world.told(), []);
    world
}

fn address(gpu: u32) -> PciAddress {
    PciAddress { domain: 0, bus: gpu as u8, device: 0, function: 0 }
}

#[test]
fn a_process_that_names_no_rank_is_known_by_its_gpu() {
    let mut world = unnamed();
    assert!(world.binding.lacks_ranks());
    // The first process is on a GPU too, one of another container, and one on two.
    let used = [(0, vec![20]), (1, vec![10, 21]), (2, vec![22, 4711]), (3, vec![22]), (9, vec![23])];
    world.binding.used(&used.map(|(gpu, pids)| (address(gpu), pids)));
    let told = world.told();
    assert_eq!(bound(&told), [(2, 21), (3, 20)]);
    assert!(matches!(told[0], Told::Bound { known_by: KnownBy::Gpu, place: 2, .. }));
    world.binding.used(&[(address(0), vec![23]), (address(2), vec![22]), (address(3), vec![23])]);
    assert_eq!(bound(&world.told()), [(1, 22)], "a rank that is held is not another process's");
    world.binding.used(&[(address(3), vec![23])]);
    assert_eq!(bound(&world.told()), [(0, 23)]);
    assert!(!world.binding.lacks_ranks());
}

#[test]
fn ranks_that_nobody_names_are_known_by_their_order_after_a_while_and_not_where_nvml_tells() {
    let order = |world: &mut World| {
        world.binding.order_all();
        bound(&world.told())
    };
    let wait = |world: &mut World| {
        let state = world.binding.wards.get_mut("c").unwrap();
        state.since = state.since.checked_sub(LATE).unwrap();
    };
    let mut world = unnamed();
    assert_eq!(order(&mut world), [], "too soon");
    wait(&mut world);
    assert_eq!(order(&mut world), [(0, 23), (1, 22), (2, 21), (3, 20)]);

    let mut named = unnamed();
    wait(&mut named);
    named.put(30, CONTAINER, b"LOCAL_RANK=9\0");
    named.execute([30]);
    assert_eq!(order(&mut named), [], "its ranks have names");

    let mut with_nvml = unnamed();
    wait(&mut with_nvml);
    with_nvml.binding.used(&[(address(0), vec![])]);
    assert_eq!(order(&mut with_nvml), [], "they may not have come to their GPUs yet");
}

#[test]
fn what_is_no_process_or_nowhere_is_passed_over() {
    let mut world = world(2);
    world.put(20, "/", b"LOCAL_RANK=0\0");
    fs::create_dir(world.root.path().join("21")).unwrap();
    fs::write(world.root.path().join("22"), "no folder").unwrap();
    world.put(23, "no path", b"LOCAL_RANK=0\0");
    fs::write(world.root.path().join("23/cgroup"), b"0::/\xff\n").unwrap();
    assert_eq!(world.execute([20, 21, 22, 23, 24, u32::MAX]), []);
}
