//! `oarlock`: see the machine, plan the ranks, run them bound, verify them.

fn main() {}
