//! `--machine`: where the machine is read from.

use std::path::PathBuf;

use clap::Args;
use oarlock_core::idset::{CpuSet, NodeSet};
use oarlock_discovery::{Found, Options, Source, discover};

use crate::failure::Failure;
use crate::flags::{parse_cpus, parse_nodes};

/// Where the machine is read from.
#[derive(Debug, Clone, Args)]
pub(crate) struct SourceFlags {
    /// A machine file (.json), an hwloc export (.xml), a folder holding sys/ (and proc/), or synthetic:… in hwloc's
    /// syntax [default: this machine]
    #[arg(long, value_name = "SRC")]
    machine: Option<String>,
    #[command(flatten)]
    nvml: NvmlFlags,
}

/// How this machine's NVIDIA GPUs are asked.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct NvmlFlags {
    /// The NVML library, where it is not found by its usual name
    #[arg(long, value_name = "PATH", env = "OARLOCK_NVML_LIBRARY")]
    nvml_library: Option<PathBuf>,
}

/// What the container may use, where the source does not say it or it is to be another.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct AllowedFlags {
    /// The CPUs that the container may use, in the kernel's list form [default: what the source says, else all]
    #[arg(long, value_name = "LIST")]
    allowed_cpus: Option<String>,
    /// The memory nodes that the container may use, in the kernel's list form
    #[arg(long, value_name = "LIST")]
    allowed_mems: Option<String>,
}

impl SourceFlags {
    /// Reads the machine.
    pub(crate) fn read(&self) -> Result<Found, Failure> {
        find(&Source::parse(self.machine.as_deref()), &self.nvml)
    }
}

impl NvmlFlags {
    /// Reads this machine.
    pub(crate) fn read_this_machine(&self) -> Result<Found, Failure> {
        find(&Source::Live, self)
    }
}

impl AllowedFlags {
    /// The allowed sets: those of the flags, else those that the source tells.
    pub(crate) fn resolve(&self, found: &Found) -> Result<(Option<CpuSet>, Option<NodeSet>), Failure> {
        let cpus = self.allowed_cpus.as_deref().map(|list| parse_cpus("--allowed-cpus", list)).transpose()?;
        let mems = self.allowed_mems.as_deref().map(|list| parse_nodes("--allowed-mems", list)).transpose()?;
        Ok((cpus.or_else(|| found.allowed.cpus.clone()), mems.or_else(|| found.allowed.mems.clone())))
    }
}

fn find(source: &Source, nvml: &NvmlFlags) -> Result<Found, Failure> {
    let options = Options { nvml_library: nvml.nvml_library.clone(), ..Options::default() };
    discover(source, &options).map_err(|error| Failure::Failed(error.into()))
}
