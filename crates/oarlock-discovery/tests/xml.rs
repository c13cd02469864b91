//! hwloc's XML, for what no captured file shows.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use oarlock_discovery::{Found, Options, Source, discover};

/// Reads a topology with these objects in its machine, and a distance matrix where one is given.
fn read(objects: &str, after: &str) -> Found {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("box.xml");
    let text = format!(
        "<topology version=\"2.0\"><object type=\"Machine\" cpuset=\"0xff\" allowed_cpuset=\"0x3f\" allowed_nodeset=\"0x1\">\
         {objects}</object>{after}</topology>"
    );
    fs::write(&path, text).unwrap();
    discover(&Source::File(path), &Options::default()).unwrap()
}

fn node(id: u32, cpus: &str, more: &str) -> String {
    format!("<object type=\"NUMANode\" os_index=\"{id}\" cpuset=\"{cpus}\" {more}/>")
}

#[test]
fn of_nodes_around_the_same_cpus_the_ordinary_one_has_them() {
    // hwloc gives HBM the CPUs that it is near to; the kernel lists none there. Here the HBM has the lower ids.
    let hbm = "subtype=\"HBM\" local_memory=\"68719476736\"";
    let objects = node(0, "0x0f", hbm) + &node(1, "0xf0", hbm) + &node(2, "0x0f", "") + &node(3, "0xf0", "");
    let found = read(&objects, "");
    let nodes: Vec<_> =
        found.machine.nodes.iter().map(|node| (node.id, node.cpus.to_string(), node.memory_mb)).collect();
    let size = Some(65536);
    assert_eq!(
        nodes,
        [
            (0, String::new(), size),
            (1, String::new(), size),
            (2, "0-3".to_owned(), Some(0)),
            (3, "4-7".to_owned(), Some(0))
        ]
    );
    assert!(found.warnings.is_empty(), "{:?}", found.warnings);
}

#[test]
fn of_ordinary_nodes_around_the_same_cpus_the_lowest_has_them_with_a_warning() {
    let found = read(&(node(4, "0xff", "") + &node(1, "0xff", "")), "");
    let nodes: Vec<_> = found.machine.nodes.iter().map(|node| (node.id, node.cpus.to_string())).collect();
    assert_eq!(nodes, [(1, "0-7".to_owned()), (4, String::new())]);
    assert!(found.warnings[0].starts_with("node 4 is around cpus 0-7"), "{:?}", found.warnings);
}

#[test]
fn gpus_have_the_index_that_nvml_gave_them_and_their_own_memory() {
    let gpu = |bus: &str, name: &str, uuid: &str| {
        format!(
            "<object type=\"PCIDev\" pci_busid=\"0004:{bus}:00.0\" pci_type=\"0302 [10de:2342] [10de:16eb] a1\">\
             <object type=\"OSDev\" name=\"{name}\" osdev_type=\"5\"><info name=\"NVIDIAUUID\" value=\"{uuid}\"/></object></object>"
        )
    };
    let memory = "<object type=\"NUMANode\" os_index=\"9\" cpuset=\"0x0\" subtype=\"GPUMemory\">\
                  <info name=\"PCIBusID\" value=\"0004:07:00.0\"/></object>";
    let objects = node(0, "0xff", "") + memory + &gpu("07", "nvml1", "GPU-b") + &gpu("81", "nvml0", "GPU-a");
    let machine = read(&objects, "").machine;
    let gpus: Vec<_> = machine
        .gpus
        .iter()
        .map(|gpu| (gpu.index, gpu.pci.unwrap().bus, gpu.uuid.as_deref().unwrap(), gpu.memory_node))
        .collect();
    assert_eq!(gpus, [(0, 0x81, "GPU-a", None), (1, 0x07, "GPU-b", Some(9))]);
    assert!(machine.node(9).unwrap().gpu_memory);
}

#[test]
fn distances_follow_their_indexes_and_not_their_place() {
    let objects = node(7, "0x0f", "") + &node(2, "0xf0", "");
    let distances = "<distances2 type=\"NUMANode\" nbobjs=\"2\" kind=\"5\" indexing=\"os\">\
                     <indexes length=\"4\">7 2 </indexes><u64values length=\"6\">10 31 </u64values>\
                     <u64values length=\"6\">32 11 </u64values></distances2>";
    let machine = read(&objects, distances).machine;
    assert_eq!(
        (machine.distance(7, 2), machine.distance(2, 7), machine.distance(2, 2)),
        (Some(31), Some(32), Some(11))
    );
}

#[test]
fn what_the_exporting_process_might_use_is_kept_apart_from_the_machine() {
    let found = read(&node(0, "0xff", ""), "");
    assert_eq!(found.machine.cpus().to_string(), "0-7");
    assert_eq!(found.allowed.cpus.unwrap().to_string(), "0-5");
    assert_eq!(found.allowed.mems.unwrap().to_string(), "0");
}
