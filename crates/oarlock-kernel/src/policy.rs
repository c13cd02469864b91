//! The memory policy of the calling thread: `set_mempolicy(2)`. Threads that it starts and programs that it executes
//! inherit it.

use std::io;

use oarlock_core::NodeSet;
use rustix::io::Errno;

use crate::syscall::{self, NODE_WORDS};

/// `MPOL_DEFAULT` and `MPOL_BIND` (`linux/mempolicy.h`).
const MPOL_DEFAULT: i32 = 0;
const MPOL_BIND: i32 = 2;

/// The modes under which pages come from some nodes first (`set_mempolicy(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreferMode {
    /// `MPOL_PREFERRED`, from one.
    One,
    /// `MPOL_PREFERRED_MANY`, from several.
    Many,
}

impl PreferMode {
    /// The mode for these nodes; `None` where this kernel has none, or there are no nodes.
    pub fn of(nodes: &NodeSet) -> Option<Self> {
        Self::with(nodes, &rustix::system::uname().release().to_string_lossy())
    }

    /// `MPOL_PREFERRED_MANY` came with Linux 5.15.
    fn with(nodes: &NodeSet, release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().ok());
        let version = (numbers.next()??, numbers.next()??);
        match nodes.len() {
            0 => None,
            1 => Some(Self::One),
            _ => (version >= (5, 15)).then_some(Self::Many),
        }
    }
}

/// Why a memory policy could not be set or read.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// No page could come from anywhere.
    #[error("memory bound to no node cannot be had: a bind policy names at least one")]
    Empty,
    /// `EPERM`. The kernel itself never says so; a container's default seccomp profile does.
    #[error(
        "the kernel denies set_mempolicy: the container's seccomp profile allows it only together with CAP_SYS_NICE"
    )]
    Denied,
    /// `ENOSYS`.
    #[error("the kernel has no memory policies: it is built without CONFIG_NUMA")]
    Unsupported,
    /// `EINVAL`.
    #[error(
        "memory cannot be bound to nodes {nodes}: one of them does not exist, has no memory or is not in cpuset.mems"
    )]
    NotAllowed {
        /// What was asked for.
        nodes: NodeSet,
    },
    /// Anything else that the kernel says.
    #[error("the memory policy call failed")]
    Kernel(#[source] io::Error),
}

/// The numbers of one `set_mempolicy` call, checked beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPolicy {
    mode: i32,
    mask: [u64; NODE_WORDS],
}

impl MemoryPolicy {
    /// Pages come from these nodes and from nowhere else.
    pub fn bind(nodes: &NodeSet) -> Result<Self, PolicyError> {
        if nodes.is_empty() {
            return Err(PolicyError::Empty);
        }
        Ok(Self { mode: MPOL_BIND, mask: syscall::node_mask(nodes) })
    }

    /// Pages come from the node of the CPU that first touches them.
    pub fn first_touch() -> Self {
        Self { mode: MPOL_DEFAULT, mask: [0; NODE_WORDS] }
    }

    /// The calling thread's policy, to be applied again later.
    pub fn current() -> Result<Self, PolicyError> {
        match syscall::get_mempolicy() {
            Ok((mode, mask)) => Ok(Self { mode, mask }),
            Err(error) => Err(explain(error, &NodeSet::new())),
        }
    }

    /// Makes this the calling thread's policy. Pages that it already has stay where they are.
    pub fn apply(&self) -> Result<(), PolicyError> {
        syscall::set_mempolicy(self.mode, &self.mask).map_err(|error| explain(error, &self.nodes()))
    }

    /// The nodes that the policy names.
    pub fn nodes(&self) -> NodeSet {
        let words = (0_u32..).zip(self.mask);
        words
            .flat_map(|(word, bits)| (0..64).filter(move |bit| bits & (1 << bit) != 0).map(move |bit| word * 64 + bit))
            .collect()
    }
}

fn explain(error: io::Error, nodes: &NodeSet) -> PolicyError {
    match Errno::from_io_error(&error) {
        Some(Errno::PERM) => PolicyError::Denied,
        Some(Errno::NOSYS) => PolicyError::Unsupported,
        Some(Errno::INVAL) => PolicyError::NotAllowed { nodes: nodes.clone() },
        _ => PolicyError::Kernel(error),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_bound_thread_reads_its_policy_back_and_other_threads_have_none() {
        thread::spawn(|| {
            let policy = MemoryPolicy::bind(&NodeSet::of(0)).unwrap();
            policy.apply().unwrap();
            assert_eq!(MemoryPolicy::current().unwrap(), policy);
            MemoryPolicy::first_touch().apply().unwrap();
            assert_eq!(MemoryPolicy::current().unwrap(), MemoryPolicy::first_touch());
        })
        .join()
        .unwrap();
        assert_eq!(MemoryPolicy::current().unwrap(), MemoryPolicy::first_touch());
    }

    #[test]
    fn an_absent_node_is_explained() {
        let error = MemoryPolicy::bind(&NodeSet::of(1023)).unwrap().apply().unwrap_err();
        assert_eq!(
            error.to_string(),
            "memory cannot be bound to nodes 1023: one of them does not exist, has no memory or is not in cpuset.mems"
        );
    }

    #[test]
    fn several_nodes_are_preferred_by_kernels_that_can() {
        let nodes = |text: &str| text.parse::<NodeSet>().unwrap();
        for (list, release, expected) in [
            ("1", "4.18.0-553.el8_10.x86_64", Some(PreferMode::One)),
            ("0-1", "5.14.0-427.el9", None),
            ("0-1", "5.15.0", Some(PreferMode::Many)),
            ("0,3", "6.1.0-40-amd64", Some(PreferMode::Many)),
            ("0-1", "5.9-rc1", None),
            ("0-1", "linux", None),
        ] {
            assert_eq!(PreferMode::with(&nodes(list), release), expected, "{list} on {release}");
        }
        assert_eq!(PreferMode::with(&NodeSet::new(), "6.1.0"), None);
        assert_eq!(PreferMode::of(&NodeSet::of(0)), Some(PreferMode::One));
    }

    #[test]
    fn no_node_is_refused_before_the_kernel_is_asked() {
        assert!(matches!(MemoryPolicy::bind(&NodeSet::new()), Err(PolicyError::Empty)));
    }

    #[test]
    fn denial_names_the_seccomp_profile_and_the_capability() {
        let text = explain(Errno::PERM.into(), &NodeSet::new()).to_string();
        assert!(text.contains("seccomp") && text.contains("CAP_SYS_NICE"), "{text}");
        assert!(matches!(explain(Errno::NOSYS.into(), &NodeSet::new()), PolicyError::Unsupported));
    }
}
