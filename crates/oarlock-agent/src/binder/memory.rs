//! The memory that a rank has already when it is found.

use oarlock_core::NodeSet;
use oarlock_kernel::cgroup::Hierarchy;
use oarlock_kernel::rank_cgroup::{RankCgroupError, RankCgroups, Wall};
use oarlock_kernel::{Live, Process};

/// A rank that is found with more than this keeps it where it is. While the kernel moves pages into a wall, a second or so
/// for each GiB, no cgroup of the host can be changed, and no container be made.
const MOST_MOVED: u64 = 2 << 30;

/// How often, at the looks after it was taken in, pages are sent after a rank that the kernel was busy with at that moment.
pub(super) const GATHERINGS: u8 = 2;

/// Whether the process has so much memory that it stays where it is. In its own wall it stays anyway.
pub(super) fn stays(
    ranks: &RankCgroups<'_>,
    rank: u32,
    wall: &Wall,
    process: &Process,
) -> Result<bool, RankCgroupError> {
    let Some(mems) = &wall.mems else { return Ok(false) };
    let there = match ranks.rank(rank)? {
        Some(cgroup) => cgroup.mems()?,
        None => None,
    };
    if there.as_ref() == Some(mems) {
        return Ok(false);
    }
    Ok(process.resident()?.here().is_some_and(|bytes| bytes > MOST_MOVED))
}

/// Brings the pages with a rank's arguments and environment back, which may have gone to whoever read these
/// ([`oarlock_kernel::pages`]).
pub(super) fn bring_strings(mems: &NodeSet, process: &Process) {
    match process.bring_strings(mems) {
        Ok(Live::Here(0) | Live::Vanished) => {}
        Ok(Live::Here(pages)) => tracing::debug!(pid = process.pid(), pages, "pages were brought back to a rank"),
        Err(error) => tracing::debug!("{:#}", anyhow::Error::new(error)),
    }
}

/// Sends the pages of a rank after it that were left behind when it was taken in.
pub(super) fn gather(hierarchy: &Hierarchy, cgroup: &str, mems: &NodeSet, process: &Process) {
    let all = hierarchy.cgroup(cgroup).ok().flatten().and_then(|cgroup| cgroup.mems_effective().ok().flatten());
    let others = all.unwrap_or_default().difference(mems);
    let is_small = matches!(process.resident(), Ok(Live::Here(bytes)) if bytes <= MOST_MOVED);
    if others.is_empty() || !is_small {
        return;
    }
    match process.move_pages(&others, mems) {
        Ok(Live::Here(left)) => tracing::debug!(pid = process.pid(), left, "pages were sent after a rank"),
        Ok(Live::Vanished) => {}
        Err(error) => tracing::debug!("{:#}", anyhow::Error::new(error)),
    }
}
