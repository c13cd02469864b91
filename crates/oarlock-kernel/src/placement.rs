//! The binding of one thread: CPUs and memory together.

use oarlock_core::{CpuSet, NodeSet};

use crate::affinity::{self, AffinityError};
use crate::policy::{MemoryPolicy, PolicyError};
use crate::proc::Live;

/// What a thread is to be bound to. What is `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// The CPUs that it may run on.
    pub cpus: Option<CpuSet>,
    /// The nodes that its pages come from, as a wall.
    pub mems: Option<NodeSet>,
}

/// What of a placement the kernel did not give; `None` where all is as asked for.
#[derive(Debug, Default)]
pub struct Shortfall {
    /// Why the CPUs are not bound.
    pub cpus: Option<AffinityError>,
    /// Why the memory is not bound.
    pub mems: Option<PolicyError>,
}

impl Placement {
    /// Binds the calling thread as far as the kernel lets it, each part on its own. Threads and programs that it starts
    /// inherit that.
    pub fn bind_current_thread(&self) -> Shortfall {
        Shortfall {
            cpus: self.cpus.as_ref().and_then(|cpus| affinity::set_thread(0, cpus).err()),
            mems: self.mems.as_ref().and_then(|mems| bind_memory(mems).err()),
        }
    }
}

/// The kernel takes the part of the nodes that is in the cpuset and says nothing about the rest: so it is read back.
fn bind_memory(mems: &NodeSet) -> Result<(), PolicyError> {
    let policy = MemoryPolicy::bind(mems)?;
    policy.apply()?;
    if MemoryPolicy::current()? == policy { Ok(()) } else { Err(PolicyError::NotAllowed { nodes: mems.clone() }) }
}

/// A thread's binding, to go back to.
#[derive(Debug)]
pub struct Before {
    cpus: Option<CpuSet>,
    policy: MemoryPolicy,
}

impl Before {
    /// The calling thread's binding now.
    pub fn of_current_thread() -> Result<Self, AffinityError> {
        // Where the kernel does not tell the policy, it does not let it be changed either.
        let policy = MemoryPolicy::current().unwrap_or_else(|_| MemoryPolicy::first_touch());
        Ok(Self { cpus: affinity::of_thread(0)?.here(), policy })
    }

    /// Gives the calling thread that binding again.
    pub fn restore(&self) -> Result<(), AffinityError> {
        // What it was before, the kernel has accepted before, unless it accepts nothing.
        drop(self.policy.apply());
        match &self.cpus {
            Some(cpus) => affinity::set_thread(0, cpus).map(|_: Live<()>| ()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_is_bound_and_goes_back_to_what_it_was() {
        thread::spawn(|| {
            let all = affinity::of_thread(0).unwrap().here().unwrap();
            let before = Before::of_current_thread().unwrap();
            let last = CpuSet::of(all.iter().last().unwrap());
            let placement = Placement { cpus: Some(last.clone()), mems: Some(NodeSet::of(0)) };
            let shortfall = placement.bind_current_thread();
            assert!(shortfall.cpus.is_none() && shortfall.mems.is_none(), "{shortfall:?}");
            assert_eq!(affinity::of_thread(0).unwrap(), Live::Here(last));
            assert_eq!(MemoryPolicy::current().unwrap().nodes(), NodeSet::of(0));
            before.restore().unwrap();
            assert_eq!(affinity::of_thread(0).unwrap(), Live::Here(all));
            assert_eq!(MemoryPolicy::current().unwrap(), MemoryPolicy::first_touch());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn memory_that_cannot_be_bound_leaves_the_cpus_bound() {
        thread::spawn(|| {
            let all = affinity::of_thread(0).unwrap().here().unwrap();
            let first = CpuSet::of(all.first().unwrap());
            let nodes: NodeSet = "0,1023".parse().unwrap();
            let placement = Placement { cpus: Some(first.clone()), mems: Some(nodes.clone()) };
            let shortfall = placement.bind_current_thread();
            assert!(matches!(shortfall.mems, Some(PolicyError::NotAllowed { nodes: named }) if named == nodes));
            assert!(shortfall.cpus.is_none());
            assert_eq!(affinity::of_thread(0).unwrap(), Live::Here(first));
        })
        .join()
        .unwrap();
    }
}
