//! `oarlock-hook`: places annotated containers under runtimes without a plugin interface, as their OCI hook, as a filter of
//! their configuration, or as the runtime itself in front of the real one.

mod book;
mod cli;
mod config;
mod container;
mod create_runtime;
mod edit;
mod failure;
mod gpus;
mod host;
mod input;
mod install;
mod known;
mod own;
mod poststop;
mod precreate;
mod prepare;
mod say;
mod wrapper;

fn main() -> std::process::ExitCode {
    cli::main()
}
