//! `oarlock verify`: what every thread and page of a job really has, beside what was planned.

mod judge;
mod look;
mod report;
mod text;

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use oarlock_discovery::sysfs::Tree;
use oarlock_kernel::Proc;

use crate::failure::Failure;
use crate::output::{TextOrJson, print, style};
use report::Report;

/// Shows where the threads and pages of processes and their descendants are, and whether that is as planned
#[derive(Debug, Args)]
#[command(
    after_help = "What was planned is read from the environment of each process (LOCAL_RANK and OARLOCK_RANK_CPUS and so on, \
                  as oarlock run, oarlock exec and the agent set them). Exit status: 0 all as planned, 1 something is not."
)]
pub(crate) struct Verify {
    /// Process ids; all their descendants are looked at too
    #[arg(long, value_name = "PID", required = true, num_args = 1.., value_delimiter = ',')]
    pid: Vec<u32>,
    /// text or json
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    format: TextOrJson,
}

impl Verify {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let proc = Proc::open("/proc".as_ref()).map_err(anyhow::Error::new)?;
        let mut pids = Vec::new();
        let mut seen = BTreeSet::new();
        for &pid in &self.pid {
            if proc.process(pid).map_err(anyhow::Error::new)?.is_none() {
                return Err(Failure::Failed(anyhow::anyhow!("process {pid} does not exist")));
            }
            let family = proc.descendants(pid).map_err(anyhow::Error::new)?;
            pids.extend(std::iter::once(pid).chain(family).filter(|&pid| seen.insert(pid)));
        }
        let observed: Vec<_> = pids.into_iter().map(|pid| look::look(&proc, pid)).collect();
        // It says which nodes CPUs are on: without it, only a planned memory tells what is near.
        let machine = Tree::open("/".as_ref()).and_then(|tree| tree.read()).ok().map(|found| found.machine);
        let report = Report::new(observed.iter().map(|seen| judge::judge(seen, machine.as_ref())).collect());
        match self.format {
            TextOrJson::Text => print(&text::text(&report, style()))?,
            TextOrJson::Json => print(&serde_json::to_string(&report).map_err(anyhow::Error::new)?)?,
        }
        Ok(if report.as_planned { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}
