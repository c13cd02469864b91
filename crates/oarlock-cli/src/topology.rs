//! `oarlock topology`: the machine, for people, programs and pages.

use std::process::ExitCode;

use clap::Args;
use oarlock_core::explain::Warning;
use oarlock_discovery::machine_file;

use crate::failure::Failure;
use crate::output::{Format, print, style};
use crate::render;
use crate::source::SourceFlags;

/// Shows the machine: nodes, CPUs, caches, distances, GPUs
#[derive(Debug, Args)]
pub(crate) struct Topology {
    #[command(flatten)]
    source: SourceFlags,
    /// text, json (a machine file) or svg
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub(crate) format: Format,
}

impl Topology {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let found = self.source.read()?;
        let mut warnings = found.warnings.clone();
        if found.machine.cores_assumed {
            warnings.push(Warning::CoresAssumed.to_string());
        }
        let text = match self.format {
            Format::Text => render::text::topology(
                &found.machine,
                found.allowed.cpus.as_ref(),
                found.allowed.mems.as_ref(),
                &warnings,
                style(),
            ),
            Format::Svg => render::svg::machine(&found.machine),
            Format::Json => machine_file::write(&found.machine, &found.extra),
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}
