//! How CPUs share cores, last-level caches and packages.

use std::collections::BTreeMap;
use std::path::Path;

use oarlock_core::CpuSet;
use oarlock_core::machine::Package;

use crate::{DiscoveryError, kernel_file};

pub(super) struct Groups {
    pub(super) cores: Option<Vec<CpuSet>>,
    pub(super) l3: Option<Vec<CpuSet>>,
    pub(super) packages: Option<Vec<Package>>,
}

/// Reads the files of one CPU per group, since all CPUs of a group say the same. A kind of group that any CPU is silent
/// about is `None` as a whole: half an answer would make a plan that looks right.
pub(super) fn read(folder: &Path, online: &CpuSet) -> Result<Groups, DiscoveryError> {
    let cores = group(online, |cpu| siblings(&folder.join(format!("cpu{cpu}/topology"))))?;
    let l3 = group(online, |cpu| last_level_cache(&folder.join(format!("cpu{cpu}/cache"))))?;
    let packages = match &cores {
        Some(cores) => packages(folder, cores)?,
        None => None,
    };
    Ok(Groups { cores, l3, packages })
}

fn group(
    online: &CpuSet,
    read: impl Fn(u32) -> Result<Option<CpuSet>, DiscoveryError>,
) -> Result<Option<Vec<CpuSet>>, DiscoveryError> {
    let mut groups = Vec::new();
    let mut seen = CpuSet::new();
    for cpu in online.iter() {
        if seen.contains(cpu) {
            continue;
        }
        let Some(mut group) = read(cpu)? else { return Ok(None) };
        group = group.intersection(online);
        group.insert(cpu);
        seen.extend(&group);
        groups.push(group);
    }
    Ok(Some(groups))
}

/// `core_cpus` is the newer name of `thread_siblings`.
fn siblings(topology: &Path) -> Result<Option<CpuSet>, DiscoveryError> {
    match kernel_file::mask_or_list(topology, "core_cpus", "core_cpus_list")? {
        Some(set) => Ok(Some(set)),
        None => kernel_file::mask_or_list(topology, "thread_siblings", "thread_siblings_list"),
    }
}

/// The CPUs that share the highest data or unified cache; instruction caches do not count, whatever their level.
fn last_level_cache(cache: &Path) -> Result<Option<CpuSet>, DiscoveryError> {
    let mut highest: Option<(i64, String)> = None;
    for name in kernel_file::names(cache)?.unwrap_or_default() {
        if name.strip_prefix("index").is_none_or(|digits| digits.parse::<u32>().is_err()) {
            continue;
        }
        let folder = cache.join(&name);
        let kind = kernel_file::text(&folder.join("type"))?;
        if !matches!(kind.as_deref(), Some("Data" | "Unified")) {
            continue;
        }
        let Some(level) = kernel_file::number(&folder.join("level"))? else { continue };
        if highest.as_ref().is_none_or(|(best, _)| level > *best) {
            highest = Some((level, name));
        }
    }
    match highest {
        Some((_, name)) => kernel_file::mask_or_list(&cache.join(name), "shared_cpu_map", "shared_cpu_list"),
        None => Ok(None),
    }
}

fn packages(folder: &Path, cores: &[CpuSet]) -> Result<Option<Vec<Package>>, DiscoveryError> {
    let mut packages: BTreeMap<u32, CpuSet> = BTreeMap::new();
    for core in cores {
        let Some(cpu) = core.first() else { continue };
        let number = kernel_file::number(&folder.join(format!("cpu{cpu}/topology/physical_package_id")))?;
        // −1 where the architecture does not tell.
        let Some(id) = number.and_then(|id| u32::try_from(id).ok()) else { return Ok(None) };
        packages.entry(id).or_default().extend(core);
    }
    Ok(Some(packages.into_iter().map(|(id, cpus)| Package { id, cpus }).collect()))
}
