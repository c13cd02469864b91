//! Ranks that are held, looked at again: what somebody changed is put back.

use oarlock_kernel::Live;
use oarlock_kernel::cgroup::Hierarchy;
use oarlock_kernel::rank_cgroup::{RankCgroupError, Wall};

use super::{Binding, Bound, Told, memory};

impl Binding {
    /// Checks every rank of every ward against its plan.
    pub(crate) fn check_all(&mut self) {
        for id in self.wards.keys().cloned().collect::<Vec<_>>() {
            self.check(&id);
        }
    }

    /// Checks the ranks of a ward: a wall that somebody changed is put back, a rank that bound itself is told.
    pub(crate) fn check(&mut self, id: &str) {
        let Some(state) = self.wards.get_mut(id) else { return };
        for (rank, Bound { pid, place, stays, .. }) in state.bound.clone() {
            let Some(mut wall) = state.ward.wall(place) else { continue };
            if stays {
                wall.mems = None;
            }
            if let Some(hierarchy) = self.hierarchy.as_ref().filter(|_| !state.by_affinity) {
                match mend(hierarchy, &state.ward.cgroup, rank, &wall) {
                    Ok(None) => {}
                    Ok(Some(what)) => {
                        let _ = self.tell.send(Told::Drifted { id: id.to_owned(), rank, what });
                    }
                    Err(RankCgroupError::NotGiven { .. }) => {
                        let _ = self.tell.send(Told::Outside { id: id.to_owned() });
                        return;
                    }
                    Err(error) => {
                        let why = anyhow::Error::new(error);
                        state.say(&self.tell, format!("rank {rank} cannot be checked: {why:#}"));
                    }
                }
            }
            let Some(process) = self.proc.process(pid).ok().flatten() else { continue };
            if let Some(mems) = wall.mems.as_ref().filter(|_| !state.by_affinity) {
                memory::bring_strings(mems, &process);
            }
            let status = process.status().ok().and_then(Live::here);
            if let (Some(has), Some(cpus)) = (status.and_then(|status| status.cpus_allowed), &wall.cpus)
                && has != *cpus
                && has.is_subset(cpus)
                && state.has_room_for(&format!("itself {rank} {has}"))
            {
                state.said.insert(format!("itself {rank} {has}"));
                let _ = self.tell.send(Told::BoundItself { id: id.to_owned(), rank, cpus: has });
            }
        }
    }
}

/// Puts the wall of a rank back; says what was there instead.
fn mend(hierarchy: &Hierarchy, cgroup: &str, rank: u32, wall: &Wall) -> Result<Option<String>, RankCgroupError> {
    let Some(ranks) = hierarchy.ranks_of(cgroup)? else { return Ok(None) };
    let Some(there) = ranks.rank(rank)? else { return Ok(None) };
    let (cpus, mems) = (there.cpus()?.unwrap_or_default(), there.mems()?.unwrap_or_default());
    ranks.hold(rank, wall)?;
    let wanted = (wall.cpus.clone().unwrap_or_default(), wall.mems.clone().unwrap_or_default());
    Ok(((&cpus, &mems) != (&wanted.0, &wanted.1)).then(|| format!("cpus \"{cpus}\" and memory \"{mems}\"")))
}
