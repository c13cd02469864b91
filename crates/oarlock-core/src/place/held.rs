//! Which GPUs and NUMA nodes a container holds.

use std::collections::{BTreeMap, BTreeSet};

use crate::locality::{Evidence, Locality};
use crate::machine::Gpu;
use crate::pci::PciAddress;
use crate::request::GpuRef;
use crate::{CpuSet, Machine, NodeSet, visible};

/// What the annotations with names of CDI devices begin with.
pub const CDI: &str = "cdi.k8s.io/";
/// No host has more devices than this; an environment may name a million.
pub const MOST_NAMES: usize = 1024;

/// What a container holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// Its GPUs, in the order in which its processes number them.
    pub gpus: Vec<GpuRef>,
    /// Devices on these nodes that are GPUs of a vendor whose ids say nothing here, one entry each.
    pub foreign: Vec<NodeSet>,
    /// NUMA nodes and slots that are its own: their CPUs, and their nodes.
    pub own: Option<(CpuSet, NodeSet)>,
    /// Names in the environment that are no GPU of this host.
    pub unknown: Vec<String>,
}

/// The names that the GPUs of a machine go by.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// The GPU of each MIG device, by UUID.
    pub slices: &'a BTreeMap<String, PciAddress>,
}

impl Held {
    /// Whether it holds any GPU.
    pub fn has_gpus(&self) -> bool {
        !self.gpus.is_empty() || !self.foreign.is_empty()
    }

    /// The machine with the GPUs of other vendors in it, and how to name all that the container holds. Such GPUs come last:
    /// their addresses, and so their order among the others, are not known.
    pub fn on(&self, machine: &Machine) -> Option<(Machine, Vec<GpuRef>)> {
        if self.foreign.is_empty() {
            return None;
        }
        let mut machine = machine.clone();
        // The links of GPUs that nobody described are not known.
        machine.links = None;
        let mut refs = self.gpus.clone();
        for nodes in &self.foreign {
            let index = machine.gpus.iter().map(|gpu| gpu.index + 1).max().unwrap_or(0);
            let locality = match (nodes.len(), nodes.first()) {
                (1, Some(node)) => Locality::Node { node, from: Evidence::Plugin },
                _ => Locality::Unknown { why: format!("its device plugin names nodes {nodes:?}") },
            };
            machine.gpus.push(Gpu {
                index,
                pci: None,
                uuid: None,
                model: None,
                locality,
                local_cpus: None,
                memory_node: None,
            });
            refs.push(GpuRef::Index(index));
        }
        Some((machine, refs))
    }
}

impl<'a> Names<'a> {
    /// The GPU of this name: its UUID, that of one of its MIG devices, its PCI address, or its index; with or without the
    /// `::N` of a GPU that is shared.
    pub fn find(&self, name: &str) -> Option<&'a Gpu> {
        let name = name.split_once("::").map_or(name, |(name, _)| name);
        let gpus = &self.machine.gpus;
        if let Some(gpu) = gpus.iter().find(|gpu| gpu.uuid.as_deref() == Some(name)) {
            return Some(gpu);
        }
        let address = self.slices.get(name).copied().or_else(|| name.parse().ok());
        let index = || name.parse::<u32>().ok();
        match address {
            Some(address) => gpus.iter().find(|gpu| gpu.pci == Some(address)),
            None => index().and_then(|index| gpus.iter().find(|gpu| gpu.index == index)),
        }
    }

    /// What an environment (`NVIDIA_VISIBLE_DEVICES`, unless `list` names them) and the CDI names in annotations make of it.
    /// Past 1,024 names they are left out.
    pub fn by_environment<'b>(
        &self,
        list: Option<&'b str>,
        env: &dyn Fn(&str) -> Option<&'b str>,
        annotations: impl Iterator<Item = (&'b str, &'b str)>,
    ) -> Held {
        let mut held = Held::default();
        let mut names: Vec<&str> = Vec::new();
        match (list, env("NVIDIA_VISIBLE_DEVICES")) {
            (None, Some("all")) => held.gpus = self.machine.gpus.iter().map(|gpu| GpuRef::Index(gpu.index)).collect(),
            (None, Some("none" | "void" | "") | None) => {}
            (Some(list), _) | (None, Some(list)) => names.extend(list.split(',')),
        }
        for (_, value) in annotations.filter(|(key, _)| key.starts_with(CDI)) {
            names.extend(value.split(',').filter_map(|name| name.split_once('=')).map(|(_, name)| name));
        }
        let mut seen = BTreeSet::new();
        for name in names.into_iter().map(str::trim).filter(|name| !name.is_empty()).take(MOST_NAMES) {
            match self.find(name) {
                Some(gpu) if seen.insert(gpu.index) => held.gpus.push(GpuRef::Index(gpu.index)),
                Some(_) => {}
                None => held.unknown.push(name.chars().take(64).collect()),
            }
        }
        held
    }

    /// These GPUs as the container's processes number them: by PCI address, each once (two MIG devices of one GPU are one
    /// place), unless its environment has a list of its own.
    pub fn in_order<'b>(&self, gpus: &[GpuRef], env: &dyn Fn(&str) -> Option<&'b str>) -> Vec<GpuRef> {
        let by_index = |index: u32| self.machine.gpus.iter().find(|gpu| gpu.index == index);
        let mut found: Vec<&Gpu> = gpus
            .iter()
            .filter_map(|gpu| match gpu {
                GpuRef::Index(index) => by_index(*index),
                GpuRef::Address(_) | GpuRef::Uuid(_) => None,
            })
            .collect();
        if let Some(list) = visible::VISIBLE_DEVICES.iter().find_map(|key| env(key)) {
            return visible::among(found, list);
        }
        found.sort_by_key(|gpu| (gpu.pci, gpu.index));
        found.dedup_by_key(|gpu| gpu.index);
        found.into_iter().map(|gpu| GpuRef::Index(gpu.index)).collect()
    }
}
