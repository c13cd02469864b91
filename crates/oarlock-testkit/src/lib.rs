//! Machines and generators for the tests of the other crates; a dev-dependency only.
