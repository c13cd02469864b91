//! The machine: as the agent keeps it for this boot, else as the kernel's files tell it now.

use std::time::{Duration, Instant};

use oarlock_core::{CpuSet, Machine};
use oarlock_discovery::{Found, machine_file, sysfs::Tree};

use crate::failure::Failure;
use crate::host::Host;
use crate::input;
use crate::say::log;

/// The name of the agent's machine file.
const NAME: &str = "machine.json";

/// What is known of the machine.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) machine: Machine,
    /// CPUs that the system keeps.
    pub(crate) reserved: CpuSet,
}

/// The machine. `boot` is this boot: a file of another may describe another machine.
pub(crate) fn machine(host: &Host, boot: &str) -> Result<Known, Failure> {
    let found = match &host.machine {
        Some(path) => machine_file::parse(&input::file(path)?, path)?,
        None => match kept(host, boot) {
            Ok(found) => found,
            Err(why) => {
                let (found, took) = discover(host)?;
                log(&format!("read the machine in {:.1} ms: {why}", took.as_secs_f64() * 1e3));
                found
            }
        },
    };
    let stated = found.extra.get("reserved_cpus").and_then(|cpus| cpus.as_str()?.parse().ok());
    let reserved = host.reserved_cpus.clone().or(stated).unwrap_or_default();
    Ok(Known { machine: found.machine, reserved })
}

/// The agent's file, or why it is of no use.
fn kept(host: &Host, boot: &str) -> Result<Found, String> {
    let path = host.run_dir.join(NAME);
    let bytes = input::file(&path).map_err(|error| error.line())?;
    let found = machine_file::parse(&bytes, &path).map_err(|error| Failure::from(error).line())?;
    match found.extra.get("boot").and_then(serde_json::Value::as_str) {
        Some(of) if of == boot => Ok(found),
        _ => Err(format!("\"{}\" is not of this boot", path.display())),
    }
}

fn discover(host: &Host) -> Result<(Found, Duration), Failure> {
    let began = Instant::now();
    // Opening NVML can take seconds; the files tell the names of its GPUs too.
    let found = Tree::open(&host.host_root)?.read()?;
    Ok((found, began.elapsed()))
}
