//! The stage `createRuntime` (and `prestart`, which came before it): the container's cgroup and first process are there, its
//! configuration was read. What can still be given is the cpuset of the cgroup; and what the ledger says of the container,
//! from which an agent binds its ranks.

use std::io::Read;

use oarlock_core::place::asks_to_refuse;
use oarlock_core::{CpuSet, NodeSet};
use oarlock_kernel::cgroup::{Hierarchy, path_named};
use oarlock_kernel::ledger::{ContainerSets, Entry, Source};
use oarlock_kernel::{Live, Proc};
use oci_spec::runtime::State;

use crate::book::Book;
use crate::cli::Outcome;
use crate::config::{self, Config};
use crate::container::Container;
use crate::failure::Failure;
use crate::host::Host;
use crate::say::say;
use crate::{input, known, prepare};

/// Does the stage, with the container's state on `stdin`.
pub(crate) fn run(host: &Host, stdin: impl Read) -> Outcome {
    let state = match input::state(stdin) {
        Ok(state) => state,
        Err(failure) => return Outcome::of(Err(failure), false),
    };
    let annotations = state.annotations().iter().flatten().collect::<Vec<_>>();
    // A runtime that tells annotations tells all that the configuration has.
    if state.annotations().is_some() && !config::asks(annotations.iter().map(|(key, _)| *key)) {
        return Outcome::Done;
    }
    let refuses = asks_to_refuse(&annotations.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect());
    let config = match read_config(&state) {
        Ok(config) => config,
        Err(failure) => return Outcome::of(Err(failure), refuses),
    };
    let refuses = refuses || asks_to_refuse(config.annotations());
    let container = Container { id: state.id().clone(), config };
    if !container.is_asking() {
        return Outcome::Done;
    }
    Outcome::of(place(host, &container, state.pid().unwrap_or_default()), refuses)
}

fn read_config(state: &State) -> Result<Config, Failure> {
    let path = input::config_of(state.bundle())?;
    Config::parse(&input::file(&path)?, &format!("\"{}\"", path.display()))
}

fn place(host: &Host, container: &Container, pid: i32) -> Result<(), Failure> {
    host.check()?;
    let root = host.cgroup_root();
    let hierarchy = Hierarchy::open(&root)?.ok_or(Failure::NoCgroup2 { path: root })?;
    place_in(host, &hierarchy, &Proc::open(&host.proc())?, container, pid)
}

fn place_in(host: &Host, hierarchy: &Hierarchy, proc: &Proc, container: &Container, pid: i32) -> Result<(), Failure> {
    let cgroup = cgroup_of(proc, container, pid)?;
    let boot = host.boot()?;
    // Nobody is to wait for this while the ledger is locked; where the entry is there already, it is not needed.
    let is_new = host.ledger().reader(&*boot).read()?.get(&container.id).is_none();
    let known = if is_new { Some(known::machine(host, &boot)?) } else { None };
    let mut book = Book::open(host, &boot)?;
    let contents = book.contents(Some(hierarchy))?;
    let entry = match contents.get(&container.id) {
        // The agent has placed it, by the runtime's plugin interface.
        Some(entry) if entry.source == Source::Nri => return Ok(()),
        // Its configuration was edited a moment ago.
        Some(entry) if entry.cgroup.is_none() => Entry { cgroup: Some(cgroup.clone()), ..entry.clone() },
        _ => {
            let within = prepare::in_effect(hierarchy, &cgroup);
            let known = known.map_or_else(|| known::machine(host, &boot), Ok)?;
            let Some(placement) = prepare::place(host, &known, contents, container, within)? else { return Ok(()) };
            prepare::entry(container, &placement, &boot, Some(cgroup.clone()))
        }
    };
    // First what an agent, or whoever cleans up, goes by; then what is done.
    book.put(&entry)?;
    if let Err(failure) = set(hierarchy, &cgroup, &entry.container) {
        book.remove(&container.id)?;
        return Err(failure);
    }
    drop(book);
    for warning in &entry.warnings {
        say(&format!("container {}: {warning}", container.id));
    }
    if !host.has_agent() && !entry.ranks.ranks.is_empty() {
        let sets = sets_in_words(&entry.container);
        say(&format!(
            "container {}: bound as a whole ({sets}): no agent runs on this host that binds its ranks",
            container.id
        ));
    }
    Ok(())
}

/// The cgroup of the first process, which has to be the container's: a runtime names it by the path in the configuration, or
/// by the container's id.
fn cgroup_of(proc: &Proc, container: &Container, pid: i32) -> Result<String, Failure> {
    let not_its = |why: String| Failure::NotItsProcess { pid, why };
    let number = u32::try_from(pid).ok().filter(|&number| number > 0);
    let Some(number) = number else { return Err(not_its("a process id is a positive number".to_owned())) };
    let Some(process) = proc.process(number)? else { return Err(not_its("there is no such process".to_owned())) };
    let Live::Here(membership) = process.cgroup()? else { return Err(not_its("it has ended".to_owned())) };
    let Some(path) = membership.and_then(|membership| membership.unified) else {
        return Err(not_its("it is in no cgroup of v2".to_owned()));
    };
    let named = container.config.cgroups_path().map(path_named);
    let name = named.as_deref().and_then(|named| named.rsplit('/').next()).filter(|name| !name.is_empty());
    let is_its = |part: &str| Some(part) == name || names(part, &container.id);
    if path.split('/').any(is_its) {
        return Ok(path);
    }
    let expected = name.map_or_else(|| container.id.clone(), str::to_owned);
    Err(not_its(format!("it is in the cgroup \"{path}\", where one named \"{expected}\" is expected")))
}

/// Runtimes name a container's cgroup by its id, alone or as `RUNTIME-ID.scope`.
fn names(part: &str, id: &str) -> bool {
    let scope = part.strip_suffix(".scope").unwrap_or(part);
    !id.is_empty() && (scope == id || scope.strip_suffix(id).is_some_and(|rest| rest.ends_with('-')))
}

/// Gives the cgroup its cpuset, where it has another.
fn set(hierarchy: &Hierarchy, path: &str, sets: &ContainerSets) -> Result<(), Failure> {
    // A container that is gone already needs nothing.
    let Some(cgroup) = hierarchy.cgroup(path)? else { return Ok(()) };
    let lacks = |what| Failure::NoController { path: cgroup.path().to_owned(), what };
    if !sets.cpus.is_empty() {
        let has = cgroup.cpus()?.ok_or_else(|| lacks("cpus"))?;
        if has != sets.cpus {
            hierarchy.set_cpus(&cgroup, &sets.cpus)?;
        }
    }
    if !sets.mems.is_empty() {
        let has = cgroup.mems()?.ok_or_else(|| lacks("memory nodes"))?;
        if has != sets.mems {
            hierarchy.set_mems(&cgroup, &sets.mems)?;
        }
    }
    Ok(())
}

fn sets_in_words(sets: &ContainerSets) -> String {
    let words = |what: &str, set: String| if set.is_empty() { None } else { Some(format!("{what} {set}")) };
    let (cpus, mems): (&CpuSet, &NodeSet) = (&sets.cpus, &sets.mems);
    let parts: Vec<String> =
        [words("cpus", cpus.to_string()), words("memory of nodes", mems.to_string())].into_iter().flatten().collect();
    if parts.is_empty() { "its cpuset is left alone".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests;
