//! Which GPUs a container holds, by the device nodes and the environment that its configuration gives it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use oarlock_core::Machine;
use oarlock_core::pci::PciAddress;
use oarlock_core::place::{Held, Names};
use oarlock_core::request::GpuRef;
use oci_spec::runtime::LinuxDevice;

use crate::config::Config;
use crate::host::Host;

/// What the agent's device plugin gives a container.
const OWN_GPUS: &str = "OARLOCK_GPUS";

/// What a container holds. Its device nodes are the truth where it has some of GPUs; an environment that names a part of
/// these (a privileged container has all) narrows them, and counts where there are none.
pub(crate) fn held(host: &Host, machine: &Machine, config: &Config) -> Held {
    let variables = config.variables();
    let env = |key: &str| variables.get(key).copied();
    let names = Names { machine, slices: &BTreeMap::new() };
    let annotations = config.annotations().iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let mut held = names.by_environment(env(OWN_GPUS), &env, annotations);
    let devices = by_devices(host, machine, config.devices());
    let within = |gpu: &GpuRef| matches!(gpu, GpuRef::Index(index) if devices.contains(index));
    if !devices.is_empty() && (held.gpus.is_empty() || !held.gpus.iter().all(within)) {
        held = Held { gpus: devices.into_iter().map(GpuRef::Index).collect(), ..Held::default() };
    }
    held.gpus = names.in_order(&held.gpus, &env);
    held
}

/// The indices of the GPUs whose device nodes these are.
fn by_devices(host: &Host, machine: &Machine, devices: &[LinuxDevice]) -> BTreeSet<u32> {
    let driver = Driver::new(&host.proc());
    let mut minors = None;
    let address = |device: &LinuxDevice| -> Option<PciAddress> {
        let name = device.path().strip_prefix("/dev").ok()?.to_str()?;
        if let Some(minor) = name.strip_prefix("nvidia").and_then(|minor| minor.parse().ok()) {
            return minors.get_or_insert_with(|| driver.minors()).get(&minor).copied();
        }
        let drm = name.strip_prefix("dri/").filter(|drm| drm.starts_with("card") || drm.starts_with("renderD"))?;
        let link = host.host_root.join("sys/class/drm").join(Path::new(drm).file_name()?).join("device");
        fs::read_link(link).ok()?.file_name()?.to_str()?.parse().ok()
    };
    let addresses: BTreeSet<PciAddress> = devices.iter().filter_map(address).collect();
    machine.gpus.iter().filter(|gpu| gpu.pci.is_some_and(|pci| addresses.contains(&pci))).map(|gpu| gpu.index).collect()
}

/// What NVIDIA's driver tells of its GPUs in files: `/proc/driver/nvidia/gpus/ADDRESS/information`.
#[derive(Debug)]
struct Driver {
    folder: PathBuf,
}

impl Driver {
    fn new(proc: &Path) -> Self {
        Self { folder: proc.join("driver/nvidia/gpus") }
    }

    /// The GPU of each device node `/dev/nvidiaMINOR`.
    fn minors(&self) -> BTreeMap<u32, PciAddress> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| Some((self.field(&name, "Device Minor")?.parse().ok()?, name.parse().ok()?))).collect()
    }

    fn field(&self, gpu: &str, field: &str) -> Option<String> {
        let text = fs::read_to_string(self.folder.join(gpu).join("information")).ok()?;
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.trim_start().strip_prefix(':'))?;
        Some(value.trim().to_owned())
    }
}
