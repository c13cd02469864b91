//! The guest's kernel: Debian's own package for virtual machines, unpacked beside the other build outputs and not
//! installed, so that the host keeps its boot loader and its kernels as they are.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::debian;

/// What stands for the newest one of a suite.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// Which kernel: Debian's long-term ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Linux {
    /// Of bookworm.
    #[default]
    V6_1,
    /// Of trixie.
    V6_12,
}

/// What a disk needs where the kernel has it as modules, in an order in which they can be loaded.
pub(crate) const DISK: [&str; 6] =
    ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk"];
/// What a file needs to be mounted as a disk.
pub(crate) const LOOP: [&str; 1] = ["loop"];

/// What a network needs.
pub(crate) const NETWORK: [&str; 8] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];

/// An unpacked kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Its image.
    pub(crate) image: PathBuf,
    root: PathBuf,
}

impl Kernel {
    /// This kernel, from the folder of emulated machines; fetched once.
    pub(crate) fn of(linux: Linux, machines: &Path) -> Result<Self> {
        let (version, suite) = match linux {
            Linux::V6_1 => ("6.1", "bookworm"),
            Linux::V6_12 => ("6.12", "trixie"),
        };
        let folder = machines.join(format!("linux-{version}"));
        debian::newest_in_folder(PACKAGE, suite, &folder)?;
        Self::unpacked(&folder).with_context(|| format!("{PACKAGE} of Debian {suite} holds no boot/vmlinuz-*"))
    }

    fn unpacked(folder: &Path) -> Option<Self> {
        let root = folder.join("root");
        let mut images: Vec<PathBuf> = fs::read_dir(root.join("boot"))
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
            .collect();
        images.sort();
        Some(Self { image: images.pop()?, root })
    }

    /// These modules, in the same order. Those that are built in are not among them.
    pub(crate) fn modules(&self, names: &[&str]) -> Vec<PathBuf> {
        let version = self.image.file_name().unwrap_or_default().to_string_lossy();
        let version = version.trim_start_matches("vmlinuz-");
        let kernels = ["lib", "usr/lib"].map(|lib| self.root.join(lib).join("modules").join(version).join("kernel"));
        let folders = ["drivers/virtio", "drivers/block", "drivers/net", "net/core"];
        let places: Vec<PathBuf> =
            kernels.iter().flat_map(|kernel| folders.map(|folder| kernel.join(folder))).collect();
        // busybox loads both.
        let files =
            |name| places.iter().flat_map(move |place| ["ko", "ko.xz"].map(|end| place.join(format!("{name}.{end}"))));
        names.iter().filter_map(|name| files(name).find(|path| path.exists())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_loaded_in_an_order_that_the_kernel_takes_and_built_in_ones_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let drivers = folder.path().join("root/lib/modules/6.1.0-1/kernel/drivers");
        fs::create_dir_all(folder.path().join("root/boot")).unwrap();
        fs::write(folder.path().join("root/boot/vmlinuz-6.1.0-1"), "").unwrap();
        for module in ["virtio/virtio_pci.ko", "virtio/virtio.ko", "block/virtio_blk.ko.xz", "block/loop.ko"] {
            let path = drivers.join(module);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let modules = Kernel::unpacked(folder.path()).unwrap().modules(&DISK);
        let names: Vec<_> = modules.iter().map(|path| path.file_name().unwrap().to_string_lossy()).collect();
        assert_eq!(names, ["virtio.ko", "virtio_pci.ko", "virtio_blk.ko.xz"]);
    }
}
