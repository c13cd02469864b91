//! The command line: by stage of the container's life, or by the name that this program was called by.

use std::any::Any;
use std::io::{Write as _, stderr, stdin};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::failure::Failure;
use crate::host::Host;
use crate::install::{Install, Uninstall};
use crate::say::{one_line, say};
use crate::wrapper::{self, Wrapper};
use crate::{create_runtime, poststop, precreate};

/// Places annotated containers under runtimes without a plugin interface.
#[derive(Debug, Parser)]
#[command(name = "oarlock-hook", version, disable_help_subcommand = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// As the OCI hook of this stage: gives the container's cgroup its cpuset
    #[command(name = "createRuntime", alias = "prestart")]
    CreateRuntime(Host),
    /// As the OCI hook of this stage: forgets the container
    Poststop(Host),
    /// As podman's filter: a configuration from standard input to standard output, with rank environment and cpuset
    Precreate(Host),
    /// As an OCI runtime: edits the configuration at create, and hands everything to the real runtime
    Runtime(Wrapper),
    Install(Install),
    Uninstall(Uninstall),
}

/// What became of a stage.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// What was asked for, which may be nothing.
    Done,
    /// The container goes on without a place.
    Unbound(Failure),
    /// It does not start.
    Refused(Failure),
}

impl Outcome {
    /// `refuses` where the container asks not to start without its place.
    pub(crate) fn of(result: Result<(), Failure>, refuses: bool) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(failure) if refuses => Self::Refused(failure),
            Err(failure) => Self::Unbound(failure),
        }
    }

    fn report(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::Unbound(failure) => {
                say(&format!("the container runs unbound: {}", failure.line()));
                ExitCode::SUCCESS
            }
            Self::Refused(failure) => {
                say(&failure.line());
                ExitCode::FAILURE
            }
        }
    }
}

/// Parses the call, and does it.
pub(crate) fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(real) = wrapper::real_named(&name) {
        return wrapper::by_name(real, words.collect());
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return wrong_call(&error),
    };
    match cli.command {
        Command::CreateRuntime(host) => stage(|| create_runtime::run(&host, stdin())).report(),
        Command::Poststop(host) => stage(|| poststop::run(&host, stdin())).report(),
        Command::Precreate(host) => stage(|| precreate::run(&host, stdin())).report(),
        Command::Runtime(wrapper) => wrapper.run(),
        Command::Install(install) => Outcome::of(install.run(), true).report(),
        Command::Uninstall(uninstall) => Outcome::of(uninstall.run(), true).report(),
    }
}

/// A fault of this program breaks no container.
fn stage(run: impl FnOnce() -> Outcome) -> Outcome {
    caught(run).unwrap_or_else(Outcome::Unbound)
}

/// The panic of this program, if any, as a failure.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, Failure> {
    std::panic::set_hook(Box::new(|_| {}));
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| Failure::Panic(words(&*panic)))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no words".to_owned())
}

/// clap explains itself over several lines; our errors are one line, and help is no error.
fn wrong_call(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    let words: Vec<&str> = text.lines().take_while(|line| !line.starts_with("Usage:")).map(str::trim).collect();
    let line = one_line(words.join(" ").trim().trim_start_matches("error: "));
    drop(writeln!(stderr(), "oarlock-hook: {line}"));
    ExitCode::from(2)
}
