//! The guest's kernel: the distribution's own package, unpacked beside the other build outputs and not installed, so that
//! the host keeps its boot loader and its kernels as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{self, capture};

/// Packages that stand for the newest kernel for virtual machines: Debian's and Ubuntu's.
const PACKAGES: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-virtual"];
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
    /// The kernel in this folder; fetched once, where the folder has none.
    pub(crate) fn in_folder(folder: &Path) -> Result<Self> {
        if let Some(kernel) = Self::unpacked(folder) {
            return Ok(kernel);
        }
        let package = newest_package()?;
        println!("  fetching {package} (unpacked below {}, not installed)", folder.display());
        let arriving = folder.with_extension("arriving");
        if arriving.exists() {
            fs::remove_dir_all(&arriving).with_context(|| format!("cannot remove {}", arriving.display()))?;
        }
        let root = arriving.join("root");
        fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        command::run(Command::new("apt-get").args(["-qq", "download", &package]).current_dir(&arriving))?;
        for entry in fs::read_dir(&arriving).with_context(|| format!("cannot read {}", arriving.display()))? {
            let path = entry.with_context(|| format!("cannot read {}", arriving.display()))?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                command::run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&root))?;
            }
        }
        fs::rename(&arriving, folder).with_context(|| format!("cannot rename to {}", folder.display()))?;
        Self::unpacked(folder).with_context(|| format!("{package} holds no boot/vmlinuz-*"))
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
        names
            .iter()
            .filter_map(|name| places.iter().map(|place| place.join(format!("{name}.ko"))).find(|path| path.exists()))
            .collect()
    }
}

/// The package that the distribution's stand-in depends on.
fn newest_package() -> Result<String> {
    for package in PACKAGES {
        let Ok(text) = capture(Command::new("apt-cache").args(["depends", "--important", package])) else { continue };
        if let Some(name) = text.lines().find_map(kernel_dependency) {
            return Ok(name.to_owned());
        }
    }
    bail!("apt knows no {}: the emulated machines boot the kernel of one of them", PACKAGES.join(" and no "))
}

fn kernel_dependency(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix("Depends: ")?;
    name.strip_prefix("linux-image-").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stand_in_depends_on_one_versioned_kernel() {
        assert_eq!(
            kernel_dependency("  Depends: linux-image-6.1.0-56-cloud-amd64"),
            Some("linux-image-6.1.0-56-cloud-amd64")
        );
        assert_eq!(kernel_dependency("  Depends: linux-image-cloud"), None);
        assert_eq!(kernel_dependency("linux-image-cloud-amd64"), None);
    }

    #[test]
    fn modules_are_loaded_in_an_order_that_the_kernel_takes_and_built_in_ones_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let drivers = folder.path().join("root/lib/modules/6.1.0-1/kernel/drivers");
        fs::create_dir_all(folder.path().join("root/boot")).unwrap();
        fs::write(folder.path().join("root/boot/vmlinuz-6.1.0-1"), "").unwrap();
        for module in ["virtio/virtio_pci", "virtio/virtio", "block/virtio_blk", "block/loop"] {
            let path = drivers.join(format!("{module}.ko"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let modules = Kernel::unpacked(folder.path()).unwrap().modules(&DISK);
        let names: Vec<_> = modules.iter().map(|path| path.file_stem().unwrap().to_string_lossy()).collect();
        assert_eq!(names, ["virtio", "virtio_pci", "virtio_blk"]);
    }
}
