//! Machines and generators for the tests of the other crates; a dev-dependency only.

#[cfg(feature = "kubelet")]
#[expect(clippy::unwrap_used, reason = "a stand-in that cannot go on fails its test")]
pub mod kubelet;
pub mod nvml;
mod sys_tree;

pub use sys_tree::{Siblings, SysDevice, SysTree};
