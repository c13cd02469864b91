//! `oarlock`: see the machine, plan the ranks, run them bound, verify them.

mod cli;
mod failure;
mod flags;

fn main() -> std::process::ExitCode {
    cli::main()
}
