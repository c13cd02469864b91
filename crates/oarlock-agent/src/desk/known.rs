//! One container as the desk knows it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use oarlock_core::{CpuSet, NodeSet};
use oarlock_kernel::ledger::{Before, ContainerSets, Entry, Pod, Source};
use oarlock_nri::proto::{Container, ContainerUpdate, LinuxContainerUpdate, LinuxCpu, LinuxResources, PodSandbox};

use crate::place::{CDI, Placement, is_asked};

/// A runtime has carried out a change after so long, or will not: it executes a program for it, and the kernel moves memory.
const UNDER_WAY: Duration = Duration::from_secs(10);

/// A container of this host.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "they are facts of their own, and any of them may go with any other")]
pub(super) struct Known {
    pub(super) id: String,
    pub(super) name: String,
    /// The id of its pod's sandbox.
    pub(super) sandbox: String,
    /// `KEY=value` each, as the runtime created it, as far as they are asked for.
    pub(super) env: Vec<String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) memory_limit: Option<u64>,
    /// What kubelet, or whoever asked for the container, gave it; `None` where nothing was set.
    pub(super) given: Before,
    /// The cgroup of its first process, once it has one.
    pub(super) cgroup: Option<String>,
    pub(super) init: Option<u32>,
    /// Its place, where it has one.
    pub(super) placement: Option<Placement>,
    /// The number of ranks that its launcher stated, where that is another than was planned.
    pub(super) stated: Option<u32>,
    /// Its CPUs while others have some for themselves, where it has no place of its own.
    pub(super) kept_to: Option<CpuSet>,
    /// Whether its own cpuset is left to others, since the runtime would not create it otherwise.
    pub(super) leave_cpuset: bool,
    /// Taken off by hand.
    pub(super) unpinned: bool,
    /// Whether the runtime has another cpuset for it than was planned, given while nobody was here.
    pub(super) outdated: bool,
    /// How often its plan was made anew because it did not fit.
    pub(super) replans: u32,
    /// When the runtime was told of another cpuset, which it may not have carried out yet.
    pub(super) changed: Option<Instant>,
    pub(super) stage: Stage,
    /// Whether the runtime does not list it, while its processes live on: one that was killed may have forgotten it.
    pub(super) unlisted: bool,
}

/// How far a container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// It is being made.
    Asked,
    /// The runtime has made it.
    Made,
    /// It runs.
    Running,
}

impl Known {
    pub(super) fn new(container: &Container) -> Self {
        let asked = |entry: &&String| entry.split_once('=').is_some_and(|(name, _)| is_asked(name));
        let resources = container.linux.as_ref().and_then(|linux| linux.resources.as_ref());
        Self {
            id: container.id.clone(),
            name: container.name.clone(),
            sandbox: container.pod_sandbox_id.clone(),
            env: container.env.iter().filter(asked).cloned().collect(),
            annotations: with_prefix(container.annotations.iter(), CDI),
            memory_limit: resources.and_then(memory_limit),
            given: resources.map(sets).unwrap_or_default(),
            cgroup: None,
            init: None,
            placement: None,
            stated: None,
            kept_to: None,
            leave_cpuset: false,
            unpinned: false,
            outdated: false,
            replans: 0,
            changed: None,
            stage: Stage::Asked,
            unlisted: false,
        }
    }

    /// A container that runs, as far as the ledger knows it.
    pub(super) fn of_entry(entry: &Entry) -> Self {
        let mut known =
            Self::new(&Container { id: entry.id.clone(), name: entry.name.clone(), ..Container::default() });
        known.restore(entry);
        (known.cgroup, known.stage) = (entry.cgroup.clone(), Stage::Running);
        known
    }

    /// Its environment; of a name that is given twice the last counts.
    pub(super) fn variables(&self) -> BTreeMap<&str, &str> {
        self.env.iter().filter_map(|entry| entry.split_once('=')).collect()
    }

    /// Its CPUs and memory as they are to be; `None` where that is left as it is.
    pub(super) fn sets(&self) -> (Option<CpuSet>, Option<NodeSet>) {
        match &self.placement {
            Some(_) if self.leave_cpuset => (None, None),
            Some(placement) => (placement.cpus.clone(), placement.mems.clone()),
            None => (self.kept_to.clone(), None),
        }
    }

    /// The nodes that its pages are to come from first, where its place is ours.
    pub(super) fn prefers(&self) -> Option<&NodeSet> {
        self.placement.as_ref().filter(|_| !self.leave_cpuset)?.preferred_mems.as_ref()
    }

    /// The change that gives it these, on its way from now on; `None` where nothing is to change.
    pub(super) fn change(&mut self) -> Option<ContainerUpdate> {
        let (cpus, mems) = self.sets();
        let change = change(&self.id, cpus.as_ref(), mems.as_ref());
        self.changed = change.is_some().then(Instant::now);
        change
    }

    /// Whether a change is on its way: until then its cgroup has what was, or some of both.
    pub(super) fn is_changing(&self) -> bool {
        self.changed.is_some_and(|since| since.elapsed() < UNDER_WAY)
    }

    /// As the ledger has it; `None` for a container that is as it was.
    pub(super) fn entry(&self, pod: Pod, boot: &str) -> Option<Entry> {
        if self.placement.is_none() && self.kept_to.is_none() {
            return None;
        }
        let placement = self.placement.clone().unwrap_or_default();
        let (cpus, mems) = self.sets();
        Some(Entry {
            id: self.id.clone(),
            name: self.name.clone(),
            pod,
            boot: boot.to_owned(),
            source: Source::Nri,
            cgroup: self.cgroup.clone(),
            ranks: placement.ranks,
            container: ContainerSets {
                cpus: cpus.unwrap_or_default(),
                mems: mems.unwrap_or_default(),
                gpu_mems: NodeSet::new(),
            },
            before: self.given.clone(),
            exclusive: placement.exclusive,
            alone: placement.alone,
            reasons: placement.reasons,
            warnings: placement.warnings,
            unpinned: self.unpinned,
            other: serde_json::Map::new(),
        })
    }

    /// Takes up what the ledger says of it: its place, and what it had before.
    pub(super) fn restore(&mut self, entry: &Entry) {
        self.given = entry.before.clone();
        self.unpinned = entry.unpinned;
        if entry.ranks.ranks.is_empty() && !entry.alone {
            self.kept_to = Some(entry.container.cpus.clone());
            return;
        }
        // Where nothing was set for it, its cpuset is another's.
        self.leave_cpuset = entry.container.cpus.is_empty() && entry.container.mems.is_empty();
        self.placement = Some(Placement {
            cpus: (!entry.container.cpus.is_empty()).then(|| entry.container.cpus.clone()),
            mems: (!entry.container.mems.is_empty()).then(|| entry.container.mems.clone()),
            // What only counts as a container is made.
            preferred_mems: None,
            ranks: entry.ranks.clone(),
            omp_threads: None,
            exclusive: entry.exclusive.clone(),
            alone: entry.alone,
            warnings: entry.warnings.clone(),
            reasons: entry.reasons.clone(),
        });
    }

    /// The CPUs that it has for itself: those of an old plan outside the cpuset that it was given since it cannot use.
    pub(super) fn exclusive(&self) -> CpuSet {
        let planned = self.placement.as_ref().map(|placement| placement.exclusive.clone()).unwrap_or_default();
        match &self.given.cpus {
            Some(given) if self.outdated => planned.intersection(given),
            _ => planned,
        }
    }

    /// Takes up the cpuset that it has: one that is not ours was given to it while nobody was here.
    pub(super) fn catch_up(&mut self, has: &Before) {
        let (cpus, mems) = self.sets();
        self.outdated = catch_up(&mut self.given.cpus, cpus.as_ref(), has.cpus.as_ref())
            | catch_up(&mut self.given.mems, mems.as_ref(), has.mems.as_ref());
    }
}

/// Whether what it has is neither ours nor, where that is none, what was given; it is given now. Where it has none, ours never
/// came to the runtime.
fn catch_up<T: Clone + PartialEq>(given: &mut Option<T>, ours: Option<&T>, has: Option<&T>) -> bool {
    if has == ours.or(given.as_ref()) {
        return false;
    }
    if let Some(has) = has {
        *given = Some(has.clone());
    }
    has.is_some() || ours.is_some()
}

/// The annotations that begin so: all others may be long, and are none of ours.
pub(super) fn with_prefix<'a>(
    annotations: impl Iterator<Item = (&'a String, &'a String)>,
    prefix: &str,
) -> BTreeMap<String, String> {
    annotations.filter(|(key, _)| key.starts_with(prefix)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// A pod's name, as the ledger has it.
pub(super) fn pod_of(pod: &PodSandbox) -> Pod {
    Pod { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() }
}

/// The cpuset in resources; what cannot be read is none.
pub(super) fn sets(resources: &LinuxResources) -> Before {
    let Some(cpu) = &resources.cpu else { return Before::default() };
    Before {
        cpus: cpu.cpus.parse().ok().filter(|cpus: &CpuSet| !cpus.is_empty()),
        mems: cpu.mems.parse().ok().filter(|mems: &NodeSet| !mems.is_empty()),
    }
}

pub(super) fn memory_limit(resources: &LinuxResources) -> Option<u64> {
    let limit = resources.memory.as_ref()?.limit.as_ref()?.value;
    u64::try_from(limit).ok().filter(|&limit| limit > 0)
}

/// A change of nothing but the cpuset: what else a container has, devices say, is not to be touched.
pub(super) fn change(id: &str, cpus: Option<&CpuSet>, mems: Option<&NodeSet>) -> Option<ContainerUpdate> {
    if cpus.is_none() && mems.is_none() {
        return None;
    }
    Some(ContainerUpdate {
        container_id: id.to_owned(),
        linux: Some(LinuxContainerUpdate { resources: Some(cpuset(cpus, mems)) }),
        ignore_failure: true,
    })
}

/// Resources with a cpuset alone. An empty text is no change.
pub(super) fn cpuset(cpus: Option<&CpuSet>, mems: Option<&NodeSet>) -> LinuxResources {
    let text = |set: Option<String>| set.unwrap_or_default();
    LinuxResources {
        cpu: Some(LinuxCpu {
            cpus: text(cpus.map(ToString::to_string)),
            mems: text(mems.map(ToString::to_string)),
            ..LinuxCpu::default()
        }),
        ..LinuxResources::default()
    }
}
