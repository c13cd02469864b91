//! The stage `poststop`: the container is gone, and so is what was written of it.

use std::io::Read;

use oarlock_kernel::cgroup::Hierarchy;

use crate::book::Book;
use crate::cli::Outcome;
use crate::failure::Failure;
use crate::host::Host;
use crate::input;
use crate::say::log;

/// Does the stage, with the container's state on `stdin`. Nothing that goes wrong here has a say in the container's end.
pub(crate) fn run(host: &Host, stdin: impl Read) -> Outcome {
    let cleaned = input::state(stdin).and_then(|state| clean(host, state.id()));
    Outcome::of(cleaned, false)
}

fn clean(host: &Host, id: &str) -> Result<(), Failure> {
    let boot = host.boot()?;
    let Some(entry) = Book::open(host, &boot)?.remove(id)? else { return Ok(()) };
    // The runtime removes the tree as a rule, before or after this.
    if let Some(cgroup) = entry.cgroup
        && let Ok(Some(hierarchy)) = Hierarchy::open(&host.cgroup_root())
        && let Ok(Some(ranks)) = hierarchy.ranks_of(&cgroup)
        && let Err(error) = ranks.let_go()
    {
        log(&format!("container {id}: its rank cgroups are left to the runtime: {error}"));
    }
    Ok(())
}
