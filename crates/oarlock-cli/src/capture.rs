//! `oarlock capture`: this machine as a machine file.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use oarlock_discovery::machine_file;

use crate::failure::Failure;
use crate::output::{note, print};
use crate::source::SourceFlags;

/// Writes the machine as a machine file, from which every map can be planned elsewhere
#[derive(Debug, Args)]
pub(crate) struct Capture {
    #[command(flatten)]
    source: SourceFlags,
    /// The file to write [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Capture {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let found = self.source.read()?;
        for warning in &found.warnings {
            note(warning);
        }
        let text = machine_file::write(&found.machine, &found.extra);
        match &self.output {
            None => print(&text)?,
            Some(path) => std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
