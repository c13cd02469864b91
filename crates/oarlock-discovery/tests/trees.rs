//! Folders with `sys/`: machines written file by file, with what real kernels and copied trees get wrong.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use oarlock_core::link::Link;
use oarlock_core::locality::{Evidence, Locality};
use oarlock_core::machine::Machine;
use oarlock_discovery::{Found, Options, Source, discover};
use oarlock_testkit::{SysDevice, SysTree};
use tempfile::TempDir;

fn written(tree: &SysTree) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    tree.write(folder.path()).unwrap();
    folder
}

fn read(folder: &Path) -> Found {
    discover(&Source::File(folder.to_owned()), &Options::default()).unwrap()
}

fn nodes(machine: &Machine) -> Vec<(u32, String)> {
    machine.nodes.iter().map(|node| (node.id, node.cpus.to_string())).collect()
}

fn places(machine: &Machine) -> Vec<Option<u32>> {
    machine.gpus.iter().map(|gpu| gpu.locality.node()).collect()
}

fn lists(groups: Option<&Vec<oarlock_core::CpuSet>>) -> Vec<String> {
    groups.unwrap().iter().map(ToString::to_string).collect()
}

#[test]
fn a_machine_reads_as_it_was_declared() {
    let tree = SysTree::new(2, 1, 2, 2, 2)
        .device(SysDevice::gpu("0000:81:00.0").numa_node(1).local_cpus("4-7,12-15"))
        .device(SysDevice::gpu("0000:07:00.0").numa_node(0).local_cpus("0-3,8-11"))
        .device(SysDevice::gpu("0000:05:00.0").kind(0x02_00_00, 0x15b3).numa_node(1));
    let machine = read(written(&tree).path()).machine;
    assert_eq!(read(written(&tree.lists_only()).path()).machine.cores, machine.cores, "with masks and without");
    assert_eq!(nodes(&machine), [(0, "0-3,8-11".to_owned()), (1, "4-7,12-15".to_owned())]);
    assert_eq!(lists(machine.cores.as_ref()), ["0,8", "1,9", "2,10", "3,11", "4,12", "5,13", "6,14", "7,15"]);
    assert_eq!(lists(machine.l3.as_ref()), ["0-1,8-9", "2-3,10-11", "4-5,12-13", "6-7,14-15"]);
    let packages: Vec<_> = machine.packages.iter().flatten().map(|p| (p.id, p.cpus.to_string())).collect();
    assert_eq!(packages, [(0, "0-3,8-11".to_owned()), (1, "4-7,12-15".to_owned())]);
    assert_eq!(machine.distances, Some(vec![vec![10, 21], vec![21, 10]]));
    assert_eq!(machine.nodes[1].memory_mb, Some(16384));
    assert_eq!(places(&machine), [Some(0), Some(1)], "gpus are in the order of their addresses");
    assert_eq!(machine.devices.len(), 1);
    assert_eq!(machine.devices[0].locality.node(), Some(1));
}

#[test]
fn torchrun_machines_have_adjacent_threads_and_caches_to_skip() {
    let machine = read(written(&SysTree::torchrun(2, 1, 2, 3, 3)).path()).machine;
    assert_eq!(nodes(&machine), [(0, "0-17".to_owned()), (1, "18-35".to_owned())]);
    assert_eq!(lists(machine.cores.as_ref())[..2], ["0-1", "2-3"]);
    assert_eq!(lists(machine.l3.as_ref())[3..], ["18-23", "24-29", "30-35"], "the instruction cache above is no L3");
    assert_eq!(places(&machine), [Some(0), Some(0), Some(1), Some(1)]);
}

#[test]
fn permuted_node_ids_with_gaps_keep_their_cpus_and_their_distances() {
    // The first node's CPUs belong to id 45; rows and columns are by position among ascending ids (2, 33, 45).
    let tree = SysTree::new(3, 1, 1, 2, 1)
        .node_ids(&[45, 2, 33])
        .distances(vec![vec![10, 12, 13], vec![12, 10, 23], vec![13, 23, 10]])
        .device(SysDevice::gpu("0000:07:00.0").numa_node(45))
        .device(SysDevice::gpu("0000:08:00.0").numa_node(2));
    let machine = read(written(&tree).path()).machine;
    assert_eq!(nodes(&machine), [(2, "2-3".to_owned()), (33, "4-5".to_owned()), (45, "0-1".to_owned())]);
    assert_eq!(machine.distance(33, 45), Some(23));
    assert_eq!(machine.distance(2, 33), Some(12));
    assert_eq!(places(&machine), [Some(45), Some(2)]);
}

#[test]
fn offline_cpus_are_nowhere_even_where_files_still_list_them() {
    let tree = SysTree::new(2, 1, 1, 2, 2).offline("1,4-5");
    for tree in [tree.clone(), tree.files_list_offline()] {
        let machine = read(written(&tree).path()).machine;
        assert_eq!(nodes(&machine), [(0, "0".to_owned()), (1, "2-3,6-7".to_owned())]);
        assert_eq!(lists(machine.cores.as_ref()), ["0", "2,6", "3,7"]);
        assert_eq!(lists(machine.l3.as_ref()), ["0", "2-3,6-7"]);
    }
}

#[test]
fn a_node_without_cpus_is_memory() {
    let tree = SysTree::new(2, 1, 1, 2, 1).memory_only_node(2, 65536).memory_only_node(3, 0);
    let machine = read(written(&tree).path()).machine;
    let memory: Vec<_> = machine.nodes.iter().map(|n| (n.id, n.cpus.len(), n.memory_mb)).collect();
    assert_eq!(memory, [(0, 2, Some(16384)), (1, 2, Some(16384)), (2, 0, Some(65536)), (3, 0, Some(0))]);
}

#[test]
fn files_padded_with_nul_bytes_end_at_the_first() {
    let folder = written(&SysTree::new(2, 1, 1, 2, 1).device(SysDevice::gpu("0000:07:00.0").numa_node(1)));
    let sys = folder.path().join("sys");
    for name in
        ["devices/system/cpu/online", "devices/system/node/node1/cpumap", "bus/pci/devices/0000:07:00.0/numa_node"]
    {
        let path = sys.join(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes.resize(4096, 0);
        fs::write(path, bytes).unwrap();
    }
    // One that holds nothing else says nothing.
    fs::write(sys.join("devices/system/node/node0/distance"), [0; 4096]).unwrap();
    let machine = read(folder.path()).machine;
    assert_eq!(nodes(&machine), [(0, "0-1".to_owned()), (1, "2-3".to_owned())]);
    assert_eq!(places(&machine), [Some(1)]);
    assert_eq!(machine.distances, None);
}

#[test]
fn without_cpulist_the_map_counts_and_the_other_way_round() {
    let folder = written(&SysTree::new(2, 1, 1, 2, 1));
    let node = folder.path().join("sys/devices/system/node");
    fs::remove_file(node.join("node0/cpulist")).unwrap();
    fs::remove_file(node.join("node1/cpumap")).unwrap();
    assert_eq!(nodes(&read(folder.path()).machine), [(0, "0-1".to_owned()), (1, "2-3".to_owned())]);
}

#[test]
fn where_cpulist_and_cpumap_disagree_the_map_counts_with_a_warning() {
    let folder = written(&SysTree::new(2, 1, 1, 2, 1));
    fs::write(folder.path().join("sys/devices/system/node/node1/cpulist"), "3\n").unwrap();
    let found = read(folder.path());
    assert_eq!(found.machine.nodes[1].cpus.to_string(), "2-3");
    assert_eq!(found.warnings, ["node 1: cpulist says 3 and cpumap says 2-3; cpumap is taken"]);
}

#[test]
fn cpus_in_several_nodes_are_a_warning_and_name_no_node_for_a_gpu() {
    let folder =
        written(&SysTree::new(2, 1, 1, 2, 1).device(SysDevice::gpu("0000:07:00.0").numa_node(-1).local_cpus("0-3")));
    let node = folder.path().join("sys/devices/system/node");
    for id in 0..2 {
        fs::write(node.join(format!("node{id}/cpulist")), "0-3\n").unwrap();
        fs::write(node.join(format!("node{id}/cpumap")), "0000000f\n").unwrap();
    }
    let found = read(folder.path());
    assert_eq!(nodes(&found.machine), [(0, "0-3".to_owned()), (1, "0-3".to_owned())]);
    assert_eq!(places(&found.machine), [None]);
    assert!(found.warnings[0].starts_with("cpus 0-3 are listed by each of the nodes 0-1"), "{:?}", found.warnings);
}

#[test]
fn a_kernel_without_numa_is_one_node() {
    let folder = written(&SysTree::new(1, 1, 1, 4, 1).device(SysDevice::gpu("0000:07:00.0")));
    fs::remove_dir_all(folder.path().join("sys/devices/system/node")).unwrap();
    fs::create_dir_all(folder.path().join("proc")).unwrap();
    fs::write(folder.path().join("proc/meminfo"), "MemTotal:        8388608 kB\nMemFree:  1 kB\n").unwrap();
    let machine = read(folder.path()).machine;
    assert_eq!(nodes(&machine), [(0, "0-3".to_owned())]);
    assert_eq!(machine.nodes[0].memory_mb, Some(8192));
    assert_eq!(machine.gpus[0].locality, Locality::Node { node: 0, from: Evidence::OnlyNode });
}

#[test]
fn a_gpu_takes_its_node_from_the_best_file_it_has() {
    let tree = SysTree::new(2, 1, 1, 2, 1)
        .device(SysDevice::gpu("0000:01:00.0").numa_node(1).local_cpus("2-3"))
        .device(SysDevice::gpu("0000:02:00.0").numa_node(-1).local_cpus("2-3"))
        .device(SysDevice::gpu("0000:03:00.0").local_cpus("2-3").plain_directory())
        .device(
            SysDevice::gpu("0000:04:00.0")
                .numa_node(-1)
                .local_cpus("0-3")
                .below_bridge("0000:00:04.0", Some(0))
                .below_bridge("0000:00:05.0", Some(1)),
        )
        .device(SysDevice::gpu("0000:05:00.0").numa_node(-1).local_cpus("0-3"))
        .device(SysDevice::gpu("10000:06:00.0").numa_node(1))
        // By its name this folder comes after the one above, by its domain before.
        .device(SysDevice::gpu("f000:06:00.0").numa_node(1));
    let machine = read(written(&tree).path()).machine;
    let node = |from| Locality::Node { node: 1, from };
    let found: Vec<_> = machine.gpus.iter().map(|gpu| gpu.locality.clone()).collect();
    assert_eq!(
        found[..4],
        [node(Evidence::NumaNode), node(Evidence::LocalCpus), node(Evidence::LocalCpus), node(Evidence::Bridge)]
    );
    assert_eq!(
        found[4],
        Locality::Unknown { why: "its numa_node is -1 and its local cpus 0-3 are on nodes 0-1".to_owned() }
    );
    assert_eq!(found[5], node(Evidence::NumaNode));
    assert_eq!(machine.gpus[5].pci.unwrap().to_string(), "f000:06:00.0");
    assert_eq!(machine.gpus[6].pci.unwrap().to_string(), "10000:06:00.0");
}

#[test]
fn a_gpu_whose_files_disagree_keeps_its_numa_node_with_a_warning() {
    let tree = SysTree::new(2, 1, 1, 2, 1).device(SysDevice::gpu("0000:07:00.0").numa_node(1).local_cpus("0-3"));
    let found = read(written(&tree).path());
    assert_eq!(places(&found.machine), [Some(1)]);
    assert!(found.warnings[0].contains("its numa_node is 1, but its local cpus 0-3"), "{:?}", found.warnings);
}

#[test]
fn only_devices_that_compute_count_as_gpus() {
    let nvidia = 0x10de;
    let device = |address: &str, class, vendor| SysDevice::gpu(address).kind(class, vendor).numa_node(0);
    let tree = SysTree::new(1, 1, 1, 2, 1)
        .device(device("0000:01:00.0", 0x03_02_00, nvidia))
        .device(device("0000:02:00.0", 0x12_00_00, 0x1da3))
        .device(device("0000:03:00.0", 0x03_00_00, nvidia))
        .device(device("0000:04:00.0", 0x03_00_00, 0x1002).driver("amdgpu"))
        .device(device("0000:05:00.0", 0x03_00_00, nvidia).driver("nouveau"))
        // The display of a board management controller, whatever its driver.
        .device(device("0000:06:00.0", 0x03_00_00, 0x1a03))
        .device(device("0000:07:00.0", 0x03_00_00, 0x102b).driver("mgag200"))
        .device(device("0000:08:00.0", 0x00_ff_00, 0x1af4))
        .device(device("0000:09:00.0", 0x06_04_00, 0x8086));
    let machine = read(written(&tree).path()).machine;
    let gpus: Vec<_> = machine.gpus.iter().map(|gpu| gpu.pci.unwrap().bus).collect();
    let others: Vec<_> = machine.devices.iter().map(|device| device.address.bus).collect();
    assert_eq!((gpus, others), (vec![1, 2, 3, 4], vec![5, 6, 7, 8]));
}

#[test]
fn a_gpus_own_memory_is_marked_and_belongs_to_it() {
    let folder = written(
        &SysTree::new(2, 1, 1, 2, 1)
            .memory_only_node(254, 32768)
            .memory_only_node(255, 32768)
            .device(SysDevice::gpu("0004:04:00.0").numa_node(0))
            .device(SysDevice::gpu("0035:03:00.0").numa_node(1)),
    );
    for (address, node) in [("0004:04:00.0", 255), ("0035:03:00.0", 254)] {
        let gpu = folder.path().join("proc/driver/nvidia/gpus").join(address);
        fs::create_dir_all(&gpu).unwrap();
        fs::write(gpu.join("numa_status"), format!("Node: {node}\nStatus: online\n")).unwrap();
    }
    let machine = read(folder.path()).machine;
    assert_eq!(machine.gpus.iter().map(|gpu| gpu.memory_node).collect::<Vec<_>>(), [Some(255), Some(254)]);
    let ordinary: Vec<u32> = machine.nodes.iter().filter(|node| !node.gpu_memory).map(|node| node.id).collect();
    assert_eq!(ordinary, [0, 1]);
}

#[test]
fn a_gpus_uuid_is_told_by_its_driver_once_somebody_has_used_it() {
    let folder = written(
        &SysTree::new(2, 1, 1, 2, 1)
            .device(SysDevice::gpu("0000:04:00.0").numa_node(0))
            .device(SysDevice::gpu("0000:05:00.0").numa_node(0))
            .device(SysDevice::gpu("0000:06:00.0").numa_node(1)),
    );
    let unused = "GPU-????????-????-????-????-????????????";
    let used = "GPU-5a4b9b50-3c0f-4c0a-9f11-0d6bd5a0c9aa";
    for (address, uuid) in [("0000:04:00.0", unused), ("0000:06:00.0", used), ("0000:07:00.0", "GPU-of-nobody")] {
        let gpu = folder.path().join("proc/driver/nvidia/gpus").join(address);
        fs::create_dir_all(&gpu).unwrap();
        let text = format!("Model: \t\t NVIDIA A100\nIRQ:   \t\t 99\nGPU UUID: \t {uuid}\nBus Type: \t PCIe\n");
        fs::write(gpu.join("information"), text).unwrap();
    }
    let machine = read(folder.path()).machine;
    assert_eq!(machine.gpus.iter().map(|gpu| gpu.uuid.as_deref()).collect::<Vec<_>>(), [None, None, Some(used)]);
}

#[test]
fn the_readers_cgroup_says_what_is_allowed_and_parents_speak_for_silent_children() {
    let tree = SysTree::new(2, 1, 1, 2, 1).cgroup2("/job/step", "1-2,40", "0-1,9");
    let folder = written(&tree);
    let allowed = read(folder.path()).allowed;
    // CPU 40 and node 9 are not on this machine.
    assert_eq!((allowed.cpus.unwrap().to_string(), allowed.mems.unwrap().to_string()), ("1-2".into(), "0-1".into()));

    fs::write(folder.path().join("proc/self/cgroup"), "0::/job/step/inner/most\n").unwrap();
    assert_eq!(read(folder.path()).allowed.cpus.unwrap().to_string(), "1-2");

    // A cgroup outside of the reader's namespace is nowhere below the mount.
    fs::write(folder.path().join("proc/self/cgroup"), "0::/x/../job/step\n").unwrap();
    assert_eq!(read(folder.path()).allowed.cpus, None);
}

#[test]
fn without_a_cpuset_nothing_is_said_of_what_is_allowed() {
    let allowed = read(written(&SysTree::new(1, 1, 1, 2, 1)).path()).allowed;
    assert_eq!((allowed.cpus, allowed.mems), (None, None));
}

#[test]
fn a_cgroup_of_version_1_counts_with_and_without_its_prefix() {
    for (options, cpus_file, mems_file) in
        [("rw,cpuset", "cpuset.cpus", "cpuset.mems"), ("rw,cpuset,noprefix", "cpus", "mems")]
    {
        let folder = written(&SysTree::new(2, 1, 1, 2, 1));
        let root = folder.path();
        let group = root.join("dev/cpuset/torque/1.master");
        fs::create_dir_all(&group).unwrap();
        fs::create_dir_all(root.join("proc/self")).unwrap();
        fs::write(root.join("proc/mounts"), format!("none /dev/cpuset cgroup {options} 0 0\n")).unwrap();
        fs::write(root.join("proc/self/cpuset"), "/torque/1.master\n").unwrap();
        fs::write(group.join(cpus_file), "3\n").unwrap();
        fs::write(group.join(mems_file), "1\n").unwrap();
        let allowed = read(root).allowed;
        assert_eq!((allowed.cpus.unwrap().to_string(), allowed.mems.unwrap().to_string()), ("3".into(), "1".into()));
    }
}

#[test]
fn a_malformed_file_is_an_error_with_its_path_and_text() {
    for (file, text) in [
        ("sys/devices/system/cpu/online", "0-x"),
        ("sys/devices/system/node/node0/cpumap", "0000000g"),
        ("sys/devices/system/node/node1/distance", "10 ten"),
        ("sys/devices/system/node/node1/meminfo", "Node 1 MemTotal: lots"),
        ("sys/devices/system/cpu/cpu0/topology/physical_package_id", "one"),
        ("sys/bus/pci/devices/0000:07:00.0/class", "0x03xx"),
        ("sys/bus/pci/devices/0000:07:00.0/local_cpus", "3-"),
    ] {
        let tree = SysTree::new(2, 1, 1, 2, 1).device(SysDevice::gpu("0000:07:00.0").numa_node(1).local_cpus("2-3"));
        let folder = written(&tree);
        fs::write(folder.path().join(file), format!("{text}\n")).unwrap();
        let error = discover(&Source::File(folder.path().to_owned()), &Options::default()).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains(text), "{error}");
    }
}

#[test]
fn a_device_whose_numa_node_is_no_number_is_of_unknown_node_and_the_machine_is_read() {
    for text in ["N/A", "0-1", "", "two"] {
        let folder = written(&SysTree::new(2, 1, 1, 2, 1).device(SysDevice::gpu("0000:07:00.0").numa_node(1)));
        fs::write(folder.path().join("sys/bus/pci/devices/0000:07:00.0/numa_node"), text).unwrap();
        assert_eq!(read(folder.path()).machine.gpus[0].locality.node(), None, "{text}");
    }
}

#[test]
fn files_of_nothing_but_nul_say_nothing() {
    let tree = SysTree::new(2, 1, 1, 2, 1).device(SysDevice::gpu("0000:07:00.0").local_cpus("2-3"));
    let folder = written(&tree);
    let system = folder.path().join("sys/devices/system");
    for file in ["cpu/online", "node/online", "node/node1/cpumap"] {
        fs::write(system.join(file), [0; 64]).unwrap();
    }
    fs::write(folder.path().join("sys/bus/pci/devices/0000:07:00.0/local_cpus"), [0; 8]).unwrap();
    let machine = read(folder.path()).machine;
    assert_eq!(machine.nodes.iter().map(|node| node.cpus.to_string()).collect::<Vec<_>>(), ["0-1", "2-3"]);
    assert_eq!(machine.gpus[0].locality.node(), Some(1));
}

#[test]
fn links_follow_the_bridges_between_the_gpus() {
    let gpu = |address: &str, port: &str| {
        let below_root = SysDevice::gpu(address).numa_node(0).below_bridge("0000:00:01.0", Some(0));
        below_root.below_bridge("0000:01:00.0", Some(0)).below_bridge(port, Some(0))
    };
    let found = read(
        written(
            &SysTree::new(2, 1, 1, 2, 1)
                .device(gpu("0000:03:00.0", "0000:02:00.0"))
                .device(gpu("0000:04:00.0", "0000:02:01.0"))
                .device(
                    gpu("0000:07:00.0", "0000:02:02.0")
                        .below_bridge("0000:05:00.0", None)
                        .below_bridge("0000:06:00.0", None),
                )
                .device(SysDevice::gpu("0000:08:00.0").numa_node(0).below_bridge("0000:00:02.0", None))
                .device(SysDevice::gpu("0000:41:00.0").numa_node(0).below_bridge("0000:40:02.0", None))
                .device(SysDevice::gpu("0000:81:00.0").numa_node(1).below_bridge("0000:80:02.0", None)),
        )
        .path(),
    );
    let first: Vec<String> = found.machine.links.unwrap()[0].iter().map(ToString::to_string).collect();
    assert_eq!(first, ["?", "PIX", "PXB", "PHB", "NODE", "SYS"]);
}

#[test]
fn a_tree_copied_without_its_links_tells_only_that_nodes_differ() {
    let gpu = |address, node| SysDevice::gpu(address).numa_node(node).plain_directory();
    let tree = SysTree::new(2, 1, 1, 2, 1).device(gpu("0000:03:00.0", 0)).device(gpu("0000:04:00.0", 0));
    assert_eq!(read(written(&tree).path()).machine.links, None);
    let links = read(written(&tree.device(gpu("0000:05:00.0", 1))).path()).machine.links.unwrap();
    assert_eq!(links[0], [Link::Unknown, Link::Unknown, Link::System]);
}
