//! The command line: what can be said, and who does it.

use std::io::Write as _;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::capture::Capture;
use crate::companion::Companion;
use crate::exec::Exec;
use crate::failure::Failure;
use crate::output::Format;
use crate::plan::PlanCommand;
use crate::run::Run;
use crate::status::Status;
use crate::topology::Topology;
use crate::unpin::Unpin;
use crate::verify::Verify;

/// Holds every rank of a training job at the CPUs and memory next to its GPU.
#[derive(Debug, Parser)]
#[command(name = "oarlock", version, disable_help_subcommand = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Topology(Topology),
    Plan(PlanCommand),
    Run(Run),
    Exec(Exec),
    Verify(Verify),
    Status(Status),
    Unpin(Unpin),
    Capture(Capture),
    /// Runs the daemon of a host, oarlock-agent, with these arguments
    Agent(Companion),
    /// Runs the OCI hook, oarlock-hook, with these arguments
    Hook(Companion),
}

impl Command {
    /// Whether a refusal is printed as JSON.
    fn json(&self) -> bool {
        match self {
            Self::Topology(command) => command.format == Format::Json,
            Self::Plan(command) => command.format == Format::Json,
            // They refuse nothing.
            _ => false,
        }
    }

    fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Topology(command) => command.run(),
            Self::Plan(command) => command.run(),
            Self::Run(command) => command.run(),
            Self::Exec(command) => command.run(),
            Self::Verify(command) => command.run(),
            Self::Capture(command) => command.run(),
            Self::Status(command) => command.run(),
            Self::Unpin(command) => command.run(),
            Self::Agent(command) => command.run("oarlock-agent"),
            Self::Hook(command) => command.run("oarlock-hook"),
        }
    }
}

/// Parses the call, runs it, and reports its failure, if any, once.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return wrong_call(&error),
    };
    let json = cli.command.json();
    cli.command.run().unwrap_or_else(|failure| failure.report(json))
}

/// clap explains itself over several lines; our errors are one line, and help is no error.
fn wrong_call(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        drop(write!(std::io::stderr(), "{}", error.render()));
        return ExitCode::from(2);
    }
    let text = error.render().to_string();
    let words: Vec<&str> = text.lines().take_while(|line| !line.starts_with("Usage:")).map(str::trim).collect();
    let line = words.join(" ");
    let line = line.trim().trim_start_matches("error: ").replace("  ", " ");
    Failure::usage(line).report(false)
}
