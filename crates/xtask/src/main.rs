//! `cargo xtask`: what a developer or CI runs.

mod bench;
mod build;
mod chart;
mod command;
mod debian;
mod demo;
mod fuzz;
mod generate;
mod image;
mod launchers;
mod linked;
mod packages;
mod progress;
mod release;
mod test;
mod tools;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// What a developer or CI runs.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Write anew what is generated: the Rust code of proto/, the chart's schema, its README's table, manifests/
    Generate {
        /// Write nothing, and fail where the committed code is not what would be written
        #[arg(long)]
        check: bool,
    },
    /// Format, lints, every test, and the emulated machines
    Test {
        /// Leave out what needs emulated machines
        #[arg(long)]
        fast: bool,
    },
    /// Boot an emulated machine, run bound ranks in it, verify them, and draw the plan into oarlock-demo.svg
    Demo,
    /// Measure, and print the table of goals and measurements
    Bench {
        /// The rows of the OCI hook alone
        #[arg(long)]
        hook: bool,
    },
    /// Run every fuzz target for a while
    Fuzz {
        /// How long each runs
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Build the container image, without any registry, and print where its archive is
    Image,
    /// Make all that is given away of a version, from its tag: programs, image, chart, bill of materials, checksums
    Release,
    /// Fetch helm and kubectl where they are not there yet, and print their folder
    Tools,
    /// Run ranks under torchrun on this host, and look at where they are
    Launchers,
    /// Boot an emulated machine and run a scenario in it, or all that its shape names
    Vm {
        /// List the shapes and their scenarios
        #[arg(long)]
        list: bool,
        /// A file of tests/vm/shapes, without its ending
        #[arg(required_unless_present = "list")]
        shape: Option<String>,
        /// A file of tests/vm/scenarios, without its ending; parts of a container runtime may follow, as in pods+crun
        scenario: Option<String>,
    },
}

impl Task {
    fn run(self) -> Result<()> {
        match self {
            Self::Generate { check } => generate::run(check),
            Self::Test { fast } => test::run(fast),
            Self::Demo => demo::run(),
            Self::Bench { hook } => bench::run(hook),
            Self::Fuzz { seconds } => fuzz::run(seconds),
            Self::Image => image::build().map(|archive| println!("{}", archive.display())),
            Self::Release => release::run().map(|folder| println!("{}", folder.display())),
            Self::Tools => tools::folder().map(|folder| println!("{}", folder.display())),
            Self::Launchers => launchers::run(),
            Self::Vm { shape: Some(shape), scenario, list: false } => vm::run_one(&shape, scenario.as_deref()),
            Self::Vm { .. } => vm::list(),
        }
    }
}

/// The repository's root.
pub(crate) fn workspace() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).map_or_else(|| own.clone(), PathBuf::from)
}

fn main() -> ExitCode {
    match Cli::parse().task.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
