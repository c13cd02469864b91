//! Reads a machine from the live host, hwloc XML, a sys folder, a synthetic description or a machine file.
//!
//! Every source ends in the same [`oarlock_core::Machine`], and every device's NUMA node is decided by
//! [`oarlock_core::locality::resolve`].
//!
//! Without the feature `hwloc` there are machine files and [`sysfs::Tree`] alone, and no C library is linked.

#![cfg_attr(not(feature = "hwloc"), allow(dead_code, unused_imports, reason = "some serves the live host alone"))]

mod devices;
mod error;
#[cfg(feature = "hwloc")]
mod hwloc;
mod hwloc_xml;
mod kernel_file;
mod links;
pub mod machine_file;
pub mod nvml;
#[cfg(feature = "hwloc")]
mod source;
pub mod sysfs;

use oarlock_core::{CpuSet, Machine, NodeSet};

pub use error::DiscoveryError;
#[cfg(feature = "hwloc")]
pub use hwloc::{differences, live_views};
#[cfg(feature = "hwloc")]
pub use source::{Options, Source, discover};

/// What a source says: the machine, what its reader may use of it, and what a person should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The machine as a whole, whatever a cpuset hides of it.
    pub machine: Machine,
    /// What the source's own process may use.
    pub allowed: Allowed,
    /// Doubtful facts and how they were taken, in words.
    pub warnings: Vec<String>,
    /// Fields of a machine file that mean nothing here, kept as they are.
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// The part of a machine that a process may use; `None` where the source does not tell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowed {
    /// Its CPUs.
    pub cpus: Option<CpuSet>,
    /// Its memory nodes.
    pub mems: Option<NodeSet>,
}
