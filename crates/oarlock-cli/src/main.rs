//! `oarlock`: see the machine, plan the ranks, run them bound, verify them.

mod cli;
mod failure;
mod flags;
#[allow(dead_code, reason = "the commands that print are being written")]
mod render;

fn main() -> std::process::ExitCode {
    cli::main()
}
