//! The desk: what the runtime tells of its containers comes in here, what becomes of them goes out. It owns what is known of
//! every container of the host.
//!
//! All answers come from memory and the ledger folder, and nothing here waits: what a pod holds was asked for when its sandbox
//! was made, and is handed in as far as it is known by then.

mod hooked;
mod known;
mod memory;
mod resume;
mod room;
#[cfg(test)]
mod tests;
mod told;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oarlock_core::rankenv::RankEnv;
use oarlock_core::request::PREFIX;
use oarlock_core::{CpuSet, NodeSet, Refusal};
use oarlock_device_plugin::allocate::NUMA_NODES;
use oarlock_device_plugin::pod_resources::ContainerHoldings;
use oarlock_kernel::ledger::{Entry, LedgerError, LedgerFolder, Pod, Reader};
use oarlock_kernel::policy::PreferMode;
use oarlock_nri::NriVersion;
use oarlock_nri::proto::{
    Container, ContainerAdjustment, ContainerUpdate, KeyValue, LinuxContainerAdjustment, LinuxMemoryPolicy,
    LinuxResources, MpolMode, PodSandbox,
};
use tokio::sync::mpsc::UnboundedSender;

use crate::binder::{Order, Ward};
use crate::cgroups::{self, Cgroups};
use crate::config::ContainerCpuset;
use crate::place::{Ask, Decision, Knowledge, decide, held};
use crate::tell::{Notice, Placed, What};
use known::{Known, Stage, cpuset, memory_limit, pod_of, sets, with_prefix};
pub(crate) use memory::Memory;

/// Another process plans or writes for so long at most; past that the container goes on without an entry.
const LEDGER_PATIENCE: Duration = Duration::from_millis(200);
/// Where kubelet has a pod from; kubelet itself sets it, for every pod.
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// Runtimes give containers a memory policy since this version of NRI.
const MEMORY_POLICIES: NriVersion = NriVersion::new(0, 12, 0);
/// Creations that failed are remembered for so many containers.
const MOST_FAILED: usize = 1024;
/// What the desk sends out besides its answers.
#[derive(Debug, Clone)]
pub(crate) struct Outlets {
    /// For the binder.
    pub(crate) orders: UnboundedSender<Order>,
    /// For people.
    pub(crate) notices: UnboundedSender<Notice>,
    /// For a pod's annotation.
    pub(crate) placements: UnboundedSender<Placed>,
    /// For the runtime: changes to containers that no event is about.
    pub(crate) changes: UnboundedSender<ContainerUpdate>,
}

/// What does not change while the agent runs.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// CPUs that the system keeps.
    pub(crate) reserved: CpuSet,
    /// Whose the cpuset of a container is.
    pub(crate) container_cpuset: ContainerCpuset,
    /// The folder of the ledger.
    pub(crate) run_dir: PathBuf,
    /// This boot.
    pub(crate) boot: String,
}

/// The desk.
#[derive(Debug)]
pub(crate) struct Desk {
    rules: Rules,
    ledger: LedgerFolder,
    cgroups: Cgroups,
    out: Outlets,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    knowledge: Arc<Knowledge>,
    /// Whether the runtime gives containers a memory policy.
    has_memory_policies: bool,
    reader: Reader,
    /// By the id of the sandbox.
    pods: HashMap<String, PodKnown>,
    containers: BTreeMap<String, Known>,
    /// Containers that the hook has placed.
    hooked: hooked::Hooked,
    /// Containers that the runtime failed to create with a cpuset of ours, by the pod's uid and their name.
    failed: BTreeSet<(String, String)>,
}

/// A pod, and what kubelet says that its containers hold; `None` where it does not say.
#[derive(Debug, Clone)]
struct PodKnown {
    pod: Pod,
    annotations: BTreeMap<String, String>,
    /// Whether kubelet read it from a file: to the API it is a copy, with another uid.
    from_file: bool,
    parent: String,
    word: Option<Arc<Vec<ContainerHoldings>>>,
}

/// The place of a rank, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RankPlace {
    pub(crate) pod: Pod,
    pub(crate) container: String,
    /// Its CPUs; empty where they are not held.
    pub(crate) cpus: String,
    /// Its memory nodes; empty where they are not held.
    pub(crate) mems: String,
    /// How many ranks of its container are to be held.
    pub(crate) of: usize,
}

/// What becomes of a container that is being created.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Created {
    pub(crate) adjust: Option<ContainerAdjustment>,
    /// Changes to others.
    pub(crate) update: Vec<ContainerUpdate>,
}

impl RankPlace {
    fn of(ranks: &RankEnv, rank: u32, pod: Pod, container: String) -> Option<Self> {
        let entry = ranks.ranks.get(rank as usize)?;
        Some(Self {
            pod,
            container,
            cpus: entry.cpus.as_ref().map(ToString::to_string).unwrap_or_default(),
            mems: entry.wall(ranks.mem_policy).map(|mems| mems.to_string()).unwrap_or_default(),
            of: ranks.ranks.iter().filter(|rank| rank.cpus.is_some() || rank.wall(ranks.mem_policy).is_some()).count(),
        })
    }
}

impl Desk {
    /// A desk that knows nothing yet. The ledger folder may hold more already.
    pub(crate) fn new(rules: Rules, knowledge: Knowledge, cgroups: Cgroups, out: Outlets) -> Self {
        let ledger = LedgerFolder::in_run_dir(&rules.run_dir);
        let state = State {
            knowledge: Arc::new(knowledge),
            has_memory_policies: false,
            reader: ledger.reader(rules.boot.clone()),
            pods: HashMap::new(),
            containers: BTreeMap::new(),
            hooked: BTreeMap::new(),
            failed: BTreeSet::new(),
        };
        Self { rules, ledger, cgroups, out, state: Mutex::new(state) }
    }

    /// The machine is known better now. Containers that have a place keep it.
    pub(crate) fn learn(&self, knowledge: Knowledge) {
        self.state().knowledge = Arc::new(knowledge);
    }

    /// What the runtime can do.
    pub(crate) fn serve(&self, nri: Option<NriVersion>) {
        self.state().has_memory_policies = nri >= Some(MEMORY_POLICIES);
    }

    /// A pod is there.
    pub(crate) fn pod(&self, pod: &PodSandbox) {
        let mut state = self.state();
        let word = state.pods.get(&pod.id).and_then(|known| known.word.clone());
        state.pods.insert(pod.id.clone(), PodKnown::new(pod, word));
    }

    /// What kubelet says that the containers of a pod hold.
    pub(crate) fn word(&self, sandbox: &str, word: Arc<Vec<ContainerHoldings>>) {
        if let Some(pod) = self.state().pods.get_mut(sandbox) {
            pod.word = Some(word);
        }
    }

    /// A pod is gone.
    pub(crate) fn pod_gone(&self, sandbox: &str) {
        let mut state = self.state();
        let state = &mut *state;
        if let Some(pod) = state.pods.remove(sandbox) {
            state.failed.retain(|(uid, _)| *uid != pod.pod.uid);
            self.pod_has_gone(state, pod.pod.uid);
        }
    }

    /// Whether a container may get a place: only then its pod's word is worth waiting for.
    pub(crate) fn concerns_us(pod: &PodSandbox, container: &Container) -> bool {
        let is_node = |entry: &String| entry.split_once('=').is_some_and(|(name, _)| name == NUMA_NODES);
        pod.annotations.keys().any(|key| key.starts_with(PREFIX)) || container.env.iter().any(is_node)
    }

    /// A container is being created. An error is why it is not to be.
    pub(crate) fn create(&self, pod: &PodSandbox, container: &Container) -> Result<Created, Refusal> {
        let mut state = self.state();
        let state = &mut *state;
        state.pods.entry(pod.id.clone()).or_insert_with(|| PodKnown::new(pod, None));
        let mut known = self.meet(container);
        known.leave_cpuset |= state.failed.contains(&(pod.uid.clone(), known.name.clone()));
        let decision = if Self::concerns_us(pod, container) {
            self.decide(state, &known)
        } else {
            // Nobody will ask for these again.
            (known.env, known.annotations) = (Vec::new(), BTreeMap::new());
            Decision::Leave
        };
        let mut created = Created::default();
        match decision {
            Decision::Leave => {}
            Decision::Unbound(refusal) => {
                self.notice(state, &known, What::RanksUnbound, refusal.to_string());
                self.annotate(state, &known);
            }
            Decision::Refuse(refusal) => {
                self.notice(state, &known, What::BindingRefused, refusal.to_string());
                return Err(refusal);
            }
            Decision::Place(placement) => known.placement = Some(*placement),
        }
        let alone = known.placement.as_ref().is_some_and(|placement| placement.alone);
        if known.placement.is_none() {
            known.kept_to = state.kept_to(&known);
        }
        if known.placement.is_some() || known.kept_to.is_some() {
            created.adjust = Some(adjustment(&known, state.has_memory_policies));
        }
        self.write(state, &known);
        let id = known.id.clone();
        state.containers.insert(id.clone(), known);
        if alone {
            created.update = self.make_room(state, &id);
        }
        Ok(created)
    }

    /// A container has been made.
    pub(crate) fn made(&self, id: &str) {
        let mut state = self.state();
        let state = &mut *state;
        let Some(known) = state.containers.get_mut(id) else { return };
        known.stage = known.stage.max(Stage::Made);
        let known = known.clone();
        let key = (state.uid_of(&known), known.name);
        state.failed.remove(&key);
    }

    /// A container has started: its ranks are held from now on.
    pub(crate) fn started(&self, container: &Container) {
        let mut state = self.state();
        let state = &mut *state;
        let Some(known) = state.containers.get_mut(&container.id) else { return };
        self.find(known, container);
        known.stage = Stage::Running;
        let known = known.clone();
        if known.placement.is_some() {
            self.write(state, &known);
            self.keep(state, &known);
        }
    }

    /// A container's resources are about to change to these: what they are to be instead.
    pub(crate) fn update(&self, container: &Container, resources: &LinuxResources) -> Vec<ContainerUpdate> {
        let mut state = self.state();
        let state = &mut *state;
        let Some(mut known) = state.containers.get(&container.id).cloned() else { return Vec::new() };
        let asked = sets(resources);
        let is_new = (asked.cpus.is_some() && asked.cpus != known.given.cpus)
            || (asked.mems.is_some() && asked.mems != known.given.mems);
        known.given.cpus = asked.cpus.or(known.given.cpus);
        known.given.mems = asked.mems.or(known.given.mems);
        known.memory_limit = memory_limit(resources).or(known.memory_limit);
        if known.unpinned {
            state.containers.insert(known.id.clone(), known);
            return Vec::new();
        }
        if is_new && known.placement.is_some() {
            self.place_again(state, &mut known);
        } else if known.placement.is_none() {
            known.kept_to = state.kept_to(&known);
        }
        let mut change = known.change();
        // The runtime takes the answer's resources in place of those asked for, and merges what is not in it.
        if let Some(change) = &mut change {
            change.ignore_failure = false;
        }
        self.write(state, &known);
        state.containers.insert(known.id.clone(), known);
        change.into_iter().collect()
    }

    /// A container's resources have changed: its ranks are held to what they are to be now.
    pub(crate) fn updated(&self, id: &str) {
        let mut state = self.state();
        let Some(known) = state.containers.get_mut(id) else { return };
        known.changed = None;
        let known = known.clone();
        if known.placement.is_some() && known.stage == Stage::Running {
            self.keep(&state, &known);
        }
    }

    /// A container has stopped, also one that the runtime failed to make: then it may be made again without a cpuset of ours,
    /// which another plugin may own. Returns changes to others.
    pub(crate) fn stopped(&self, id: &str) -> Vec<ContainerUpdate> {
        let mut state = self.state();
        let state = &mut *state;
        let Some(known) = state.containers.remove(id) else { return Vec::new() };
        let is_bound = known.sets() != (None, None) || (state.has_memory_policies && known.prefers().is_some());
        if known.stage == Stage::Asked && is_bound && state.failed.len() < MOST_FAILED {
            state.failed.insert((state.uid_of(&known), known.name.clone()));
        }
        if known.placement.is_some() || known.kept_to.is_some() {
            self.erase(id);
        }
        let Some(placement) = known.placement else { return Vec::new() };
        self.order(Order::Forget(id.to_owned()));
        if placement.alone { self.give_back(state) } else { Vec::new() }
    }

    /// A container is removed, one that stopped as a rule.
    pub(crate) fn removed(&self, id: &str) {
        for change in self.stopped(id) {
            self.send(Some(change));
        }
    }

    /// The place of a rank, in words.
    pub(crate) fn place_of(&self, id: &str, rank: u32) -> Option<RankPlace> {
        let state = self.state();
        let Some(known) = state.containers.get(id) else { return Self::place_of_hooked(&state, id, rank) };
        let pod = state.pods.get(&known.sandbox)?.pod.clone();
        RankPlace::of(&known.placement.as_ref()?.ranks, rank, pod, known.name.clone())
    }

    /// Notes a container that is created without an answer of ours.
    pub(crate) fn note(&self, container: &Container) {
        self.state().containers.insert(container.id.clone(), self.meet(container));
    }

    /// A container that is new here.
    fn meet(&self, container: &Container) -> Known {
        let leave_cpuset = self.rules.container_cpuset == ContainerCpuset::Leave;
        Known { leave_cpuset, ..Known::new(container) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self, state: &mut State, known: &Known) -> Decision {
        let ledger = state.holdings(&known.id);
        let Some(pod) = state.pods.get(&known.sandbox) else { return Decision::Leave };
        let word = pod.word.as_deref();
        let own = word.and_then(|word| word.iter().find(|held| held.container == known.name));
        // kubelet lists all containers of a pod but init containers that end before the others start.
        let named = pod.annotations.contains_key(&format!("{PREFIX}containers"));
        if word.is_some_and(|word| !word.is_empty()) && own.is_none() && !named {
            return Decision::Leave;
        }
        let knowledge = Arc::clone(&state.knowledge);
        let variables = known.variables();
        let annotations = known.annotations.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let devices = own.map(|own| own.devices.as_slice());
        let held = held(&knowledge, devices, &|key| variables.get(key).copied(), annotations);
        let others_hold_gpus = match word {
            Some(word) => {
                let others = word.iter().filter(|other| other.container != known.name);
                others.flat_map(|other| &other.devices).any(|devices| knowledge.is_gpu(&devices.resource))
            }
            None => state.sandbox_has_gpus(known),
        };
        let parent = cgroups::path(&pod.parent);
        let ask = Ask {
            annotations: &pod.annotations,
            name: &known.name,
            env: &variables,
            held: &held,
            others_hold_gpus,
            stated_ranks: known.stated,
            cpus: known.given.cpus.clone(),
            mems: known.given.mems.clone(),
            within: if pod.parent.is_empty() { (None, None) } else { self.cgroups.in_effect(&parent) },
            memory_limit: known.memory_limit,
            reserved: &self.rules.reserved,
        };
        decide(&knowledge.machine, &ledger, &ask)
    }

    /// Plans a container that has a place anew. One that can have none any more keeps its ranks where they are, as far as the
    /// kernel lets them.
    fn place_again(&self, state: &mut State, known: &mut Known) {
        match self.decide(state, known) {
            Decision::Place(placement) => known.placement = Some(*placement),
            Decision::Leave => {}
            Decision::Unbound(refusal) | Decision::Refuse(refusal) => {
                self.notice(state, known, What::RanksUnbound, refusal.to_string());
                self.order(Order::Forget(known.id.clone()));
                known.placement = None;
                self.annotate(state, known);
                self.erase(&known.id);
            }
        }
    }

    /// Where its processes are: from the process itself, else from what the runtime was told.
    fn find(&self, known: &mut Known, container: &Container) {
        if container.pid != 0 {
            known.init = Some(container.pid);
            if let Some(cgroup) = self.cgroups.of_process(container.pid) {
                known.cgroup = Some(rank_free(cgroup));
            }
        }
        if known.cgroup.is_none() {
            let path = container.linux.as_ref().map(|linux| linux.cgroups_path.as_str()).unwrap_or_default();
            known.cgroup = (!path.is_empty()).then(|| cgroups::path(path));
        }
    }

    fn keep(&self, state: &State, known: &Known) {
        let (Some(placement), Some(cgroup)) = (&known.placement, &known.cgroup) else { return };
        if known.unpinned || placement.ranks.ranks.is_empty() {
            return;
        }
        self.order(Order::Keep(Box::new(Ward {
            id: known.id.clone(),
            cgroup: cgroup.clone(),
            init: known.init,
            ranks: placement.ranks.clone(),
            gpus: state.gpus_of(&placement.ranks),
        })));
    }

    fn order(&self, order: Order) {
        drop(self.out.orders.send(order));
    }

    fn send(&self, change: Option<ContainerUpdate>) {
        if let Some(change) = change {
            drop(self.out.changes.send(change));
        }
    }

    /// Writes the entry of a container that has a place.
    fn write(&self, state: &State, known: &Known) {
        let Some(pod) = state.pods.get(&known.sandbox) else { return };
        let Some(entry) = known.entry(pod.pod.clone(), &self.rules.boot) else { return };
        if known.placement.is_some() {
            self.annotate(state, known);
        }
        let written = self.ledger.lock(LEDGER_PATIENCE).and_then(|locked| locked.put(&entry));
        complain(written);
    }

    fn erase(&self, id: &str) {
        let erased = self.ledger.lock(LEDGER_PATIENCE).and_then(|locked| locked.remove(id));
        complain(erased.map(drop));
    }
}

/// The ledger is a cache: a container does not wait for it.
fn complain(done: Result<(), LedgerError>) {
    if let Err(error) = done {
        tracing::warn!("{:#}", anyhow::Error::new(error));
    }
}

/// A first process that is itself a rank is in a rank cgroup of its container.
fn rank_free(cgroup: String) -> String {
    match cgroup.rsplit_once('/') {
        Some((container, name)) if name.starts_with(oarlock_kernel::rank_cgroup::PREFIX) => container.to_owned(),
        _ => cgroup,
    }
}

impl PodKnown {
    /// A pod that only the ledger knows.
    fn of_entry(entry: &Entry) -> Self {
        let pod = entry.pod.clone();
        Self { pod, annotations: BTreeMap::new(), from_file: false, parent: String::new(), word: None }
    }

    fn new(pod: &PodSandbox, word: Option<Arc<Vec<ContainerHoldings>>>) -> Self {
        Self {
            pod: pod_of(pod),
            annotations: with_prefix(pod.annotations.iter(), PREFIX),
            from_file: pod.annotations.get(CONFIG_SOURCE).is_some_and(|source| source != "api"),
            parent: pod.linux.as_ref().map(|linux| linux.cgroup_parent.clone()).unwrap_or_default(),
            word,
        }
    }
}

/// What is changed in a container that is being created.
fn adjustment(known: &Known, has_memory_policies: bool) -> ContainerAdjustment {
    let mut env = Vec::new();
    if let Some(placement) = &known.placement {
        let variables = placement.variables().into_iter();
        env.extend(variables.map(|(key, value)| KeyValue { key: key.to_owned(), value }));
    }
    let (cpus, mems) = known.sets();
    let memory_policy = known.prefers().filter(|_| has_memory_policies).and_then(memory_policy);
    let is_bound = cpus.is_some() || mems.is_some();
    let linux = (is_bound || memory_policy.is_some()).then(|| LinuxContainerAdjustment {
        resources: is_bound.then(|| cpuset(cpus.as_ref(), mems.as_ref())),
        memory_policy,
        ..LinuxContainerAdjustment::default()
    });
    ContainerAdjustment { env, linux, ..ContainerAdjustment::default() }
}

/// The policy under which pages come from these nodes first, where this kernel has one.
fn memory_policy(nodes: &NodeSet) -> Option<LinuxMemoryPolicy> {
    let mode = match PreferMode::of(nodes)? {
        PreferMode::One => MpolMode::MpolPreferred,
        PreferMode::Many => MpolMode::MpolPreferredMany,
    };
    Some(LinuxMemoryPolicy { mode: mode.into(), nodes: nodes.to_string(), flags: Vec::new() })
}
