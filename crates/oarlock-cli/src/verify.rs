//! `oarlock verify`: what every thread and page of a job really has, beside what was planned.

mod containers;
mod judge;
mod look;
mod report;
mod text;

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use oarlock_core::Machine;
use oarlock_discovery::sysfs::Tree;
use oarlock_kernel::Proc;

use crate::failure::Failure;
use crate::host::{self, HostFlags, Which};
use crate::output::{TextOrJson, print, style};
use look::Authority;
use report::Report;

/// Shows where the threads and pages of processes, or of containers, are, and whether that is as planned
#[derive(Debug, Args)]
#[command(
    after_help = "What was planned is in the ledger for containers. For processes it is read from the environment of each \
                  (LOCAL_RANK and OARLOCK_RANK_CPUS and so on, as oarlock run, oarlock exec and the agent set them). \
                  Exit status: 0 all as planned, 1 something is not."
)]
pub(crate) struct Verify {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    host: HostFlags,
    /// text or json
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    format: TextOrJson,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Process ids; all their descendants are looked at too
    #[arg(long, value_name = "PID", num_args = 1.., value_delimiter = ',')]
    pid: Vec<u32>,
    /// A managed container, by its id or the beginning of it
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// The managed containers of a pod
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = host::pod)]
    pod: Option<Which>,
    /// All managed containers of this host
    #[arg(long)]
    all: bool,
}

impl Verify {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        // It says which nodes CPUs are on: without it, only a planned memory tells what is near.
        let machine = Tree::open("/".as_ref()).and_then(|tree| tree.read()).ok().map(|found| found.machine);
        let which = match (self.what.container, self.what.pod) {
            (Some(id), _) => Some(Which::Container(id)),
            (None, Some(pod)) => Some(pod),
            (None, None) => self.what.all.then_some(Which::All),
        };
        let report = match which {
            Some(which) => containers::report(&self.host.open()?, &which, machine.as_ref())?,
            None => of_processes(&self.what.pid, machine.as_ref())?,
        };
        match self.format {
            TextOrJson::Text => print(&text::text(&report, style()))?,
            TextOrJson::Json => print(&serde_json::to_string(&report).map_err(anyhow::Error::new)?)?,
        }
        Ok(if report.as_planned { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

fn of_processes(asked: &[u32], machine: Option<&Machine>) -> Result<Report, Failure> {
    let proc = Proc::open("/proc".as_ref()).map_err(anyhow::Error::new)?;
    let mut pids = Vec::new();
    let mut seen = BTreeSet::new();
    for &pid in asked {
        if proc.process(pid).map_err(anyhow::Error::new)?.is_none() {
            return Err(Failure::Failed(anyhow::anyhow!("process {pid} does not exist")));
        }
        let family = proc.descendants(pid).map_err(anyhow::Error::new)?;
        pids.extend(std::iter::once(pid).chain(family).filter(|&pid| seen.insert(pid)));
    }
    // All are looked at before any is judged, so that they are seen at about the same time.
    let observed: Vec<_> = pids.into_iter().map(|pid| look::look(&proc, pid, Authority::Environment)).collect();
    Ok(Report::of_processes(observed.iter().map(|seen| judge::judge(seen, machine)).collect()))
}
