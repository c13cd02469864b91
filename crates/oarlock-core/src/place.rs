//! From a container as its runtime creates it to the places of its ranks: the same for everybody who places containers.

mod decide;
mod held;

pub use decide::{Ask, Decision, Placement, asks_to_refuse, decide};
pub use held::{CDI, Held, MOST_NAMES, Names};

#[cfg(test)]
mod tests;
