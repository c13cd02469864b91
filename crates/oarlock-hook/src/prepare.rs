//! The decision about a container: the same before its runtime reads the configuration and after it has made the cgroup.

use std::collections::BTreeMap;

use oarlock_core::ledger::Ledger;
use oarlock_core::place::{Ask, Decision, Placement, decide};
use oarlock_core::request::{GpuRef, PREFIX};
use oarlock_core::{CpuSet, NodeSet};
use oarlock_kernel::cgroup::Hierarchy;
use oarlock_kernel::ledger::{Asked, ContainerSets, Contents, Entry, Source};

use crate::container::Container;
use crate::failure::Failure;
use crate::gpus;
use crate::host::Host;
use crate::known::Known;

/// As long as Kubernetes lets all annotations of an object be (`TotalAnnotationSizeLimitB`). Nobody else bounds them.
const LONGEST_ANNOTATIONS: usize = 256 << 10;

/// What a cgroup leaves to those in it or below it; `None` where that is not known.
pub(crate) type Within = (Option<CpuSet>, Option<NodeSet>);

/// A container with a place, and what it asked for, where whoever plans it anew can be told.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) placement: Placement,
    asked: Option<Asked>,
}

/// The place of a container; `None` where it asks for none. `contents` is what the ledger holds, under its lock.
pub(crate) fn place(
    host: &Host,
    known: &Known,
    contents: &Contents,
    container: &Container,
    within: Within,
) -> Result<Option<Planned>, Failure> {
    let held = gpus::held(host, &known.machine, &container.config);
    let (given, pod) = (container.config.given(), container.pod());
    let others = contents.entries().filter(|entry| entry.pod.uid == pod.uid && entry.id != container.id);
    let others_hold_gpus = others.flat_map(|entry| &entry.ranks.ranks).any(|rank| !rank.gpus.is_empty());
    let ledger: Ledger = contents.holdings(&container.id);
    let env: BTreeMap<&str, &str> = container.config.variables();
    let ask = Ask {
        annotations: container.config.annotations(),
        name: container.name(),
        env: &env,
        held: &held,
        stated_ranks: None,
        others_hold_gpus,
        cpus: given.cpus,
        mems: given.mems,
        within,
        memory_limit: container.config.memory_limit(),
        reserved: &known.reserved,
    };
    match decide(&known.machine, &ledger, &ask) {
        Decision::Leave => Ok(None),
        Decision::Place(placement) => {
            Ok(Some(Planned { placement: *placement, asked: asked(container, &held.gpus, &known.reserved) }))
        }
        Decision::Unbound(refusal) | Decision::Refuse(refusal) => Err(refusal.into()),
    }
}

/// What a container asked for, as far as the ledger has room for it.
fn asked(container: &Container, gpus: &[GpuRef], reserved: &CpuSet) -> Option<Asked> {
    let config = &container.config;
    let ours = config.annotations().iter().filter(|(key, _)| key.starts_with(PREFIX));
    let annotations: BTreeMap<String, String> = ours.map(|(key, value)| (key.clone(), value.clone())).collect();
    let length: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    let index = |gpu: &GpuRef| match gpu {
        GpuRef::Index(index) => Some(*index),
        GpuRef::Address(_) | GpuRef::Uuid(_) => None,
    };
    (length <= LONGEST_ANNOTATIONS).then(|| Asked {
        annotations,
        gpus: gpus.iter().filter_map(index).collect(),
        memory_limit: config.memory_limit(),
        reserved: reserved.clone(),
    })
}

/// What processes in a cgroup may use, as far as the kernel says.
pub(crate) fn in_effect(hierarchy: &Hierarchy, path: &str) -> Within {
    let Ok(Some(cgroup)) = hierarchy.cgroup(path) else { return (None, None) };
    let cpus = cgroup.cpus_effective().ok().flatten().filter(|cpus| !cpus.is_empty());
    let mems = cgroup.mems_effective().ok().flatten().filter(|mems| !mems.is_empty());
    (cpus, mems)
}

/// A placed container, as the ledger has it.
pub(crate) fn entry(container: &Container, planned: &Planned, boot: &str, cgroup: Option<String>) -> Entry {
    let Planned { placement, asked } = planned;
    Entry {
        id: container.id.clone(),
        name: container.name().to_owned(),
        pod: container.pod(),
        boot: boot.to_owned(),
        source: Source::Hook,
        cgroup,
        ranks: placement.ranks.clone(),
        container: ContainerSets::from(placement),
        before: container.config.given(),
        exclusive: placement.exclusive.clone(),
        alone: placement.alone,
        reasons: placement.reasons.clone(),
        warnings: placement.warnings.clone(),
        asked: asked.clone(),
        unpinned: false,
        other: serde_json::Map::new(),
    }
}
