//! Who holds CPUs exclusively on this host.

use crate::idset::CpuSet;

/// The exclusive holdings on a host. The planner takes them out of what it may give.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    /// One entry per holder.
    pub holdings: Vec<Holding>,
}

/// CPUs that one holder has for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Who: `namespace/pod/container`, in words for people.
    pub holder: String,
    /// The CPUs held.
    pub cpus: CpuSet,
}

impl Ledger {
    /// All CPUs that somebody holds exclusively.
    pub fn held(&self) -> CpuSet {
        let mut held = CpuSet::new();
        for holding in &self.holdings {
            held.extend(&holding.cpus);
        }
        held
    }
}
