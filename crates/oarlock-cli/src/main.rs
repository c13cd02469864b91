//! `oarlock`: see the machine, plan the ranks, run them bound, verify them.

mod capture;
mod cli;
mod failure;
mod flags;
mod output;
mod plan;
mod render;
mod source;
mod topology;
mod workload;

fn main() -> std::process::ExitCode {
    cli::main()
}
