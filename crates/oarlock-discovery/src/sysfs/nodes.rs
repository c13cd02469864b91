//! NUMA nodes: their CPUs, memory and distances.

use std::path::Path;

use oarlock_core::machine::Node;
use oarlock_core::{CpuSet, NodeSet};

use crate::{DiscoveryError, kernel_file};

type NodesAndDistances = (Vec<Node>, Option<Vec<Vec<u32>>>);

/// The online nodes, ascending. A kernel without NUMA support has no node folder: its CPUs are one node.
pub(super) fn read(
    root: &Path,
    online: Option<&CpuSet>,
    warnings: &mut Vec<String>,
) -> Result<NodesAndDistances, DiscoveryError> {
    let folder = root.join("sys/devices/system/node");
    let ids = node_ids(&folder)?;
    if ids.is_empty() {
        let cpus = online.cloned().unwrap_or_default();
        let memory_mb = memory_mb(&root.join("proc/meminfo"))?;
        return Ok((vec![Node { id: 0, cpus, memory_mb, gpu_memory: false }], None));
    }
    let mut nodes = Vec::with_capacity(ids.len());
    let mut rows = Vec::with_capacity(ids.len());
    let mut seen = CpuSet::new();
    let mut shared = CpuSet::new();
    for id in ids.iter() {
        let folder = folder.join(format!("node{id}"));
        let mut cpus = node_cpus(&folder, id, warnings)?;
        if let Some(online) = online {
            cpus = cpus.intersection(online);
        }
        shared.extend(&cpus.intersection(&seen));
        seen.extend(&cpus);
        let memory_mb = memory_mb(&folder.join("meminfo"))?;
        nodes.push(Node { id, cpus, memory_mb, gpu_memory: false });
        rows.push(distances(&folder.join("distance"))?);
    }
    if !shared.is_empty() {
        let over: NodeSet = nodes.iter().filter(|node| node.cpus.intersects(&shared)).map(|node| node.id).collect();
        warnings.push(format!("cpus {shared} are listed by each of the nodes {over}: the firmware's tables are wrong"));
    }
    Ok((nodes, matrix(rows, warnings)))
}

fn node_ids(folder: &Path) -> Result<NodeSet, DiscoveryError> {
    let names = kernel_file::names(folder)?.unwrap_or_default();
    let ids: NodeSet =
        names.iter().filter_map(|name| name.strip_prefix("node")).filter_map(|digits| digits.parse().ok()).collect();
    Ok(match kernel_file::online(&folder.join("online"))? {
        Some(online) => ids.intersection(&online),
        None => ids,
    })
}

fn node_cpus(folder: &Path, id: u32, warnings: &mut Vec<String>) -> Result<CpuSet, DiscoveryError> {
    let (list, map) = (kernel_file::list(&folder.join("cpulist"))?, kernel_file::mask(&folder.join("cpumap"))?);
    if let (Some(list), Some(map)) = (&list, &map)
        && list != map
    {
        warnings.push(format!("node {id}: cpulist says {list} and cpumap says {map}; cpumap is taken"));
    }
    // hwloc reads the map, so that a tree means the same to both.
    Ok(map.or(list).unwrap_or_default())
}

/// `MemTotal` of a node's `meminfo` ("Node 0 `MemTotal`: 16775084 kB") or of `/proc/meminfo`, in MiB.
fn memory_mb(path: &Path) -> Result<Option<u64>, DiscoveryError> {
    let Some(text) = kernel_file::text(path)? else { return Ok(None) };
    let Some(line) = text.lines().find(|line| line.contains("MemTotal:")) else { return Ok(None) };
    let kib = line.split("MemTotal:").nth(1).and_then(|rest| rest.trim().strip_suffix("kB"));
    match kib.and_then(|kib| kib.trim().parse::<u64>().ok()) {
        Some(kib) => Ok(Some(kib / 1024)),
        None => Err(DiscoveryError::malformed(path, line, "a line like \"MemTotal: 16384 kB\"", None)),
    }
}

fn distances(path: &Path) -> Result<Option<Vec<u32>>, DiscoveryError> {
    let Some(text) = kernel_file::text(path)? else { return Ok(None) };
    if text.is_empty() {
        return Ok(None);
    }
    let row: Result<Vec<u32>, _> = text.split_whitespace().map(str::parse).collect();
    row.map(Some).map_err(|_| DiscoveryError::malformed(path, &text, "a row of numbers", None))
}

/// Rows are by position among the online nodes, whatever the ids.
fn matrix(rows: Vec<Option<Vec<u32>>>, warnings: &mut Vec<String>) -> Option<Vec<Vec<u32>>> {
    let count = rows.len();
    let rows: Vec<Vec<u32>> = rows.into_iter().collect::<Option<_>>()?;
    if rows.iter().any(|row| row.len() != count) {
        let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
        warnings.push(format!("the distance rows have {lengths:?} entries for {count} nodes; distances are left out"));
        return None;
    }
    Some(rows)
}
