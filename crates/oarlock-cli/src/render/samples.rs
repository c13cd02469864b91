//! Machines and plans that the tests of this folder draw and print.

use oarlock_core::idset::CpuSet;
use oarlock_core::ledger::Ledger;
use oarlock_core::locality::{Evidence, Locality};
use oarlock_core::machine::{Gpu, Machine, Node, Package, PciDevice};
use oarlock_core::pci::PciAddress;
use oarlock_core::{Plan, Request};

/// The measures of a regular machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) packages: u32,
    pub(crate) nodes: u32,
    pub(crate) l3_per_node: u32,
    pub(crate) cores_per_l3: u32,
    pub(crate) threads: u32,
    pub(crate) gpus: u32,
}

/// A regular machine, with CPU numbers as x86 firmware gives them: all first threads, then all second ones. GPU i of g
/// is on node i·nodes/g.
pub(crate) fn regular(name: &str, shape: Shape) -> Machine {
    let Shape { packages, nodes, l3_per_node, cores_per_l3, threads, gpus } = shape;
    let cores_per_node = l3_per_node * cores_per_l3;
    let cores = nodes * cores_per_node;
    let threads_of = |first: u32, count: u32| -> CpuSet {
        (0..threads).flat_map(|thread| (first..first + count).map(move |core| thread * cores + core)).collect()
    };
    let per_package = cores / packages;
    let distance = |a: u32, b: u32| match (a == b, a * packages / nodes == b * packages / nodes) {
        (true, _) => 10,
        (false, true) => 12,
        (false, false) => 32,
    };
    let machine = Machine {
        links: None,
        cores_assumed: false,
        name: name.to_owned(),
        nodes: (0..nodes)
            .map(|id| Node {
                id,
                cpus: threads_of(id * cores_per_node, cores_per_node),
                memory_mb: Some(515_584),
                gpu_memory: false,
            })
            .collect(),
        cores: Some((0..cores).map(|core| threads_of(core, 1)).collect()),
        l3: Some((0..nodes * l3_per_node).map(|l3| threads_of(l3 * cores_per_l3, cores_per_l3)).collect()),
        packages: Some(
            (0..packages).map(|id| Package { id, cpus: threads_of(id * per_package, per_package) }).collect(),
        ),
        distances: Some((0..nodes).map(|a| (0..nodes).map(|b| distance(a, b)).collect()).collect()),
        gpus: (0..gpus).map(|index| gpu(index, Some(index * nodes / gpus), None)).collect(),
        devices: Vec::new(),
    };
    machine.checked().unwrap()
}

fn gpu(index: u32, node: Option<u32>, memory_node: Option<u32>) -> Gpu {
    Gpu {
        index,
        pci: Some(PciAddress { domain: index / 16, bus: (7 + 16 * index) as u8, device: 0, function: 0 }),
        uuid: None,
        model: Some("NVIDIA H100 80GB HBM3".to_owned()),
        locality: match node {
            Some(node) => Locality::Node { node, from: Evidence::NumaNode },
            None => Locality::Unknown { why: "its numa_node is -1 and it has no local cpus".to_owned() },
        },
        local_cpus: None,
        memory_node,
    }
}

fn nic(bus: u8, class: u32, name: &str, node: u32) -> PciDevice {
    PciDevice {
        address: PciAddress { domain: 0, bus, device: 0, function: 0 },
        class: Some(class),
        vendor: Some(0x15b3),
        device: None,
        name: Some(name.to_owned()),
        locality: Locality::Node { node, from: Evidence::NumaNode },
        local_cpus: None,
    }
}

/// Two sockets, eight GPUs, two NICs and one bridge that is no NIC.
pub(crate) fn two_socket() -> Machine {
    let shape = Shape { packages: 2, nodes: 2, l3_per_node: 1, cores_per_l3: 24, threads: 2, gpus: 8 };
    let mut machine = regular("two-socket", shape);
    machine.devices =
        vec![nic(0xd0, 0x02_07_00, "mlx5_1", 1), nic(0x0c, 0x02_00_00, "eth0", 0), nic(0x02, 0x06_04_00, "bridge", 0)];
    machine
}

/// Eight nodes whose GPUs sit on the odd ones, out of order, as on a DGX A100.
pub(crate) fn odd_nodes() -> Machine {
    let shape = Shape { packages: 2, nodes: 8, l3_per_node: 4, cores_per_l3: 4, threads: 2, gpus: 8 };
    let mut machine = regular("dgx-a100", shape);
    for (gpu, node) in machine.gpus.iter_mut().zip([3, 3, 1, 1, 7, 7, 5, 5]) {
        gpu.locality = Locality::Node { node, from: Evidence::NumaNode };
    }
    machine
}

/// Grace Hopper in NUMA mode: the memory of both GPUs is a node without CPUs.
pub(crate) fn gpu_memory() -> Machine {
    let mut machine =
        regular("gh200", Shape { packages: 2, nodes: 2, l3_per_node: 1, cores_per_l3: 72, threads: 1, gpus: 2 });
    for (id, gpu) in [(4, 0), (12, 1)] {
        machine.nodes.push(Node { id, cpus: CpuSet::new(), memory_mb: Some(97_280), gpu_memory: true });
        machine.gpus[gpu].memory_node = Some(id);
    }
    machine.distances =
        Some(vec![vec![10, 40, 80, 120], vec![40, 10, 120, 80], vec![80, 120, 10, 160], vec![120, 80, 160, 10]]);
    machine.checked().unwrap()
}

/// Two nodes, one more that is memory only, and GPUs of which two have no known place.
pub(crate) fn unknown_gpus() -> Machine {
    let shape = Shape { packages: 2, nodes: 2, l3_per_node: 2, cores_per_l3: 8, threads: 1, gpus: 4 };
    let mut machine = regular("no-numa-node-in-pci", shape);
    for index in [1, 3] {
        machine.gpus[index] = gpu(index as u32, None, None);
    }
    machine.nodes.push(Node { id: 2, cpus: CpuSet::new(), memory_mb: Some(131_072), gpu_memory: false });
    machine.distances = None;
    machine.checked().unwrap()
}

/// What is left when a source tells next to nothing.
pub(crate) fn bare() -> Machine {
    Machine {
        name: "bare".to_owned(),
        nodes: vec![Node { id: 0, cpus: [0, 1].into_iter().collect(), memory_mb: None, gpu_memory: false }],
        ..Machine::default()
    }
}

/// The plan of both maps for all GPUs of a machine.
pub(crate) fn planned(machine: &Machine, cpu_map: &str, mem_map: &str) -> Plan {
    let mut request = Request::default();
    request.set("cpu-map", cpu_map).unwrap();
    request.set("mem-map", mem_map).unwrap();
    oarlock_core::plan(machine, &Ledger::default(), &request).unwrap()
}
