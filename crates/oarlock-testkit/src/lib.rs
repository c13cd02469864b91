//! Machines and generators for the tests of the other crates; a dev-dependency only.

#[cfg(feature = "api-server")]
#[expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a stand-in that cannot go on fails its test")]
pub mod api_server;
#[expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "what is no text or was killed fails its test")]
mod call;
#[cfg(feature = "cri")]
pub mod cri;
#[cfg(feature = "kubelet")]
#[expect(clippy::unwrap_used, reason = "a stand-in that cannot go on fails its test")]
pub mod kubelet;
pub mod nvml;
#[cfg(feature = "runtime")]
#[expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a stand-in that cannot go on fails its test")]
pub mod runtime;
mod sys_tree;

pub use call::Call;
pub use sys_tree::{Siblings, SysDevice, SysTree};
