//! hwloc's own test machines, with every fact and oddity that their README states. They are not part of this repository:
//! the tests read them from the folder that `OARLOCK_HWLOC_DATA` names, and say so where it is unset.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::path::PathBuf;

use oarlock_core::locality::{Evidence, Locality};
use oarlock_core::machine::Machine;
use oarlock_core::{CpuSet, plan};
use oarlock_discovery::{Found, Options, Source, discover};

fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("OARLOCK_HWLOC_DATA").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: OARLOCK_HWLOC_DATA is not set");
    }
    // A relative path is relative to the workspace, where CI sets it.
    folder.map(|folder| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder))
}

fn read(source: PathBuf) -> Found {
    discover(&Source::File(source), &Options::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn xml(name: &str) -> Option<Found> {
    Some(read(data()?.join(name)))
}

/// Unpacks `name` and reads the one folder in it, whose name can differ from the tarball's.
fn tree(name: &str) -> Option<Found> {
    let file = File::open(data()?.join(name)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    tar::Archive::new(bzip2::read::BzDecoder::new(file)).unpack(folder.path()).unwrap();
    let top = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    Some(read(top))
}

fn nodes(machine: &Machine) -> Vec<(u32, String, Option<u64>)> {
    machine.nodes.iter().map(|node| (node.id, node.cpus.to_string(), node.memory_mb)).collect()
}

fn node(id: u32, cpus: &str, memory_mb: u64) -> (u32, String, Option<u64>) {
    (id, cpus.to_owned(), Some(memory_mb))
}

fn lists(groups: Option<&Vec<CpuSet>>) -> Vec<String> {
    groups.unwrap().iter().map(ToString::to_string).collect()
}

fn packages(machine: &Machine) -> Vec<(u32, String)> {
    machine.packages.as_ref().unwrap().iter().map(|package| (package.id, package.cpus.to_string())).collect()
}

fn gpus(machine: &Machine) -> Vec<(String, Option<u32>)> {
    machine.gpus.iter().map(|gpu| (gpu.pci.unwrap().to_string(), gpu.locality.node())).collect()
}

fn at(address: &str, node: u32) -> (String, Option<u32>) {
    (address.to_owned(), Some(node))
}

fn device_node(machine: &Machine, address: &str) -> Option<u32> {
    let device = machine.devices.iter().find(|device| device.address.to_string() == address);
    device.unwrap_or_else(|| panic!("no {address}")).locality.node()
}

/// What `auto` gives each rank: its CPUs and memory nodes, "-" where it stays unbound.
fn planned(machine: &Machine, settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut request = oarlock_core::Request::default();
    for (key, value) in settings {
        request.set(key, value).unwrap();
    }
    let plan = plan(machine, &oarlock_core::ledger::Ledger::default(), &request).unwrap();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    plan.ranks
        .iter()
        .map(|rank| {
            let cpus = rank.cpus.as_ref().map(ToString::to_string);
            (or_dash(cpus), or_dash(rank.mems.as_ref().map(ToString::to_string)))
        })
        .collect()
}

const AUTO: [(&str, &str); 2] = [("cpu-map", "auto"), ("mem-map", "auto")];

#[test]
fn dgx2_has_sixteen_gpus_for_four_cpus() {
    let Some(found) = xml("nvidiaDGX2.xml") else { return };
    let machine = found.machine;
    assert_eq!(nodes(&machine), [node(0, "0-1", 772_699), node(1, "24-25", 774_133)]);
    assert_eq!(machine.distances, Some(vec![vec![10, 21], vec![21, 10]]));
    let buses = ["34", "36", "39", "3b", "57", "59", "5c", "5e", "b7", "b9", "bc", "be", "e0", "e2", "e5", "e7"];
    let expected: Vec<_> =
        buses.iter().zip(0..).map(|(bus, index)| at(&format!("0000:{bus}:00.0"), index / 8)).collect();
    assert_eq!(gpus(&machine), expected, "nvml0 to nvml15 in order");
    let ranks = planned(&machine, &AUTO);
    assert_eq!(ranks[7], ("0-1".to_owned(), "0".to_owned()));
    assert_eq!(ranks[8], ("24-25".to_owned(), "1".to_owned()));
    // Two cores for eight ranks: exclusive is impossible, and says so.
    let mut request = oarlock_core::Request::default();
    request.set("cpu-map", "exclusive").unwrap();
    assert!(plan(&machine, &oarlock_core::ledger::Ledger::default(), &request).is_err());
}

#[test]
fn power8_has_holes_in_its_cpu_numbers_and_pci_domains_above_zero() {
    let Some(found) = xml("power8gpudistances.xml") else { return };
    let machine = found.machine;
    assert_eq!(nodes(&machine), [node(0, "0-1,8-9,16-17,24-25", 65380), node(1, "80-81,88-89,96-97,104-105", 65279)]);
    assert_eq!(
        gpus(&machine),
        [at("0002:01:00.0", 0), at("0003:01:00.0", 0), at("000a:01:00.0", 1), at("000b:01:00.0", 1)]
    );
    let pairs = ["0-1", "8-9", "16-17", "24-25", "80-81", "88-89", "96-97", "104-105"];
    assert_eq!(lists(machine.cores.as_ref()), pairs);
    assert_eq!(lists(machine.l3.as_ref()), pairs, "each core has its own L3");
    assert_eq!(machine.distances, Some(vec![vec![10, 40], vec![40, 10]]));
    assert_eq!(planned(&machine, &AUTO)[2].0, "80-81,88-89,96-97,104-105");
}

#[test]
fn eight_vector_engines_and_both_infiniband_cards_are_on_node_0() {
    let Some(found) = tree("32intel64-2p8co2t+8ve.tar.bz2") else { return };
    let machine = found.machine;
    assert_eq!(nodes(&machine), [node(0, "0-7,16-23", 46802), node(1, "8-15,24-31", 48359)]);
    assert_eq!(machine.distances, Some(vec![vec![10, 21], vec![21, 10]]));
    assert_eq!(lists(machine.cores.as_ref())[..2], ["0,16", "1,17"]);
    assert_eq!(lists(machine.l3.as_ref()), ["0-7,16-23", "8-15,24-31"]);
    assert_eq!(packages(&machine), [(0, "0-7,16-23".to_owned()), (1, "8-15,24-31".to_owned())]);
    assert_eq!(machine.gpus.len(), 0, "class 0x0b4000 is no GPU unless its address is asked for");
    let engines = ["1b", "1c", "1d", "1e", "3d", "3f", "40", "41"];
    for bus in engines.iter().chain(&["1a", "3e"]) {
        assert_eq!(device_node(&machine, &format!("0000:{bus}:00.0")), Some(0), "{bus}");
    }
    let engine = machine.devices.iter().find(|device| device.address.bus == 0x1b).unwrap();
    assert_eq!((engine.class, engine.vendor), (Some(0x0b_40_00), Some(0x1bcf)));
    // The reader was in the root cpuset of a cgroup v1 hierarchy.
    assert_eq!(found.allowed.cpus.unwrap().to_string(), "0-31");
}

#[test]
fn numa_node_minus_one_everywhere_is_unknown_but_where_one_file_says_2() {
    let Some(found) = tree("40intel64-2g2n4c+pcilocality.tar.bz2") else { return };
    let machine = found.machine;
    for (id, node) in machine.nodes.iter().zip(0..).map(|(node, id)| (id, node)) {
        let cpus: CpuSet = (0..10).map(|step| id + 4 * step).collect();
        assert_eq!((node.id, &node.cpus), (id, &cpus));
    }
    assert_eq!(
        machine.nodes.iter().map(|node| node.memory_mb).collect::<Vec<_>>(),
        [131_058, 131_072, 131_072, 131_072].map(Some)
    );
    assert_eq!(packages(&machine).len(), 4);
    let row = |home: usize| (0..4).map(|node| if node == home { 10 } else { 20 }).collect::<Vec<u32>>();
    assert_eq!(machine.distances, Some((0..4).map(row).collect()));
    for address in ["0000:02:00.0", "0000:02:00.1", "0000:03:00.0", "0000:03:00.1", "0000:09:03.0"] {
        assert_eq!(device_node(&machine, address), None, "{address}");
    }
    // Its local_cpulist is 0-39: the two files disagree, and numa_node is the one that names a node.
    let odd = machine.devices.iter().find(|device| device.address.to_string() == "0000:43:00.0").unwrap();
    assert_eq!(odd.locality, Locality::Node { node: 2, from: Evidence::NumaNode });
    assert_eq!(odd.local_cpus.as_ref().unwrap().to_string(), "0-39");
    assert!(machine.gpus.is_empty(), "0000:09:03.0 is a Matrox display of a board management controller");
    let allowed = found.allowed;
    assert_eq!((allowed.cpus.unwrap().to_string(), allowed.mems.unwrap().to_string()), ("0-39".into(), "0-3".into()));
}

#[test]
fn node_ids_with_gaps_keep_their_cpus_and_the_rows_are_by_position() {
    let Some(found) = tree("48amd64-4pa2n6c-sparse.tar.bz2") else { return };
    let machine = found.machine;
    assert_eq!(
        nodes(&machine),
        [
            node(0, "0-5", 8189),
            node(1, "6-11", 16384),
            node(2, "12-17", 8192),
            node(33, "18-23", 16384),
            node(34, "24-29", 8192),
            node(45, "30-35", 16384),
            node(72, "36-41", 8192),
            node(73, "42-47", 16384),
        ]
    );
    assert_eq!(
        packages(&machine),
        [(0, "0-11".to_owned()), (1, "12-23".to_owned()), (2, "24-35".to_owned()), (3, "36-47".to_owned())]
    );
    assert_eq!(machine.distance(1, 34), Some(16));
    assert_eq!(machine.distance(0, 33), Some(22));
    assert_eq!(machine.distance(72, 73), Some(16));
    assert_eq!(machine.distance(73, 45), Some(16));
    let mut settings = AUTO.to_vec();
    settings.push(("ranks", "8"));
    assert_eq!(planned(&machine, &settings)[4], ("24-29".to_owned(), "34".to_owned()));
}

#[test]
fn a_cpuset_narrower_than_the_machine_leaves_the_machine_whole() {
    let Some(found) = tree("32amd64-4s2n4c-cgroup2.tar.bz2") else { return };
    let machine = &found.machine;
    assert_eq!(nodes(machine)[0], node(0, "0-3", 16381));
    assert_eq!(nodes(machine)[7], node(7, "28-31", 16384));
    assert_eq!(lists(machine.l3.as_ref()), ["0-3", "4-7", "8-11", "12-15", "16-19", "20-23", "24-27", "28-31"]);
    assert_eq!(machine.distances.as_ref().unwrap()[0], [10, 16, 16, 22, 16, 22, 16, 22]);
    let allowed = &found.allowed;
    assert_eq!(allowed.cpus.as_ref().unwrap().to_string(), "0-5");
    assert_eq!(allowed.mems.as_ref().unwrap().to_string(), "0-5");
    // Node 0 whole, node 1 half; nodes 2 to 5 give memory only.
    let settings = [AUTO[0], AUTO[1], ("ranks", "2")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut request = oarlock_core::Request::default();
    for (key, value) in &settings {
        request.set(key, value).unwrap();
    }
    (request.allowed_cpus, request.allowed_mems) = (allowed.cpus.clone(), allowed.mems.clone());
    let plan = plan(machine, &oarlock_core::ledger::Ledger::default(), &request).unwrap();
    let cpus: Vec<_> = plan.ranks.iter().map(|rank| rank.cpus.as_ref().unwrap().to_string()).collect();
    assert_eq!(cpus, ["0-3", "4-5"]);
}

#[test]
fn nodes_that_all_list_every_cpu_are_read_with_a_warning() {
    let Some(found) = tree("8em64t-2s2ca2c-buggynuma.tar.bz2") else { return };
    let machine = found.machine;
    assert_eq!(machine.nodes.len(), 8);
    assert!(machine.nodes.iter().all(|node| node.cpus.to_string() == "0-7"));
    assert_eq!(machine.nodes[0].memory_mb, Some(2047));
    assert!(machine.distances.as_ref().unwrap().iter().flatten().all(|distance| *distance == 10));
    assert_eq!(packages(&machine), [(0, "0,2,4,6".to_owned()), (1, "1,3,5,7".to_owned())]);
    assert_eq!(lists(machine.l3.as_ref()), ["0,2", "1,3", "4,6", "5,7"], "the highest cache is an L2");
    assert!(found.warnings[0].starts_with("cpus 0-7 are listed by each of the nodes 0-7"), "{:?}", found.warnings);
    assert_eq!(found.allowed.cpus, None, "the cpuset mount was not copied into the tree");
}

#[test]
fn three_nvidia_gpus_sit_one_and_two_among_display_adapters() {
    let Some(found) = xml("32em64t-2n8c2t-pci-normalio.xml") else { return };
    let machine = found.machine;
    assert_eq!(nodes(&machine), [node(0, "0-7,16-23", 32739), node(1, "8-15,24-31", 32768)]);
    assert_eq!(machine.distances, Some(vec![vec![10, 20], vec![20, 10]]));
    // The AMD function at 84:00.1 is class 0300 of a vendor of compute GPUs, with no driver named: it counts, and comes
    // last. The Matrox at 05:03.0 is a board management controller's display.
    assert_eq!(
        gpus(&machine),
        [at("0000:03:00.0", 0), at("0000:83:00.0", 1), at("0000:84:00.0", 1), at("0000:84:00.1", 1)]
    );
    assert_eq!(device_node(&machine, "0000:05:03.0"), Some(0));
    let infiniband = machine.devices.iter().find(|device| device.class == Some(0x02_07_00)).unwrap();
    assert_eq!((infiniband.locality.node(), infiniband.name.as_deref()), (Some(1), Some("mlx5_0")));
    assert_eq!(infiniband.address.to_string(), "0000:04:00.0");
    // It was added by hand at the address of a storage controller under node 0.
    assert_eq!(found.warnings, ["two devices are at 0000:04:00.0: the one of class 0207 is taken"]);
}

#[test]
fn gb10_is_one_node_with_two_caches_and_package_36() {
    let Some(found) = tree("nvidia-dgx-gb10.tar.bz2") else { return };
    let machine = found.machine;
    assert_eq!(nodes(&machine), [node(0, "0-19", 122_566)]);
    assert_eq!(lists(machine.l3.as_ref()), ["0-9", "10-19"]);
    assert_eq!(packages(&machine), [(36, "0-19".to_owned())]);
    assert_eq!(machine.cores.as_ref().unwrap().len(), 20);
    assert!(machine.gpus.is_empty() && machine.devices.is_empty());
}

#[test]
fn format_3_gives_the_sixteen_core_complexes_of_two_epycs() {
    let Some(found) = xml("AMD-19h-Zen3-2xEpyc-7763.xml") else { return };
    let machine = found.machine;
    // From CPUID alone there is one node, and nothing of its memory.
    assert_eq!(nodes(&machine), [(0, "0-127".to_owned(), None)]);
    assert_eq!(packages(&machine), [(0, "0-63".to_owned()), (1, "64-127".to_owned())]);
    let complexes: Vec<_> = (0..16).map(|group| format!("{}-{}", group * 8, group * 8 + 7)).collect();
    assert_eq!(lists(machine.l3.as_ref()), complexes);
    assert_eq!(machine.cores.as_ref().unwrap().len(), 128);
}

#[test]
fn xml_cut_anywhere_is_one_line_with_its_place() {
    let Some(folder) = data() else { return };
    let whole = std::fs::read(folder.join("nvidiaDGX2.xml")).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("cut.xml");
    for part in 1..40 {
        let end = whole.len() * part / 40;
        std::fs::write(&path, &whole[..end]).unwrap();
        let error = discover(&Source::File(path.clone()), &Options::default()).unwrap_err();
        let line = whole[..end].split(|byte| *byte == b'\n').count();
        // A cut inside a closing tag is reported at the tag, by the parser.
        let place = match std::error::Error::source(&error) {
            None => error.to_string(),
            Some(cause) => cause.to_string(),
        };
        assert!(place.contains(&format!("{line}:")) && !place.contains('\n'), "{error}: {place}");
    }
}
