//! What the Linux kernel holds for a process: its affinity, memory policy, cgroup, and pages by node.
//!
//! Readers take the root of the tree that they read (`/proc`, `/sys/fs/cgroup`), so that a test gives a folder. What they
//! answer has three shapes: a file that is not there is `None`; one that is there and makes no sense is a [`ReadError`]
//! with its path and text; and a process that ended meanwhile is [`Live::Vanished`], which is neither.
//!
//! Nothing here decides what a process should have.

pub mod affinity;
pub mod cgroup;
pub mod exec_events;
mod folder;
pub mod ledger;
pub mod numa_maps;
pub mod pages;
pub mod placement;
pub mod policy;
pub mod presence;
pub mod proc;
pub mod rank_cgroup;
pub mod spawn;
pub mod status;
mod syscall;

pub use folder::ReadError;
pub use proc::{Live, Proc, Process};
