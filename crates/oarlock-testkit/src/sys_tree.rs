//! A fake `sys/` (and `proc/`) of a machine that is declared in a few lines.

mod write;

use std::io;
use std::path::Path;

use oarlock_core::CpuSet;

/// How the hardware threads of a core are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Siblings {
    /// Next to each other: core k has threads 2k and 2k+1 (torchrun's test machines).
    Adjacent,
    /// All first threads, then all second threads: core k has threads k and k+N (x86 Linux).
    Interleaved,
}

/// A machine to be written as kernel files. Start with [`SysTree::new`], change what the test is about, then
/// [`SysTree::write`].
///
/// Cores are numbered node after node; the i-th node of the machine is in socket i / nodes per socket.
#[derive(Debug, Clone)]
pub struct SysTree {
    sockets: u32,
    nodes_per_socket: u32,
    l3_per_node: u32,
    cores_per_l3: u32,
    smt: u32,
    siblings: Siblings,
    node_ids: Vec<u32>,
    memory_mb: u64,
    memory_only: Vec<(u32, u64)>,
    distances: Option<Vec<Vec<u32>>>,
    offline: CpuSet,
    files_list_offline: bool,
    lists_only: bool,
    devices: Vec<SysDevice>,
    cgroup: Option<Cgroup>,
    stray_cache_entries: bool,
}

/// A cgroup v2 of the process that reads the tree, with its cpuset files as written.
#[derive(Debug, Clone)]
struct Cgroup {
    path: String,
    cpus: String,
    mems: String,
}

/// A PCI device of a [`SysTree`]. Absent parts have no file.
#[derive(Debug, Clone)]
pub struct SysDevice {
    address: String,
    class: u32,
    vendor: u16,
    device: u16,
    driver: Option<String>,
    numa_node: Option<i64>,
    local_cpus: Option<String>,
    bridges: Vec<SysBridge>,
    plain_directory: bool,
}

/// A bridge above a [`SysDevice`], the nearest to the root first.
#[derive(Debug, Clone)]
struct SysBridge {
    address: String,
    numa_node: Option<i64>,
}

impl SysDevice {
    /// An NVIDIA compute device (class 0302) at this address, with nothing said about its place.
    pub fn gpu(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            class: 0x03_02_00,
            vendor: 0x10de,
            device: 0x20b0,
            driver: None,
            numa_node: None,
            local_cpus: None,
            bridges: Vec::new(),
            plain_directory: false,
        }
    }

    /// Another class and vendor: `class` in the kernel's 24 bits (`0x020000` is an Ethernet controller).
    #[must_use]
    pub fn kind(mut self, class: u32, vendor: u16) -> Self {
        (self.class, self.vendor) = (class, vendor);
        self
    }

    /// The driver that holds the device, as its `driver` link names it.
    #[must_use]
    pub fn driver(mut self, name: &str) -> Self {
        self.driver = Some(name.to_owned());
        self
    }

    /// Its `numa_node` file: −1 is "unknown".
    #[must_use]
    pub fn numa_node(mut self, node: i64) -> Self {
        self.numa_node = Some(node);
        self
    }

    /// Its `local_cpulist` and `local_cpus`.
    #[must_use]
    pub fn local_cpus(mut self, cpus: &str) -> Self {
        self.local_cpus = Some(cpus.to_owned());
        self
    }

    /// A bridge between the host bridge and the device; the last one added is the nearest.
    #[must_use]
    pub fn below_bridge(mut self, address: &str, numa_node: Option<i64>) -> Self {
        self.bridges.push(SysBridge { address: address.to_owned(), numa_node });
        self
    }

    /// Its entry in `bus/pci/devices` is a directory, as in trees that were copied without their links.
    #[must_use]
    pub fn plain_directory(mut self) -> Self {
        self.plain_directory = true;
        self
    }
}

impl SysTree {
    /// A machine of this shape, x86 numbering, node ids from 0, 16 GiB a node, no device.
    pub fn new(sockets: u32, nodes_per_socket: u32, l3_per_node: u32, cores_per_l3: u32, smt: u32) -> Self {
        Self {
            sockets,
            nodes_per_socket,
            l3_per_node,
            cores_per_l3,
            smt,
            siblings: Siblings::Interleaved,
            node_ids: (0..sockets * nodes_per_socket).collect(),
            memory_mb: 16384,
            memory_only: Vec::new(),
            distances: None,
            offline: CpuSet::new(),
            files_list_offline: false,
            lists_only: false,
            devices: Vec::new(),
            cgroup: None,
            stray_cache_entries: false,
        }
    }

    /// The machine that torchrun's own tests describe as sockets × nodes per socket × GPUs per node × L3 per node ×
    /// cores per L3: two adjacent threads a core, GPUs numbered node after node, each with its index as PCI domain, bus
    /// and device, and cache entries that a reader must skip.
    pub fn torchrun(
        sockets: u32,
        nodes_per_socket: u32,
        gpus_per_node: u32,
        l3_per_node: u32,
        cores_per_l3: u32,
    ) -> Self {
        let mut tree = Self::new(sockets, nodes_per_socket, l3_per_node, cores_per_l3, 2).siblings(Siblings::Adjacent);
        tree.stray_cache_entries = true;
        for gpu in 0..sockets * nodes_per_socket * gpus_per_node {
            let address = format!("{gpu:04x}:{gpu:02x}:{gpu:02x}.0");
            tree.devices.push(SysDevice::gpu(&address).numa_node(i64::from(gpu / gpus_per_node)));
        }
        tree
    }

    /// How threads are numbered.
    #[must_use]
    pub fn siblings(mut self, siblings: Siblings) -> Self {
        self.siblings = siblings;
        self
    }

    /// The ids of the nodes with CPUs, in the order of their CPUs: one per node, gaps and any order allowed.
    ///
    /// # Panics
    /// Where there is not one id per node.
    #[must_use]
    pub fn node_ids(mut self, ids: &[u32]) -> Self {
        assert_eq!(ids.len(), self.node_ids.len(), "one id per node");
        self.node_ids = ids.to_vec();
        self
    }

    /// Memory of every node with CPUs, in MiB.
    #[must_use]
    pub fn memory_mb(mut self, memory_mb: u64) -> Self {
        self.memory_mb = memory_mb;
        self
    }

    /// A further node, without CPUs.
    #[must_use]
    pub fn memory_only_node(mut self, id: u32, memory_mb: u64) -> Self {
        self.memory_only.push((id, memory_mb));
        self
    }

    /// Distances by position, nodes ascending by id. Without this: 10 on the diagonal, 21 elsewhere.
    #[must_use]
    pub fn distances(mut self, matrix: Vec<Vec<u32>>) -> Self {
        self.distances = Some(matrix);
        self
    }

    /// CPUs that are offline: in `possible` and `present`, and nowhere else.
    ///
    /// # Panics
    /// Where the list is malformed.
    #[must_use]
    pub fn offline(mut self, cpus: &str) -> Self {
        self.offline = cpus.parse().expect("a CPU list");
        self
    }

    /// Offline CPUs stay in the files of their node, core and cache, as in trees that were captured and then edited.
    #[must_use]
    pub fn files_list_offline(mut self) -> Self {
        self.files_list_offline = true;
        self
    }

    /// Nodes, cores and caches have their lists and no masks.
    #[must_use]
    pub fn lists_only(mut self) -> Self {
        self.lists_only = true;
        self
    }

    /// A PCI device.
    #[must_use]
    pub fn device(mut self, device: SysDevice) -> Self {
        self.devices.push(device);
        self
    }

    /// `proc/self/cgroup`, `proc/mounts` and a cgroup v2 with these effective sets.
    #[must_use]
    pub fn cgroup2(mut self, path: &str, cpus: &str, mems: &str) -> Self {
        self.cgroup = Some(Cgroup { path: path.to_owned(), cpus: cpus.to_owned(), mems: mems.to_owned() });
        self
    }

    /// Writes the files under `root`, which becomes the tree's top directory.
    pub fn write(&self, root: &Path) -> io::Result<()> {
        write::write(self, root)
    }

    /// All CPUs of the i-th node, online or not.
    pub fn node_cpus(&self, position: u32) -> CpuSet {
        let cores = self.cores_per_node();
        (position * cores..(position + 1) * cores).flat_map(|core| self.threads(core)).collect()
    }

    /// The part of a group that the group's files list.
    fn listed(&self, cpus: &CpuSet) -> CpuSet {
        if self.files_list_offline { cpus.clone() } else { cpus.difference(&self.offline) }
    }

    fn cores_per_node(&self) -> u32 {
        self.l3_per_node * self.cores_per_l3
    }

    fn total_cores(&self) -> u32 {
        self.sockets * self.nodes_per_socket * self.cores_per_node()
    }

    fn threads(&self, core: u32) -> Vec<u32> {
        (0..self.smt)
            .map(|thread| match self.siblings {
                Siblings::Adjacent => core * self.smt + thread,
                Siblings::Interleaved => core + thread * self.total_cores(),
            })
            .collect()
    }
}
