//! Flags that several commands share: the request and the allowed sets.

use clap::Args;
use oarlock_core::idset::{CpuSet, NodeSet};
use oarlock_core::pci::PciAddress;
use oarlock_core::request::{GpuChoice, GpuRef, Request};

use crate::failure::Failure;

/// The maps: the same words as the pod annotations of the same names.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct MapFlags {
    /// How ranks are laid on CPUs: auto, numa, node, socket, exclusive, core-complex, none, a node list (0,0,1,1) or a
    /// CPU list (cpus:0-3;4-7)
    #[arg(long, value_name = "MAP")]
    pub(crate) cpu_map: Option<String>,
    /// How ranks are laid on memory: auto, numa, none or a node list
    #[arg(long, value_name = "MAP")]
    pub(crate) mem_map: Option<String>,
    /// bind (no page elsewhere) or preferred (other nodes stay allowed)
    #[arg(long, value_name = "POLICY")]
    pub(crate) mem_policy: Option<String>,
    /// The GPUs of the job: indices, ranges, PCI addresses or UUIDs, in rank order; all; or none [default: all; for run and
    /// exec those that this process sees, as `CUDA_VISIBLE_DEVICES` orders them]
    #[arg(long, value_name = "LIST|none")]
    pub(crate) gpus: Option<String>,
    /// Per rank, positions among those GPUs: 0,1;2,3
    #[arg(long, value_name = "LIST")]
    pub(crate) rank_gpus: Option<String>,
    /// Hardware threads of a core: all, or one
    #[arg(long, value_name = "all|one")]
    pub(crate) smt: Option<String>,
    /// `OMP_NUM_THREADS`: none, auto (cores of the rank), or a number
    #[arg(long, value_name = "N")]
    pub(crate) omp_threads: Option<String>,
    /// What to do with a rank that cannot be bound: run (unbound, and say so) or refuse
    #[arg(long, value_name = "run|refuse")]
    pub(crate) on_failure: Option<String>,
}

impl MapFlags {
    /// The request that these flags make; what they leave out has the annotation's default.
    pub(crate) fn request(&self) -> Result<Request, Failure> {
        let mut request = Request::default();
        for (key, value) in [
            ("cpu-map", &self.cpu_map),
            ("mem-map", &self.mem_map),
            ("mem-policy", &self.mem_policy),
            ("rank-gpus", &self.rank_gpus),
            ("smt", &self.smt),
            ("omp-threads", &self.omp_threads),
            ("on-failure", &self.on_failure),
        ] {
            if let Some(value) = value {
                request.set(key, value)?;
            }
        }
        if let Some(gpus) = &self.gpus {
            request.gpus = parse_gpus(gpus)?;
        }
        Ok(request)
    }

    /// Whether a map is named at all.
    pub(crate) fn asks_for_a_map(&self) -> bool {
        self.cpu_map.is_some() || self.mem_map.is_some()
    }
}

/// A CPU list of a flag that is no annotation: a wrong one is a wrong call.
pub(crate) fn parse_cpus(flag: &str, text: &str) -> Result<CpuSet, Failure> {
    text.parse().map_err(|error| Failure::Usage(anyhow::Error::new(error).context(format!("{flag} {text:?}"))))
}

/// A node list of a flag that is no annotation.
pub(crate) fn parse_nodes(flag: &str, text: &str) -> Result<NodeSet, Failure> {
    text.parse().map_err(|error| Failure::Usage(anyhow::Error::new(error).context(format!("{flag} {text:?}"))))
}

fn parse_gpus(text: &str) -> Result<GpuChoice, Failure> {
    match text.trim() {
        "all" => return Ok(GpuChoice::All),
        "none" => return Ok(GpuChoice::Some(Vec::new())),
        _ => {}
    }
    let wrong = |entry: &str, why: String| Failure::usage(format!("--gpus {text:?}: {entry:?} {why}"));
    let mut gpus = Vec::new();
    for entry in text.split(',').map(str::trim) {
        let mut found = Vec::new();
        if entry.contains(':') {
            let address: PciAddress = entry.parse().map_err(|error| wrong(entry, format!("is wrong: {error}")))?;
            found.push(GpuRef::Address(address));
        } else if entry.starts_with("GPU-") || entry.starts_with("MIG-") {
            found.push(GpuRef::Uuid(entry.to_owned()));
        } else {
            // The list form of the CPUs serves for indices too: one number or one range.
            let indices: CpuSet = entry.parse().map_err(|error| wrong(entry, format!("is wrong: {error}")))?;
            if indices.is_empty() {
                return Err(wrong(entry, "is empty: indices, ranges, PCI addresses or UUIDs, or none".to_owned()));
            }
            found.extend(indices.iter().map(GpuRef::Index));
        }
        if let Some(twice) = found.iter().find(|gpu| gpus.contains(*gpu)) {
            return Err(wrong(entry, format!("names {twice} a second time")));
        }
        gpus.extend(found);
    }
    Ok(GpuChoice::Some(gpus))
}
