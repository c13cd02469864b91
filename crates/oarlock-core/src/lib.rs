//! What a machine is, what a container asks for, and which CPUs and memory each of its ranks gets.
//!
//! Everything here is a function of its arguments: no file, clock, environment, log or lock.

pub mod explain;
pub mod idset;
pub mod launcher;
pub mod ledger;
pub mod link;
pub mod locality;
pub mod machine;
pub mod pci;
pub mod place;
pub mod plan;
pub mod rankenv;
pub mod refusal;
pub mod request;
pub mod visible;

pub use idset::{CpuSet, NodeSet};
pub use machine::Machine;
pub use plan::{Plan, plan};
pub use refusal::Refusal;
pub use request::Request;
