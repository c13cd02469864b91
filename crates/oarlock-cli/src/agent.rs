//! `oarlock agent`: runs `oarlock-agent`, found beside this program or on the PATH.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Args;

use crate::failure::Failure;

const PROGRAM: &str = "oarlock-agent";

/// Runs the daemon of a host, oarlock-agent, with these arguments
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Agent {
    /// The arguments of oarlock-agent
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

impl Agent {
    /// Returns only when the program could not be executed.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let beside = env::current_exe().ok().map(|own| own.with_file_name(PROGRAM)).filter(|path| path.is_file());
        let program = beside.unwrap_or_else(|| PathBuf::from(PROGRAM));
        let error = Command::new(&program).args(self.arguments).exec();
        Err(Failure::command(program.as_os_str(), error))
    }
}
