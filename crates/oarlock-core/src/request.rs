//! What a container asks for: the `oarlock.dev/` annotations, or the same words as flags of the command line.

use std::fmt;

use crate::idset::{CpuSet, NodeSet, shown};
use crate::pci::PciAddress;
use crate::refusal::Refusal;

/// The prefix of every annotation.
pub const PREFIX: &str = "oarlock.dev/";
/// More ranks than this in one container are refused: no machine has more CPUs for them.
pub const MAX_RANKS: u32 = 8192;

/// What one container asks for, and what it may use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// How ranks are laid on CPUs.
    pub cpu_map: CpuMap,
    /// How ranks are laid on memory.
    pub mem_map: MemMap,
    /// Whether the memory map is a wall.
    pub mem_policy: MemPolicy,
    /// The number of local ranks; `None`: as many as GPUs, else 1.
    pub ranks: Option<u32>,
    /// Per rank, positions among the container's GPUs; `None`: rank i has GPU i, or the i-th k of them.
    pub rank_gpus: Option<Vec<Vec<u32>>>,
    /// Which hardware threads of a core a rank gets.
    pub smt: Smt,
    /// What `OMP_NUM_THREADS` is set to.
    pub omp_threads: OmpThreads,
    /// What happens where no plan is possible.
    pub on_failure: OnFailure,
    /// The names of the containers meant; `None`: those that hold GPUs, else all but sidecars.
    pub containers: Option<Vec<String>>,
    /// The GPUs that the container holds.
    pub gpus: GpuChoice,
    /// The CPUs that the container may use; `None`: all of the machine.
    pub allowed_cpus: Option<CpuSet>,
    /// The memory nodes that the container may use; `None`: all of the machine.
    pub allowed_mems: Option<NodeSet>,
    /// CPUs kept for the system.
    pub reserved_cpus: CpuSet,
    /// The container's memory limit in bytes.
    pub memory_limit: Option<u64>,
}

/// `oarlock.dev/cpu-map`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CpuMap {
    /// Untouched.
    #[default]
    None,
    /// The node of the rank's GPU.
    Auto,
    /// Block order over the nodes with allowed CPUs.
    Numa,
    /// torchrun's `node`.
    Node,
    /// torchrun's `socket`.
    Socket,
    /// torchrun's `exclusive`: the node's cores, shared out.
    Exclusive,
    /// torchrun's `core-complex`: one last-level cache.
    CoreComplex,
    /// One entry of nodes per rank.
    Nodes(Vec<NodeSet>),
    /// One list of CPUs per rank.
    Cpus(Vec<CpuSet>),
}

/// `oarlock.dev/mem-map`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum MemMap {
    /// Untouched.
    #[default]
    None,
    /// The nodes of the rank's CPUs, else of its GPU.
    Auto,
    /// Block order over the nodes with allowed CPUs.
    Numa,
    /// One entry of nodes per rank.
    Nodes(Vec<NodeSet>),
}

/// `oarlock.dev/mem-policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemPolicy {
    /// A wall: no page elsewhere.
    #[default]
    Bind,
    /// CPUs near, pages by first touch, other nodes stay allowed.
    Preferred,
}

/// `oarlock.dev/smt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Smt {
    /// All hardware threads.
    #[default]
    All,
    /// One hardware thread per core: the lowest that is allowed.
    One,
}

/// `oarlock.dev/omp-threads`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OmpThreads {
    /// Untouched.
    #[default]
    None,
    /// The number of cores of the rank.
    Auto,
    /// This many.
    Count(u32),
}

/// `oarlock.dev/on-failure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// Run unbound, and say so.
    #[default]
    Run,
    /// Do not start.
    Refuse,
}

/// The GPUs of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum GpuChoice {
    /// All of the machine, in index order.
    #[default]
    All,
    /// Some of them, in this order.
    Some(Vec<GpuRef>),
    /// As many as this, not known which: the machine's first, in index order.
    Count(u32),
}

/// One GPU, as somebody names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuRef {
    /// By index in the machine.
    Index(u32),
    /// By PCI address: any PCI device then counts as a GPU.
    Address(PciAddress),
    /// By NVML's UUID.
    Uuid(String),
}

/// The annotations that make up a request, without their prefix.
pub const KEYS: [&str; 9] =
    ["cpu-map", "mem-map", "mem-policy", "ranks", "rank-gpus", "smt", "omp-threads", "on-failure", "containers"];

/// What Oarlock itself writes on a pod; read by nobody here.
const WRITTEN: &str = "placement";

impl Request {
    /// The request in a pod's annotations, or `None` for a pod that has neither `cpu-map` nor `mem-map` and is left
    /// alone. Annotations without our prefix are not looked at; an unknown one with it is refused.
    pub fn from_annotations<'a>(
        annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Option<Self>, Refusal> {
        let mut request = Self::default();
        let mut asked = false;
        for (key, value) in annotations {
            let Some(key) = key.strip_prefix(PREFIX) else { continue };
            if key == WRITTEN {
                continue;
            }
            asked |= matches!(key, "cpu-map" | "mem-map");
            request.set(key, value)?;
        }
        Ok(asked.then_some(request))
    }

    /// Sets one annotation, named without its prefix. The command line's flags come through here too.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), Refusal> {
        let value = value.trim();
        match key {
            "cpu-map" => self.cpu_map = CpuMap::parse(value)?,
            "mem-map" => self.mem_map = MemMap::parse(value)?,
            "mem-policy" => {
                self.mem_policy =
                    one_of(key, value, &[("bind", MemPolicy::Bind), ("preferred", MemPolicy::Preferred)])?;
            }
            "ranks" => self.ranks = Some(parse_ranks(key, value)?),
            "rank-gpus" => self.rank_gpus = Some(parse_rank_gpus(value)?),
            "smt" => self.smt = one_of(key, value, &[("all", Smt::All), ("one", Smt::One)])?,
            "omp-threads" => self.omp_threads = OmpThreads::parse(value)?,
            "on-failure" => {
                self.on_failure = one_of(key, value, &[("run", OnFailure::Run), ("refuse", OnFailure::Refuse)])?;
            }
            "containers" => self.containers = Some(parse_containers(value)?),
            _ => return Err(Refusal::unknown_key(key, value)),
        }
        Ok(())
    }

    /// The number of ranks that a launcher's environment states: `PET_NPROC_PER_NODE`, else `NPROC_PER_NODE`, where it
    /// is a number (torchrun also takes `gpu`, `cpu`, `auto`: those say nothing).
    pub fn ranks_from_env<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<u32> {
        ["PET_NPROC_PER_NODE", "NPROC_PER_NODE"]
            .iter()
            .filter_map(|key| get(key))
            .find_map(|value| value.trim().parse().ok().filter(|ranks| (1..=MAX_RANKS).contains(ranks)))
    }
}

impl CpuMap {
    /// Parses the annotation's value.
    pub fn parse(value: &str) -> Result<Self, Refusal> {
        const KEY: &str = "cpu-map";
        Ok(match value {
            "none" => Self::None,
            "auto" => Self::Auto,
            "numa" => Self::Numa,
            "node" => Self::Node,
            "socket" => Self::Socket,
            "exclusive" => Self::Exclusive,
            "core-complex" => Self::CoreComplex,
            _ => match value.strip_prefix("cpus:") {
                Some(list) => Self::Cpus(parse_cpu_lists(KEY, value, list)?),
                None if looks_like_list(value) => Self::Nodes(parse_node_list(KEY, value)?),
                None => {
                    return Err(Refusal::new(
                        KEY,
                        value,
                        "auto, numa, node, socket, exclusive, core-complex, none, a node list like 0,0,1,1, or a CPU list like cpus:0-3;4-7",
                        "is not a map",
                    ));
                }
            },
        })
    }
}

impl MemMap {
    /// Parses the annotation's value.
    pub fn parse(value: &str) -> Result<Self, Refusal> {
        const KEY: &str = "mem-map";
        Ok(match value {
            "none" => Self::None,
            "auto" => Self::Auto,
            "numa" => Self::Numa,
            _ if looks_like_list(value) => Self::Nodes(parse_node_list(KEY, value)?),
            _ => {
                return Err(Refusal::new(KEY, value, "auto, numa, none, or a node list like 0,0,1,1", "is not a map"));
            }
        })
    }
}

impl OmpThreads {
    fn parse(value: &str) -> Result<Self, Refusal> {
        match value {
            "none" => Ok(Self::None),
            "auto" => Ok(Self::Auto),
            _ => Ok(Self::Count(bounded(value).ok_or_else(|| {
                Refusal::new(
                    "omp-threads",
                    value,
                    "none, auto, or a number of threads from 1 to 8192",
                    "is not one of them",
                )
            })?)),
        }
    }
}

/// A list begins with a digit or a separator; anything else is meant as a word.
fn looks_like_list(value: &str) -> bool {
    value.starts_with(|c: char| c.is_ascii_digit() || matches!(c, ',' | '+' | '-' | ';'))
}

fn one_of<T: Copy>(key: &str, value: &str, choices: &[(&str, T)]) -> Result<T, Refusal> {
    choices.iter().find(|(word, _)| *word == value).map(|(_, choice)| *choice).ok_or_else(|| {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        Refusal::new(key, value, words.join(" or "), "is not one of them")
    })
}

fn bounded(value: &str) -> Option<u32> {
    let digits = value.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| value.parse().ok()).flatten().filter(|n| (1..=MAX_RANKS).contains(n))
}

fn parse_ranks(key: &str, value: &str) -> Result<u32, Refusal> {
    bounded(value)
        .ok_or_else(|| Refusal::new(key, value, format!("a number of ranks from 1 to {MAX_RANKS}"), "is not one"))
}

fn split_entries<'a>(key: &str, value: &str, list: &'a str, separator: char) -> Result<Vec<&'a str>, Refusal> {
    let entries: Vec<&str> = list.split(separator).map(str::trim).collect();
    let rule = || format!("one entry per local rank, separated by \"{separator}\"");
    if let Some(index) = entries.iter().position(|entry| entry.is_empty()) {
        return Err(Refusal::new(key, value, rule(), format!("entry {} (rank {index}) is empty", index + 1)));
    }
    if entries.len() > MAX_RANKS as usize {
        return Err(Refusal::new(
            key,
            value,
            rule(),
            format!("{} entries are more than {MAX_RANKS} ranks", entries.len()),
        ));
    }
    Ok(entries)
}

fn parse_node_list(key: &str, value: &str) -> Result<Vec<NodeSet>, Refusal> {
    const RULE: &str = "an entry is a node number, or several joined by +, like 0+1";
    let mut list = Vec::new();
    for (index, entry) in split_entries(key, value, value, ',')?.into_iter().enumerate() {
        let mut nodes = NodeSet::new();
        for part in entry.split('+') {
            let wrong = |why: &str| {
                Refusal::new(
                    key,
                    value,
                    RULE,
                    format!("entry {} (rank {index}) \"{}\": {why}", index + 1, shown(entry)),
                )
            };
            if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(wrong(&format!("\"{}\" is not a node number", shown(part))));
            }
            let set: NodeSet =
                part.parse().map_err(|_| wrong(&format!("node {} is past the kernel's highest, 1023", shown(part))))?;
            if set.intersects(&nodes) {
                return Err(wrong(&format!("node {part} is named twice")));
            }
            nodes.extend(&set);
        }
        list.push(nodes);
    }
    Ok(list)
}

fn parse_cpu_lists(key: &str, value: &str, list: &str) -> Result<Vec<CpuSet>, Refusal> {
    split_entries(key, value, list, ';')?
        .into_iter()
        .enumerate()
        .map(|(index, entry)| {
            entry.parse().map_err(|error| {
                let what = format!("entry {} (rank {index}) \"{}\": {error}", index + 1, shown(entry));
                Refusal::new(key, value, "each entry is a list of cpus in the kernel's form, like 0-11,48-59", what)
            })
        })
        .collect()
}

fn parse_rank_gpus(value: &str) -> Result<Vec<Vec<u32>>, Refusal> {
    const KEY: &str = "rank-gpus";
    const RULE: &str = "per rank, positions among the container's GPUs counted from 0: 0,1;2,3";
    let mut ranks = Vec::new();
    for (index, entry) in split_entries(KEY, value, value, ';')?.into_iter().enumerate() {
        let mut gpus = Vec::new();
        for part in entry.split(',') {
            let wrong = |why: String| {
                Refusal::new(
                    KEY,
                    value,
                    RULE,
                    format!("entry {} (rank {index}) \"{}\": {why}", index + 1, shown(entry)),
                )
            };
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let gpu = digits
                .then(|| part.parse().ok())
                .flatten()
                .filter(|&gpu: &u32| gpu < MAX_RANKS)
                .ok_or_else(|| wrong(format!("\"{}\" is not a gpu number", shown(part))))?;
            if gpus.contains(&gpu) {
                return Err(wrong(format!("gpu {gpu} is named twice")));
            }
            gpus.push(gpu);
        }
        ranks.push(gpus);
    }
    Ok(ranks)
}

fn parse_containers(value: &str) -> Result<Vec<String>, Refusal> {
    const KEY: &str = "containers";
    let names: Vec<&str> = value.split(',').map(str::trim).collect();
    for name in &names {
        // A container's name is an RFC 1123 label: Kubernetes admits no other.
        let label = !name.is_empty()
            && name.len() <= 63
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !label {
            return Err(Refusal::new(
                KEY,
                value,
                "names of containers, separated by commas",
                format!("\"{}\" is not the name of a container", shown(name)),
            ));
        }
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

impl fmt::Display for CpuMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Auto => f.write_str("auto"),
            Self::Numa => f.write_str("numa"),
            Self::Node => f.write_str("node"),
            Self::Socket => f.write_str("socket"),
            Self::Exclusive => f.write_str("exclusive"),
            Self::CoreComplex => f.write_str("core-complex"),
            Self::Nodes(list) => write_node_list(f, list),
            Self::Cpus(list) => {
                f.write_str("cpus:")?;
                write_joined(f, list, ';')
            }
        }
    }
}

impl fmt::Display for MemMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Auto => f.write_str("auto"),
            Self::Numa => f.write_str("numa"),
            Self::Nodes(list) => write_node_list(f, list),
        }
    }
}

impl fmt::Display for MemPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bind => "bind",
            Self::Preferred => "preferred",
        })
    }
}

fn write_joined<T: fmt::Display>(f: &mut fmt::Formatter<'_>, list: &[T], separator: char) -> fmt::Result {
    for (index, entry) in list.iter().enumerate() {
        if index > 0 {
            write!(f, "{separator}")?;
        }
        write!(f, "{entry}")?;
    }
    Ok(())
}

fn write_node_list(f: &mut fmt::Formatter<'_>, list: &[NodeSet]) -> fmt::Result {
    for (index, nodes) in list.iter().enumerate() {
        if index > 0 {
            f.write_str(",")?;
        }
        write_joined(f, &nodes.iter().collect::<Vec<_>>(), '+')?;
    }
    Ok(())
}

impl fmt::Display for GpuRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "gpu {index}"),
            Self::Address(address) => write!(f, "gpu {address}"),
            Self::Uuid(uuid) => write!(f, "gpu {uuid}"),
        }
    }
}
