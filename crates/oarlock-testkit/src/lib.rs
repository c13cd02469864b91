//! Machines and generators for the tests of the other crates; a dev-dependency only.

pub mod nvml;
mod sys_tree;

pub use sys_tree::{Siblings, SysDevice, SysTree};
