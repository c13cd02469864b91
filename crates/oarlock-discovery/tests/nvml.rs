//! The real NVML wrapper, answered by the stand-in library.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::time::{Duration, Instant};

use oarlock_core::link::Link;
use oarlock_core::locality::{Evidence, Locality};
use oarlock_discovery::nvml::{Event, EventKind, Fault, Listing, OpenError, Session};
use oarlock_discovery::{Options, Source, discover, machine_file};
use oarlock_testkit::nvml::{Stub, library};
use oarlock_testkit::{SysDevice, SysTree};
use serde_json::json;

const TOPOLOGIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/topologies");
const SOON: Duration = Duration::from_secs(20);

fn with(test: &str, machine: &str, body: impl FnOnce(&Stub)) {
    Stub::in_own_process(test, tempfile::tempdir().unwrap().path(), machine, body);
}

fn open() -> Session {
    Session::open(Some(library())).unwrap()
}

/// Four GPUs, the last with MIG devices.
fn four() -> String {
    let gpu = |uuid: &str| json!({"uuid": uuid, "numa_node": 0});
    let mut mig = gpu("GPU-d");
    mig["mig"] = json!(["3g.40gb", null, "1g.10gb+me"]);
    json!({"nodes": [{"id": 0, "cpulist": "0-7"}], "gpus": [gpu("GPU-a"), gpu("GPU-b"), gpu("GPU-c"), mig]}).to_string()
}

fn events(watch: &oarlock_discovery::nvml::Watch<'_>) -> Vec<(String, EventKind)> {
    watch.wait(SOON).unwrap().into_iter().map(|event: Event| (event.uuid.unwrap(), event.kind)).collect()
}

/// The stand-in makes ports and classes of each fixture's matrix, and the session makes a matrix of those again.
#[test]
fn links_come_back_as_printouts_have_them_direct_through_switches_and_over_pcie() {
    let test = "links_come_back_as_printouts_have_them_direct_through_switches_and_over_pcie";
    with(test, "", |stub| {
        let files = fs::read_dir(TOPOLOGIES).unwrap().map(|file| file.unwrap().path());
        let mut tried = Vec::new();
        for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "json")) {
            let Ok(found) = machine_file::parse(&fs::read(&file).unwrap(), &file) else { continue };
            let Some(stated) = found.machine.links else { continue };
            fs::copy(&file, &stub.machine).unwrap();
            let session = open();
            let links = session.links(&session.list().unwrap().gpus);
            for (one, other) in (0..stated.len()).flat_map(|one| (0..one).map(move |other| (one, other))) {
                let (link, stated) = (links[one][other], stated[one][other]);
                assert_eq!(links[other][one], link);
                // NVML has no word for what a printout says in words of its own.
                assert!(link == stated || stated == Link::Unknown, "{file:?}, {one} and {other}: {link} for {stated}");
                tried.push(link);
            }
        }
        for link in [Link::NvLink(1), Link::NvLink(18), Link::HostBridge, Link::Node, Link::System] {
            assert!(tried.contains(&link), "{link}");
        }
    });
}

#[test]
fn processes_are_those_that_compute_on_each_gpu_and_a_lost_gpu_has_none_to_tell_of() {
    let test = "processes_are_those_that_compute_on_each_gpu_and_a_lost_gpu_has_none_to_tell_of";
    with(test, &four(), |stub| {
        let session = open();
        let gpus = session.list().unwrap().gpus;
        let processes = || -> Vec<(u32, Vec<u32>)> {
            let number = |pci| gpus.iter().find(|gpu| gpu.pci == pci).unwrap().index;
            session.processes(&gpus).unwrap().into_iter().map(|(pci, pids)| (number(pci), pids)).collect()
        };
        assert_eq!(processes(), [(0, vec![]), (1, vec![]), (2, vec![])], "of MIG devices nothing is told");
        for line in ["process 2 4711", "process 0 4712", "process 2 4713", "process 3 4714", "process 1 4712"] {
            stub.order(line);
        }
        assert_eq!(processes(), [(0, vec![4712]), (1, vec![4712]), (2, vec![4711, 4713])]);
        for line in ["ended 2 4711", "ended 0 1", "lost 1"] {
            stub.order(line);
        }
        assert_eq!(processes(), [(0, vec![4712]), (2, vec![4713])]);
    });
}

#[test]
fn gpus_are_listed_with_their_mig_devices() {
    with("gpus_are_listed_with_their_mig_devices", &four(), |_| {
        let Listing { gpus, unreachable } = open().list().unwrap();
        assert_eq!(unreachable, []);
        let uuids: Vec<_> =
            gpus.iter().map(|gpu| (gpu.index, gpu.minor.unwrap(), gpu.uuid.as_deref().unwrap())).collect();
        assert_eq!(uuids, [(0, 0, "GPU-a"), (1, 1, "GPU-b"), (2, 2, "GPU-c"), (3, 3, "GPU-d")]);
        assert!(gpus[..3].iter().all(|gpu| gpu.mig.is_none() && gpu.memory_node.is_none()));
        let mig = gpus[3].mig.as_ref().unwrap();
        let found: Vec<_> = mig.iter().map(|mig| (mig.number, mig.profile.as_deref().unwrap())).collect();
        assert_eq!(found, [(0, "3g.40gb"), (2, "1g.10gb+me")]);
        assert!(mig[0].uuid.starts_with("MIG-") && mig[0].uuid != mig[1].uuid);
    });
}

#[test]
fn a_probe_tells_alive_lost_unknown_and_a_hiccup_apart() {
    with("a_probe_tells_alive_lost_unknown_and_a_hiccup_apart", &four(), |stub| {
        let session = open();
        let mig = session.list().unwrap().gpus[3].mig.as_ref().unwrap()[1].uuid.clone();
        assert_eq!(session.probe("GPU-d"), Ok(()));
        assert_eq!(session.probe(&mig), Ok(()));
        stub.order("lost 3");
        for uuid in ["GPU-d", &mig] {
            assert!(matches!(session.probe(uuid), Err(Fault::Lost(_))), "{uuid}");
        }
        assert_eq!(session.probe("GPU-a"), Ok(()));
        let listing = session.list().unwrap();
        assert_eq!(listing.gpus.len(), 3);
        assert!(matches!(listing.unreachable[..], [(3, Fault::Lost(_))]), "{:?}", listing.unreachable);
        stub.order("back 3");
        assert_eq!(session.probe(&mig), Ok(()));
        stub.order("hiccup 1");
        assert!(matches!(session.probe("GPU-a"), Err(Fault::Hiccup(_))));
        assert_eq!(session.probe("GPU-a"), Ok(()));
        assert!(matches!(session.probe("GPU-nobody"), Err(Fault::Absent(_))));
    });
}

#[test]
fn a_short_hiccup_is_not_seen_in_a_list_and_a_long_one_is_a_fault() {
    with("a_short_hiccup_is_not_seen_in_a_list_and_a_long_one_is_a_fault", &four(), |stub| {
        let session = open();
        let list = session.list().unwrap();
        stub.order("hiccup 2");
        assert_eq!(session.list().unwrap(), list);
        stub.order("hiccup 1000");
        assert!(matches!(session.list(), Err(Fault::Hiccup(_))));
    });
}

#[test]
fn an_xid_is_heard_once_from_its_gpu_even_when_the_gpu_is_lost_by_then() {
    with("an_xid_is_heard_once_from_its_gpu_even_when_the_gpu_is_lost_by_then", &four(), |stub| {
        let session = open();
        let gpus = session.list().unwrap().gpus;
        stub.order("xid 2 31");
        let watch = session.watch(&gpus).unwrap();
        assert_eq!(watch.unwatched(), []);
        assert_eq!(watch.wait(Duration::ZERO), Ok(Vec::new()), "what was before nobody listened is not heard");
        stub.order("xid 2 79\nlost 2\nxid 0 48\nxid 2 79");
        let fell = ("GPU-c".to_owned(), EventKind::Xid(79));
        assert_eq!(events(&watch), [fell.clone(), ("GPU-a".to_owned(), EventKind::Xid(48)), fell]);
        assert_eq!(watch.wait(Duration::ZERO), Ok(Vec::new()));
    });
}

#[test]
fn waiting_ends_at_its_timeout_and_at_an_event_that_comes_meanwhile() {
    with("waiting_ends_at_its_timeout_and_at_an_event_that_comes_meanwhile", &four(), |stub| {
        let session = open();
        let watch = session.watch(&session.list().unwrap().gpus).unwrap();
        let begun = Instant::now();
        assert_eq!(watch.wait(Duration::from_millis(60)), Ok(Vec::new()));
        assert!(begun.elapsed() >= Duration::from_millis(60));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                stub.order("xid 1 94");
            });
            assert_eq!(events(&watch), [("GPU-b".to_owned(), EventKind::Xid(94))]);
        });
        stub.order("hiccup 1");
        assert!(matches!(watch.wait(Duration::ZERO), Err(Fault::Hiccup(_))));
        assert_eq!(watch.wait(Duration::ZERO), Ok(Vec::new()));
    });
}

#[test]
fn a_gpu_that_cannot_be_watched_does_not_stop_the_others() {
    with("a_gpu_that_cannot_be_watched_does_not_stop_the_others", &four(), |stub| {
        let session = open();
        let gpus = session.list().unwrap().gpus;
        stub.order("lost 1\nhiccup 1");
        let watch = session.watch(&gpus).unwrap();
        assert!(matches!(watch.unwatched(), [(pci, Fault::Lost(_))] if *pci == gpus[1].pci), "{watch:?}");
        stub.order("xid 3 79\nxid 1 79");
        assert_eq!(events(&watch), [("GPU-d".to_owned(), EventKind::Xid(79))]);
        let nothing = session.watch(&[]).unwrap();
        assert_eq!(nothing.wait(Duration::from_millis(1)), Ok(Vec::new()));
    });
}

#[test]
fn a_driver_that_goes_away_ends_the_session_and_another_hears_no_old_xid() {
    with("a_driver_that_goes_away_ends_the_session_and_another_hears_no_old_xid", &four(), |stub| {
        let session = open();
        let gpus = session.list().unwrap().gpus;
        let watch = session.watch(&gpus).unwrap();
        stub.order("xid 0 79");
        let aside = stub.machine.with_extension("aside");
        fs::rename(&stub.machine, &aside).unwrap();
        assert!(matches!(watch.wait(SOON), Err(Fault::Over(_))));
        assert!(matches!(session.probe("GPU-a"), Err(Fault::Over(_))));
        assert!(matches!(session.list(), Err(Fault::Over(_))));
        assert!(matches!(session.watch(&gpus), Err(Fault::Over(_))));
        drop(watch);
        drop(session);
        assert!(matches!(Session::open(Some(library())), Err(OpenError::Driver { .. })));
        fs::rename(&aside, &stub.machine).unwrap();
        let session = open();
        let watch = session.watch(&session.list().unwrap().gpus).unwrap();
        assert_eq!(watch.wait(Duration::from_millis(30)), Ok(Vec::new()));
        assert_eq!(session.probe("GPU-a"), Ok(()));
    });
}

#[test]
fn what_happened_once_does_not_happen_again_to_the_next_session() {
    with("what_happened_once_does_not_happen_again_to_the_next_session", &four(), |stub| {
        let session = open();
        // More than opening is patient with.
        stub.order("hiccup 5");
        assert!((0..5).all(|_| session.probe("GPU-a").is_err()));
        drop(session);
        assert_eq!(open().probe("GPU-a"), Ok(()));
    });
}

#[test]
fn a_gpu_that_sysfs_does_not_have_is_where_nvmls_memory_affinity_says_and_else_unknown() {
    let machine = json!({
        "nodes": [{"id": 0, "cpulist": "0-1"}, {"id": 1, "cpulist": "2-3"}, {"id": 7, "cpulist": "4-5"}],
        "gpus": [
            {"pci": "0000:17:00.0", "numa_node": 1}, {"pci": "0000:18:00.0", "cpu_affinity": "0-3"},
            {"pci": "0000:19:00.0", "numa_node": 7}, {"pci": "0000:1a:00.0", "numa_node": 0},
        ],
        "link_matrix": {"columns": ["GPU0", "GPU1", "GPU3"], "rows": {"GPU0": ["X", "NV4", "PXB"], "GPU1": ["NV4", "X", "SYS"]}},
    });
    let test = "a_gpu_that_sysfs_does_not_have_is_where_nvmls_memory_affinity_says_and_else_unknown";
    with(test, &machine.to_string(), |_| {
        let root = tempfile::tempdir().unwrap();
        // This machine has no node 7, and says itself where the last GPU is.
        let tree = SysTree::new(2, 1, 1, 2, 1).device(SysDevice::gpu("0000:1a:00.0").numa_node(1));
        tree.device(SysDevice::gpu("0000:1a:01.0").numa_node(0)).write(root.path()).unwrap();
        let options = Options {
            nvml_library: Some(library().to_owned()),
            host_root: root.path().to_owned(),
            ..Options::default()
        };
        let found = discover(&Source::Live, &options).unwrap();
        let place = |at: usize| match &found.machine.gpus[at].locality {
            Locality::Node { node, from } => Some((*node, *from)),
            Locality::Unknown { .. } => None,
        };
        let expected =
            [Some((1, Evidence::Nvml)), None, None, Some((1, Evidence::NumaNode)), Some((0, Evidence::NumaNode))];
        assert_eq!([0, 1, 2, 3, 4].map(place), expected);
        assert_eq!(found.warnings.iter().filter(|warning| warning.contains("sysfs has no device")).count(), 3);
        let links = found.machine.links.unwrap();
        assert_eq!((links[0][1], links[3][0], links[1][3]), (Link::NvLink(4), Link::Switches, Link::System));
        // The last is no GPU of NVML's: the kernel's tree has it at a host bridge with the one before.
        assert_eq!(links[4][3], Link::HostBridge);
    });
}
