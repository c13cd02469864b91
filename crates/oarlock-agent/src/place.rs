//! From a container as the runtime creates it to the places of its ranks. Nothing is read or written here.

mod decide;
mod held;

pub(crate) use decide::{Ask, Decision, Placement, decide};
pub(crate) use held::{Given, Held, Knowledge, OwnResources, held};

#[cfg(test)]
mod tests;
