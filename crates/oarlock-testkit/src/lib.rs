//! Machines and generators for the tests of the other crates; a dev-dependency only.

mod sys_tree;

pub use sys_tree::{Siblings, SysDevice, SysTree};
