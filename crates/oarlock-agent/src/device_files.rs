//! What the host says about the device nodes of its GPUs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use oarlock_core::pci::PciAddress;
use oarlock_device_plugin::allocate::{DeviceFacts, OPTIONAL_NODES};

/// The facts about the GPU at `address`. What cannot be read is not there.
pub(crate) fn facts(host_root: &Path, address: PciAddress, minor: Option<u32>) -> DeviceFacts {
    let device = host_root.join("sys/bus/pci/devices").join(address.to_string());
    let driver = fs::read_link(device.join("driver")).ok();
    let entries = fs::read_dir(device.join("drm")).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut drm: Vec<String> = names.filter(|name| name.starts_with("card") || name.starts_with("renderD")).collect();
    drm.sort_unstable();
    DeviceFacts {
        driver: driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())),
        minor,
        drm,
        present: OPTIONAL_NODES
            .iter()
            .filter(|path| host_root.join(path.trim_start_matches('/')).exists())
            .map(|&path| path.to_owned())
            .collect::<BTreeSet<_>>(),
    }
}
