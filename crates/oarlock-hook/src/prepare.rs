//! The decision about a container: the same before its runtime reads the configuration and after it has made the cgroup.

use std::collections::BTreeMap;

use oarlock_core::ledger::Ledger;
use oarlock_core::place::{Ask, Decision, Placement, decide};
use oarlock_core::{CpuSet, NodeSet};
use oarlock_kernel::cgroup::Hierarchy;
use oarlock_kernel::ledger::{ContainerSets, Contents, Entry, Source};

use crate::container::Container;
use crate::failure::Failure;
use crate::gpus;
use crate::host::Host;
use crate::known::Known;

/// What a cgroup leaves to those in it or below it; `None` where that is not known.
pub(crate) type Within = (Option<CpuSet>, Option<NodeSet>);

/// The place of a container; `None` where it asks for none. `contents` is what the ledger holds, under its lock.
pub(crate) fn place(
    host: &Host,
    known: &Known,
    contents: &Contents,
    container: &Container,
    within: Within,
) -> Result<Option<Placement>, Failure> {
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
        Decision::Place(placement) => Ok(Some(*placement)),
        Decision::Unbound(refusal) | Decision::Refuse(refusal) => Err(refusal.into()),
    }
}

/// What processes in a cgroup may use, as far as the kernel says.
pub(crate) fn in_effect(hierarchy: &Hierarchy, path: &str) -> Within {
    let Ok(Some(cgroup)) = hierarchy.cgroup(path) else { return (None, None) };
    let cpus = cgroup.cpus_effective().ok().flatten().filter(|cpus| !cpus.is_empty());
    let mems = cgroup.mems_effective().ok().flatten().filter(|mems| !mems.is_empty());
    (cpus, mems)
}

/// A placed container, as the ledger has it.
pub(crate) fn entry(container: &Container, placement: &Placement, boot: &str, cgroup: Option<String>) -> Entry {
    Entry {
        id: container.id.clone(),
        name: container.name().to_owned(),
        pod: container.pod(),
        boot: boot.to_owned(),
        source: Source::Hook,
        cgroup,
        ranks: placement.ranks.clone(),
        container: ContainerSets {
            cpus: placement.cpus.clone().unwrap_or_default(),
            mems: placement.mems.clone().unwrap_or_default(),
            gpu_mems: NodeSet::new(),
        },
        before: container.config.given(),
        exclusive: placement.exclusive.clone(),
        alone: placement.alone,
        reasons: placement.reasons.clone(),
        warnings: placement.warnings.clone(),
        unpinned: false,
        other: serde_json::Map::new(),
    }
}
