//! The guest's kernel: the distribution's own package, unpacked beside the other build outputs and not installed, so that
//! the host keeps its boot loader and its kernels as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{self, capture};

/// Packages that stand for the newest kernel for virtual machines: Debian's and Ubuntu's.
const PACKAGES: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-virtual"];

/// An unpacked kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Its image.
    pub(crate) image: PathBuf,
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
        let mut images: Vec<PathBuf> = fs::read_dir(folder.join("root/boot"))
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
            .collect();
        images.sort();
        images.pop().map(|image| Self { image })
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
}
