//! `oarlock`: see the machine, plan the ranks, run them bound, verify them, here and in containers.

mod capture;
mod cli;
mod companion;
mod exec;
mod failure;
mod flags;
mod host;
mod job;
mod output;
mod plan;
mod render;
mod run;
mod source;
mod status;
mod topology;
mod unpin;
mod verify;
mod workload;

fn main() -> std::process::ExitCode {
    cli::main()
}
