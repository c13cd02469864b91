//! `cargo xtask`: what a developer or CI runs.

fn main() {}
