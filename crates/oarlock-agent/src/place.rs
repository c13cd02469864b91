//! From a container as the runtime creates it to the places of its ranks. Nothing is read or written here.

mod held;

pub(crate) use held::{Given, Knowledge, OwnResources, held};
pub(crate) use oarlock_core::place::{Ask, CDI, Decision, Placement, decide};

use oarlock_core::visible::VISIBLE_DEVICES;
use oarlock_device_plugin::allocate::{GPUS, NUMA_NODES, NUMA_SLOTS};

/// Whether a variable of a container's environment has a say in its place. A pod may have megabytes of others.
pub(crate) fn is_asked(variable: &str) -> bool {
    [GPUS, NUMA_NODES, NUMA_SLOTS].contains(&variable)
        || VISIBLE_DEVICES.contains(&variable)
        || ["NVIDIA_VISIBLE_DEVICES", "PET_NPROC_PER_NODE", "NPROC_PER_NODE", "OMP_NUM_THREADS"].contains(&variable)
}

#[cfg(test)]
mod tests;
