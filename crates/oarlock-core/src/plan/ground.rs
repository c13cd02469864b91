//! The ground to plan on: the machine, less what the container may not use.

use crate::explain::Warning;
use crate::idset::{CpuSet, NodeSet};
use crate::ledger::Ledger;
use crate::machine::{Machine, Node};
use crate::refusal::Refusal;
use crate::request::{MemMap, Request};

use super::Seat;

/// The machine with what is allowed on it.
pub(super) struct Ground<'a> {
    pub(super) machine: &'a Machine,
    ledger: &'a Ledger,
    /// The CPUs to plan with: allowed, less reserved, less what others hold exclusively.
    pub(super) cpus: CpuSet,
    /// The memory nodes to plan with: allowed, with memory, no GPU memory.
    pub(super) mems: NodeSet,
    /// Allowed CPUs per node, in the order of the machine's nodes.
    allowed: Vec<CpuSet>,
    /// The nodes with CPUs.
    pub(super) bearing: NodeSet,
    /// The nodes with allowed CPUs.
    pub(super) roomy: NodeSet,
    /// The allowed memory nodes as stated, for GPU memory.
    stated_mems: Option<&'a NodeSet>,
    /// The node of each CPU, so that the nodes of a set are found in time that grows with the set and not with the
    /// machine; `None` where CPUs are in several nodes.
    node_of: Option<Vec<u32>>,
}

impl<'a> Ground<'a> {
    pub(super) fn new(machine: &'a Machine, ledger: &'a Ledger, request: &'a Request) -> Result<Self, Refusal> {
        let online = machine.cpus();
        let stated = request.allowed_cpus.as_ref().map_or_else(|| online.clone(), |cpus| cpus.intersection(&online));
        let cpus = stated.difference(&request.reserved_cpus).difference(&ledger.held());
        if cpus.is_empty() {
            let held: Vec<String> = ledger.holdings.iter().map(|h| format!("{} ({})", h.holder, h.cpus)).collect();
            let held = if held.is_empty() { "nobody".to_owned() } else { held.join(", ") };
            return Err(Refusal::of_fact(
                "allowed-cpus",
                request.allowed_cpus.as_ref().unwrap_or(&online).to_string(),
                "a container has at least one cpu that is online, allowed, not reserved and not held by others",
                format!("no cpu is left: online {online}, reserved {}, held by {held}", request.reserved_cpus),
            ));
        }
        let memory = machine.memory_nodes();
        let mems = request.allowed_mems.as_ref().map_or_else(|| memory.clone(), |mems| mems.intersection(&memory));
        if let Some(stated) = &request.allowed_mems
            && mems.is_empty()
            && !memory.is_empty()
        {
            return Err(Refusal::of_fact(
                "allowed-mems",
                stated.to_string(),
                "a container may use at least one node that has memory and is not GPU memory",
                format!("nodes with memory are {memory}"),
            ));
        }
        let allowed: Vec<CpuSet> = machine.nodes.iter().map(|node| node.cpus.intersection(&cpus)).collect();
        let with_room = machine.nodes.iter().zip(&allowed).filter(|(_, cpus)| !cpus.is_empty());
        let roomy = with_room.map(|(node, _)| node.id).collect();
        Ok(Self {
            machine,
            ledger,
            cpus,
            mems,
            allowed,
            bearing: machine.cpu_nodes(),
            roomy,
            stated_mems: request.allowed_mems.as_ref(),
            node_of: node_of(machine, &online),
        })
    }

    /// The nodes that hold any of these CPUs.
    pub(super) fn nodes_of(&self, cpus: &CpuSet) -> NodeSet {
        match &self.node_of {
            Some(table) => cpus.iter().filter_map(|cpu| table.get(cpu as usize).copied()).collect(),
            None => self.machine.nodes_of(cpus),
        }
    }

    /// Whether some CPUs are in several nodes, as firmware has it now and then.
    fn nodes_share_cpus(&self) -> bool {
        self.node_of.is_none()
    }

    /// The allowed CPUs of a node; `None` for a node that is not there.
    pub(super) fn allowed_on(&self, id: u32) -> Option<&CpuSet> {
        let index = self.machine.nodes.binary_search_by_key(&id, |node| node.id).ok()?;
        self.allowed.get(index)
    }

    /// The nodes with allowed CPUs, ascending.
    pub(super) fn nodes_with_cpus(&self) -> impl Iterator<Item = (&'a Node, &CpuSet)> {
        self.machine.nodes.iter().zip(&self.allowed).filter(|(_, cpus)| !cpus.is_empty())
    }

    /// Those who hold CPUs of `cpus` exclusively, in words.
    pub(super) fn holders(&self, cpus: &CpuSet) -> String {
        let holders: Vec<String> = self
            .ledger
            .holdings
            .iter()
            .filter(|holding| holding.cpus.intersects(cpus))
            .map(|holding| format!("{} holds {}", holding.holder, holding.cpus.intersection(cpus)))
            .collect();
        if holders.is_empty() { "nobody else holds any".to_owned() } else { holders.join(", ") }
    }

    /// The GPU memory nodes that are allowed.
    pub(super) fn gpu_memory_nodes(&self) -> NodeSet {
        let nodes: NodeSet = self.machine.nodes.iter().filter(|node| node.gpu_memory).map(|node| node.id).collect();
        self.within_stated_mems(&nodes)
    }

    /// The memory nodes of a rank's own GPUs; where it has none of its own `of_all`, those of all the container's. CUDA
    /// cannot allocate on a GPU whose memory node is not in cpuset.mems.
    pub(super) fn gpu_mems(&self, seat: &Seat<'_>, of_all: &NodeSet) -> NodeSet {
        if seat.gpus.is_empty() { of_all.clone() } else { self.gpu_mems_of(std::slice::from_ref(seat)) }
    }

    /// The memory nodes of the GPUs of all these ranks.
    pub(super) fn gpu_mems_of(&self, seats: &[Seat<'_>]) -> NodeSet {
        let nodes = seats.iter().flat_map(|seat| &seat.gpus).filter_map(|gpu| gpu.memory_node).collect();
        self.within_stated_mems(&nodes)
    }

    fn within_stated_mems(&self, nodes: &NodeSet) -> NodeSet {
        self.stated_mems.map_or_else(|| nodes.clone(), |stated| nodes.intersection(stated))
    }

    /// Warnings about the ground itself.
    pub(super) fn warnings(&self, request: &Request) -> Vec<Warning> {
        let mut warnings = Vec::new();
        if self.nodes_share_cpus() {
            warnings.push(Warning::NodesShareCpus);
        }
        // Allowed CPUs alone are the everyday case of a CPU manager, which says nothing about memory.
        if request.allowed_mems.is_some() {
            let mems_only = self.mems.intersection(&self.bearing).difference(&self.roomy);
            let cpus_only = self.roomy.intersection(&self.machine.memory_nodes()).difference(&self.mems);
            if !mems_only.is_empty() || !cpus_only.is_empty() {
                warnings.push(Warning::AllowedSetsPart { mems_only, cpus_only });
            }
        }
        if request.mem_map != MemMap::None && self.mems.is_empty() {
            warnings.push(Warning::NoMemoryAllowed);
        }
        let gpu_memory: NodeSet =
            self.machine.nodes.iter().filter(|node| node.gpu_memory).map(|node| node.id).collect();
        let cut = gpu_memory.difference(&self.within_stated_mems(&gpu_memory));
        if request.mem_map != MemMap::None && !cut.is_empty() {
            warnings.push(Warning::GpuMemoryNotAllowed { nodes: cut });
        }
        warnings
    }

    /// A refusal because the machine's source is silent about something that the request needs.
    pub(super) fn missing(&self, key: &str, value: &str, what: &str) -> Refusal {
        Refusal::new(
            key,
            value,
            format!("this needs to know the machine's {what}"),
            format!("the description of machine \"{}\" does not say its {what}", self.machine.name),
        )
    }
}

fn node_of(machine: &Machine, online: &CpuSet) -> Option<Vec<u32>> {
    if machine.nodes.iter().map(|node| node.cpus.len()).sum::<usize>() > online.len() {
        return None;
    }
    let mut table = Vec::new();
    for node in &machine.nodes {
        for cpu in node.cpus.iter() {
            if table.len() <= cpu as usize {
                table.resize(cpu as usize + 1, u32::MAX);
            }
            table[cpu as usize] = node.id;
        }
    }
    Some(table)
}
