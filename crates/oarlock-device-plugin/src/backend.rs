//! What a resource is to the protocol: its devices, which of them belong together, and what a container gets for them.

use std::sync::Arc;

use oarlock_core::NodeSet;
use tokio::sync::watch;

use crate::proto::v1beta1::ContainerAllocateResponse;

/// One device of a resource, as kubelet should see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name in every later call; at most 63 characters.
    pub id: String,
    /// Whether kubelet may give it away.
    pub healthy: bool,
    /// The NUMA nodes it is near, CPU-bearing ones only; empty where that is not known, so that kubelet has no
    /// preference.
    pub nodes: NodeSet,
}

/// What a container gets for its devices, in the protocol's own form. kubelet keeps it and replays it when the
/// container restarts, so nothing in it may go stale.
pub type Allocation = ContainerAllocateResponse;

/// Why devices cannot be given to a container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// Ids that name no device of the resource.
    #[error("unknown device{}: {}", if .0.len() == 1 { "" } else { "s" }, few(.0))]
    Unknown(Vec<String>),
    /// The devices exist, and cannot be had together or now.
    #[error("{0}")]
    Refused(String),
}

/// The answers for one resource. None of them may block for long: kubelet admits pods while it waits.
pub trait Backend: Send + Sync + 'static {
    /// All devices, now and at every change. A device that is gone is absent; one that is lost or faulty is there, and
    /// not healthy.
    fn devices(&self) -> watch::Receiver<Arc<Vec<Device>>>;

    /// Which `size` of the `available` ids to take, `must_include` among them. The answer is advice: what is not
    /// available is dropped from it, and an answer without `must_include` is replaced by one in the given order.
    fn prefer(&self, available: &[String], must_include: &[String], size: usize) -> Vec<String>;

    /// What one container gets for `ids`, which are distinct, at least one, and on the list of [`Backend::devices`].
    /// Called for several pods at once; must leave no trace, since kubelet does not tell when devices are given back.
    fn allocate(&self, ids: &[String]) -> Result<Allocation, AllocateError>;
}

/// The first few of many names.
fn few(names: &[String]) -> String {
    const MOST: usize = 8;
    let first = names.iter().take(MOST).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MOST) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
