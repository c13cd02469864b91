//! `oarlock`: see the machine, plan the ranks, run them bound, verify them.

mod agent;
mod capture;
mod cli;
mod exec;
mod failure;
mod flags;
mod job;
mod output;
mod plan;
mod render;
mod run;
mod source;
mod topology;
mod verify;
mod workload;

fn main() -> std::process::ExitCode {
    cli::main()
}
