//! The files of a [`SysTree`], as Linux names and formats them.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use oarlock_core::{CpuSet, NodeSet};

use super::{SysDevice, SysTree};

pub(super) fn write(tree: &SysTree, root: &Path) -> io::Result<()> {
    let sys = root.join("sys");
    cpus(tree, &sys.join("devices/system/cpu"))?;
    nodes(tree, &sys.join("devices/system/node"))?;
    fs::create_dir_all(sys.join("bus/pci/devices"))?;
    for device in &tree.devices {
        pci_device(device, &sys)?;
    }
    if let Some(cgroup) = &tree.cgroup {
        put(&root.join("proc/mounts"), "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev 0 0")?;
        put(&root.join("proc/self/cgroup"), &format!("0::{}", cgroup.path))?;
        let folder = sys.join("fs/cgroup").join(cgroup.path.trim_start_matches('/'));
        put(&folder.join("cpuset.cpus.effective"), &cgroup.cpus)?;
        put(&folder.join("cpuset.mems.effective"), &cgroup.mems)?;
    }
    Ok(())
}

fn cpus(tree: &SysTree, folder: &Path) -> io::Result<()> {
    let all: CpuSet = (0..tree.total_cores() * tree.smt).collect();
    put(&folder.join("possible"), &all.to_string())?;
    put(&folder.join("present"), &all.to_string())?;
    put(&folder.join("online"), &all.difference(&tree.offline).to_string())?;
    for core in 0..tree.total_cores() {
        let siblings: CpuSet = tree.threads(core).into_iter().collect();
        let siblings = tree.listed(&siblings);
        let l3 = core / tree.cores_per_l3;
        let l3_cpus: CpuSet =
            (l3 * tree.cores_per_l3..(l3 + 1) * tree.cores_per_l3).flat_map(|core| tree.threads(core)).collect();
        let l3_cpus = tree.listed(&l3_cpus);
        let node = core / tree.cores_per_node();
        let package = node / tree.nodes_per_socket;
        let package_nodes = package * tree.nodes_per_socket..(package + 1) * tree.nodes_per_socket;
        let package_cpus: CpuSet =
            package_nodes.flat_map(|node| tree.node_cpus(node).iter().collect::<Vec<_>>()).collect();
        let package_cpus = tree.listed(&package_cpus);
        for cpu in tree.threads(core) {
            let folder = folder.join(format!("cpu{cpu}"));
            fs::create_dir_all(&folder)?;
            if tree.offline.contains(cpu) {
                continue;
            }
            let topology = folder.join("topology");
            put(&topology.join("physical_package_id"), &package.to_string())?;
            put(&topology.join("core_id"), &core.to_string())?;
            // Each under its newer and its older name.
            for (name, cpus) in [
                ("core_cpus", &siblings),
                ("thread_siblings", &siblings),
                ("package_cpus", &package_cpus),
                ("core_siblings", &package_cpus),
            ] {
                put_set(tree, &topology.join(name), &topology.join(format!("{name}_list")), cpus)?;
            }
            for (index, level, kind, shared) in
                [(0, 1, "Data", &siblings), (1, 1, "Instruction", &siblings), (2, 2, "Unified", &siblings)]
            {
                cache(tree, &folder, index, level, kind, shared)?;
            }
            cache(tree, &folder, 3, 3, "Unified", &l3_cpus)?;
            if tree.stray_cache_entries {
                cache(tree, &folder, 4, 4, "Instruction", &all)?;
                put(&folder.join("cache/uevent"), "")?;
            }
        }
    }
    Ok(())
}

fn cache(tree: &SysTree, cpu: &Path, index: u32, level: u32, kind: &str, shared: &CpuSet) -> io::Result<()> {
    let folder = cpu.join(format!("cache/index{index}"));
    put(&folder.join("level"), &level.to_string())?;
    put(&folder.join("type"), kind)?;
    put_set(tree, &folder.join("shared_cpu_map"), &folder.join("shared_cpu_list"), shared)
}

fn nodes(tree: &SysTree, folder: &Path) -> io::Result<()> {
    let mut nodes: Vec<(u32, CpuSet, u64)> = tree
        .node_ids
        .iter()
        .zip(0..)
        .map(|(&id, position)| (id, tree.node_cpus(position), tree.memory_mb))
        .chain(tree.memory_only.iter().map(|&(id, memory_mb)| (id, CpuSet::new(), memory_mb)))
        .collect();
    nodes.sort_by_key(|(id, ..)| *id);
    let ids: NodeSet = nodes.iter().map(|(id, ..)| *id).collect();
    put(&folder.join("online"), &ids.to_string())?;
    put(&folder.join("possible"), &ids.to_string())?;
    let bearing: NodeSet = tree.node_ids.iter().copied().collect();
    put(&folder.join("has_cpu"), &bearing.to_string())?;
    for (row, (id, cpus, memory_mb)) in nodes.iter().enumerate() {
        let folder = folder.join(format!("node{id}"));
        let cpus = tree.listed(cpus);
        put_set(tree, &folder.join("cpumap"), &folder.join("cpulist"), &cpus)?;
        put(&folder.join("meminfo"), &format!("Node {id} MemTotal:       {} kB", memory_mb * 1024))?;
        let distances: Vec<String> = (0..nodes.len())
            .map(|column| match &tree.distances {
                Some(matrix) => matrix[row][column].to_string(),
                None if row == column => "10".to_owned(),
                None => "21".to_owned(),
            })
            .collect();
        put(&folder.join("distance"), &distances.join(" "))?;
    }
    Ok(())
}

fn pci_device(device: &SysDevice, sys: &Path) -> io::Result<()> {
    let entry = sys.join("bus/pci/devices").join(&device.address);
    if device.plain_directory {
        return pci_files(device, &entry, sys);
    }
    let first = device.bridges.first().map_or(&device.address, |bridge| &bridge.address);
    let mut target = format!("devices/pci{}", first.rsplit_once(':').map_or("0000:00", |(bus, _)| bus));
    for bridge in &device.bridges {
        let _ = write!(target, "/{}", bridge.address);
        let folder = sys.join(&target);
        put(&folder.join("class"), "0x060400")?;
        put(&folder.join("vendor"), "0x8086")?;
        if let Some(node) = bridge.numa_node {
            put(&folder.join("numa_node"), &node.to_string())?;
        }
        let link = sys.join("bus/pci/devices").join(&bridge.address);
        if !link.exists() {
            symlink(format!("../../../{target}"), link)?;
        }
    }
    let _ = write!(target, "/{}", device.address);
    pci_files(device, &sys.join(&target), sys)?;
    symlink(format!("../../../{target}"), entry)
}

fn pci_files(device: &SysDevice, folder: &Path, sys: &Path) -> io::Result<()> {
    put(&folder.join("class"), &format!("0x{:06x}", device.class))?;
    put(&folder.join("vendor"), &format!("0x{:04x}", device.vendor))?;
    put(&folder.join("device"), &format!("0x{:04x}", device.device))?;
    if let Some(node) = device.numa_node {
        put(&folder.join("numa_node"), &node.to_string())?;
    }
    if let Some(cpus) = &device.local_cpus {
        put(&folder.join("local_cpulist"), cpus)?;
        put(&folder.join("local_cpus"), &mask(&cpus.parse().map_err(io::Error::other)?))?;
    }
    if let Some(driver) = &device.driver {
        let home = sys.join("bus/pci/drivers").join(driver);
        fs::create_dir_all(&home)?;
        symlink(home, folder.join("driver"))?;
    }
    Ok(())
}

/// The kernel's mask form: 32-bit words of eight digits, the highest first.
fn mask(cpus: &CpuSet) -> String {
    let words = cpus.iter().max().map_or(1, |highest| highest / 32 + 1);
    let word = |word: u32| (0..32).filter(|bit| cpus.contains(word * 32 + bit)).fold(0u32, |mask, bit| mask | 1 << bit);
    (0..words).rev().map(|index| format!("{:08x}", word(index))).collect::<Vec<_>>().join(",")
}

/// A set as the kernel writes it twice, as a mask and as a list.
fn put_set(tree: &SysTree, map: &Path, list: &Path, cpus: &CpuSet) -> io::Result<()> {
    if !tree.lists_only {
        put(map, &mask(cpus))?;
    }
    put(list, &cpus.to_string())
}

fn put(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, format!("{text}\n"))
}
