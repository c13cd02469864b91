//! `oarlock agent`, `oarlock hook`: programs of their own, found beside this one or on the PATH.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Args;

use crate::failure::Failure;

/// The arguments of another program, all of them.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Companion {
    /// The arguments of that program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

impl Companion {
    /// Becomes `program`: returns only when it could not be executed.
    pub(crate) fn run(self, program: &str) -> Result<ExitCode, Failure> {
        let beside = env::current_exe().ok().map(|own| own.with_file_name(program)).filter(|path| path.is_file());
        let program = beside.unwrap_or_else(|| PathBuf::from(program));
        let error = Command::new(&program).args(self.arguments).exec();
        Err(Failure::command(program.as_os_str(), error))
    }
}
