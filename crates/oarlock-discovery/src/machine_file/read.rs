//! From JSON to a machine.

use oarlock_core::machine::{Gpu, Node, Package};
use oarlock_core::{CpuSet, Machine, NodeSet};
use serde_json::Value;

use super::fields::{Fields, parse_text, wrong};
use super::gpus::{self, RawGpu};
use super::{Problem, derive, links};
use crate::{Allowed, Found};

/// `MAX_NUMNODES` of the kernel's largest configuration.
const NODE_LIMIT: usize = 1024;
/// `NR_CPUS` of the kernel's largest configuration: no kind of group has more members.
const CPU_LIMIT: usize = 8192;
/// Far more GPUs than any host has, few enough to decide on each in no time.
const GPU_LIMIT: usize = 1024;
/// The same for other devices, of which virtual functions make thousands.
pub(super) const DEVICE_LIMIT: usize = 16384;

/// A node as the file states it.
#[derive(Debug, Clone)]
pub(super) struct RawNode {
    pub(super) id: u32,
    pub(super) cpus: Option<CpuSet>,
    pub(super) memory_mb: Option<u64>,
    pub(super) socket: Option<u32>,
    pub(super) gpu_memory: bool,
}

pub(super) fn read(bytes: &[u8], default_name: String) -> Result<Found, Problem> {
    let value: Value = serde_json::from_slice(bytes).map_err(Problem::Json)?;
    let mut file = Fields::whole(value)?;
    let mut warnings = Vec::new();

    let name = file.text("name")?.unwrap_or(default_name);
    let smt = file.count("smt")?;
    let cpus_total = file.count("cpus_total")?;
    let nodes_overlap = file.flag("nodes_overlap")?;
    let mut raw_nodes = nodes(&mut file)?;
    let ids = node_ids(&raw_nodes)?;
    let mut raw_gpus = gpus::read(file.objects("gpus", GPU_LIMIT)?.unwrap_or_default(), &ids)?;
    let distances = distances(&mut file, &raw_nodes, &ids)?;

    derive::gpu_memory(&mut raw_nodes, &mut raw_gpus, &mut warnings);
    let nodes = derive::node_cpus(&raw_nodes, &raw_gpus)?;
    check(&nodes, &raw_gpus, cpus_total, nodes_overlap)?;

    // Captured files have cores, or null where the capture could not tell.
    let stated_as_assumed = file.flag("cores_assumed")?;
    let (cores, cores_assumed) = if file.has("cores") {
        (file.parsed_array("cores", CPU_LIMIT, "a list of cpus")?, stated_as_assumed)
    } else {
        let cores = derive::cores(&nodes, smt);
        let assumed = cores.is_some() && smt.is_none();
        (cores, assumed)
    };
    let l3 = file.parsed_array("l3", CPU_LIMIT, "a list of cpus")?;
    let packages = match packages(&mut file)? {
        Some(packages) => Some(packages),
        None => derive::packages(&raw_nodes, &nodes),
    };
    let devices = gpus::devices(&mut file, &nodes, &raw_gpus)?;
    let gpus: Vec<Gpu> = raw_gpus.into_iter().map(|gpu| gpu.resolved(&nodes)).collect();
    let links = links::read(&file, &gpus)?;
    let machine =
        Machine { name, nodes, cores, cores_assumed, l3, packages, distances, gpus, links, devices }.checked()?;
    Ok(Found { machine, allowed: Allowed::default(), warnings, extra: extra(file, smt, cpus_total) })
}

/// `smt` and `cpus_total` are no part of a machine, since its cores and nodes say the same; a file that states them keeps
/// them.
fn extra(file: Fields, smt: Option<u64>, cpus_total: Option<u64>) -> serde_json::Map<String, Value> {
    let mut extra = file.rest();
    extra.extend(smt.map(|smt| ("smt".to_owned(), smt.into())));
    extra.extend(cpus_total.map(|total| ("cpus_total".to_owned(), total.into())));
    extra
}

fn nodes(file: &mut Fields) -> Result<Vec<RawNode>, Problem> {
    let Some(objects) = file.objects("nodes", NODE_LIMIT)? else { return Err(Problem::NoNodes { how: "missing" }) };
    if objects.is_empty() {
        return Err(Problem::NoNodes { how: "empty" });
    }
    objects
        .into_iter()
        .map(|mut node| {
            let Some(id) = node.id("id")? else {
                return Err(wrong(node.place("id"), &Value::Null, "the node's number"));
            };
            if id >= NODE_LIMIT as u32 {
                return Err(wrong(node.place("id"), &id.into(), "a node number below 1024, the kernel's bound"));
            }
            Ok(RawNode {
                id,
                cpus: node.parsed("cpulist", "a list of cpus")?,
                memory_mb: node.count("memory_mb")?,
                socket: node.id("socket")?,
                gpu_memory: node.flag("gpu_memory")?,
            })
        })
        .collect()
}

fn node_ids(nodes: &[RawNode]) -> Result<NodeSet, Problem> {
    let mut ids = NodeSet::new();
    for node in nodes {
        if ids.contains(node.id) {
            return Err(oarlock_core::machine::Contradiction::NodeTwice(node.id).into());
        }
        ids.insert(node.id);
    }
    Ok(ids)
}

/// `{"ids": […], "matrix": [[…]]}`, or the matrix alone in the order of `nodes`. The result is in the order of `nodes`.
fn distances(file: &mut Fields, nodes: &[RawNode], ids: &NodeSet) -> Result<Option<Vec<Vec<u32>>>, Problem> {
    let place = file.place("distances");
    let (order, matrix) = match file.take("distances") {
        None => return Ok(None),
        Some(Value::Array(rows)) => (None, Value::Array(rows)),
        Some(Value::Object(mut object)) => (object.remove("ids"), object.remove("matrix").unwrap_or_default()),
        Some(other) => return Err(wrong(place, &other, "an object with ids and matrix")),
    };
    let rows: Vec<Vec<u32>> = numbers_of(matrix, &place, "rows of numbers")?;
    let Some(order) = order else { return Ok(Some(rows)) };
    let order: Vec<u32> = numbers_of(order, &format!("{place}.ids"), "node numbers")?;
    let known: NodeSet = order.iter().copied().collect();
    let lengths = || rows.iter().map(Vec::len).collect::<Vec<_>>();
    if order.len() != nodes.len() || known != *ids {
        return Err(Problem::DistanceIds { ids: order, nodes: ids.clone() });
    }
    if rows.len() != order.len() || rows.iter().any(|row| row.len() != order.len()) {
        let contradiction = oarlock_core::machine::Contradiction::Distances { rows: lengths(), nodes: nodes.len() };
        return Err(contradiction.into());
    }
    let mut position = vec![0; NODE_LIMIT];
    for (at, id) in order.iter().enumerate() {
        position[*id as usize] = at;
    }
    let at: Vec<usize> = nodes.iter().map(|node| position[node.id as usize]).collect();
    Ok(Some(at.iter().map(|&row| at.iter().map(|&column| rows[row][column]).collect()).collect()))
}

fn numbers_of<T: serde::de::DeserializeOwned>(value: Value, place: &str, what: &'static str) -> Result<T, Problem> {
    let shown = value.clone();
    serde_json::from_value(value).map_err(|_| wrong(place.to_owned(), &shown, what))
}

fn packages(file: &mut Fields) -> Result<Option<Vec<Package>>, Problem> {
    let Some(objects) = file.objects("packages", CPU_LIMIT)? else { return Ok(None) };
    let package = |mut object: Fields| -> Result<Package, Problem> {
        let Some(id) = object.id("id")? else {
            return Err(wrong(object.place("id"), &Value::Null, "the package's number"));
        };
        let text = object.text("cpulist")?.unwrap_or_default();
        Ok(Package { id, cpus: parse_text(object.place("cpulist"), &text, "a list of cpus")? })
    };
    objects.into_iter().map(package).collect::<Result<_, _>>().map(Some)
}

/// The rules that a contradiction breaks, each naming both parts.
fn check(nodes: &[Node], gpus: &[RawGpu], cpus_total: Option<u64>, nodes_overlap: bool) -> Result<(), Problem> {
    let mut seen = CpuSet::new();
    for node in nodes {
        if node.cpus.intersects(&seen) && !nodes_overlap {
            let one = nodes.iter().find(|one| one.cpus.intersects(&node.cpus)).map_or(node.id, |one| one.id);
            return Err(Problem::NodesOverlap { cpus: node.cpus.intersection(&seen), one, other: node.id });
        }
        seen.extend(&node.cpus);
    }
    if let Some(total) = cpus_total
        && seen.len() as u64 > total
    {
        return Err(Problem::CpusTotal { total, counted: seen.len() });
    }
    // A captured machine is as its firmware says, right or wrong.
    for gpu in gpus.iter().filter(|gpu| !gpu.captured.is_stated()) {
        let node = gpu.node.and_then(|id| nodes.iter().find(|node| node.id == id));
        if let (Some(node), Some(affinity)) = (node, &gpu.affinity)
            && !node.cpus.is_empty()
            && !affinity.is_empty()
            && !node.cpus.intersects(affinity)
        {
            return Err(Problem::GpuAffinity {
                gpu: gpu.index,
                affinity: affinity.clone(),
                node: node.id,
                cpus: node.cpus.clone(),
            });
        }
    }
    Ok(())
}
