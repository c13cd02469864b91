//! `oarlock`: see the machine, plan the ranks, run them bound, verify them.

mod cli;
mod failure;
mod flags;
#[allow(dead_code, reason = "the commands that print are being written")]
mod render;
#[allow(dead_code, reason = "the command that reads files of objects is being written")]
mod workload;

fn main() -> std::process::ExitCode {
    cli::main()
}
