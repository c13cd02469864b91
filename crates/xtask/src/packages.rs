//! What the system must have besides Rust: found out by looking for the thing itself, installed by apt where there is apt.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::command;

/// What the packages are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// Building and testing the crates.
    Building,
    /// The emulated machines.
    Machines,
    /// torchrun.
    Launchers,
    /// The container image.
    Image,
    /// The table of numbers.
    Benchmarks,
}

#[derive(Debug, Clone, Copy)]
enum Mark {
    /// A program on the PATH, or in the folders of the system's own programs.
    Program(&'static str),
    /// A library that pkg-config knows.
    Library(&'static str),
    /// A file.
    File(&'static str),
}

#[derive(Debug, Clone, Copy)]
struct Package {
    debian: &'static str,
    mark: Mark,
    wanted: For,
    why: &'static str,
}

const fn package(debian: &'static str, mark: Mark, wanted: For, why: &'static str) -> Package {
    Package { debian, mark, wanted, why }
}

const ARCHIVE_KEYS: Mark = Mark::File("/usr/share/keyrings/debian-archive-keyring.gpg");

const PACKAGES: [Package; 15] = [
    package("gcc", Mark::Program("cc"), For::Building, "links the programs"),
    package("libc6-dev", Mark::File("/usr/include/stdlib.h"), For::Building, "links the programs"),
    package("pkg-config", Mark::Program("pkg-config"), For::Building, "finds libhwloc"),
    package("libhwloc-dev", Mark::Library("hwloc"), For::Building, "reads the machine"),
    package("libudev-dev", Mark::Library("libudev"), For::Building, "names the machine's devices"),
    package("python3-pip", Mark::Program("pip3"), For::Building, "fetches helm, which renders the chart"),
    package("runc", Mark::Program("runc"), For::Building, "is the real runtime behind the one in front of it"),
    package("openssl", Mark::Program("openssl"), For::Building, "makes the key of a cluster that is tried"),
    package("qemu-system-x86", Mark::Program("qemu-system-x86_64"), For::Machines, "is the emulated machine"),
    package("busybox-static", Mark::Program("busybox"), For::Machines, "is the guest's system"),
    package("e2fsprogs", Mark::Program("mke2fs"), For::Launchers, "makes the guest's disk"),
    package("debian-archive-keyring", ARCHIVE_KEYS, For::Machines, "proves that Debian's packages are Debian's"),
    package("debian-archive-keyring", ARCHIVE_KEYS, For::Image, "proves that the image's base is Debian's"),
    package("buildah", Mark::Program("buildah"), For::Image, "makes the image"),
    package("crun", Mark::Program("crun"), For::Benchmarks, "creates a container beside the hook"),
];

/// Installs what is missing for these purposes, or says what to install where there is no apt.
pub(crate) fn require(purposes: &[For]) -> Result<()> {
    let missing: Vec<&Package> =
        PACKAGES.iter().filter(|package| purposes.contains(&package.wanted) && !package.mark.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for package in &missing {
        println!("  missing: {} ({})", package.debian, package.why);
    }
    let names: Vec<&str> = missing.iter().map(|package| package.debian).collect();
    if !Mark::Program("apt-get").is_there() {
        bail!(
            "this system has no apt-get: install what it calls {} (Debian's names), and run this again",
            names.join(", ")
        );
    }
    println!("  installing them with apt-get, from the system's own sources");
    if install(&names).is_err() {
        println!("  once more, after an update of apt's lists");
        command::run(as_root("apt-get").args(["-qq", "update"]))?;
        install(&names)?;
    }
    match missing.iter().find(|package| !package.mark.is_there()) {
        Some(package) => bail!("{} is installed, but {:?} is still not there", package.debian, package.mark),
        None => Ok(()),
    }
}

fn install(names: &[&str]) -> Result<()> {
    let mut apt = as_root("env");
    apt.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y", "--no-install-recommends", "install"])
        .args(names);
    command::run(apt.stdout(Stdio::null()))
}

/// A program run by root: directly, or through sudo.
fn as_root(program: &str) -> Command {
    if rustix::process::getuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

impl Mark {
    fn is_there(self) -> bool {
        match self {
            // A user's PATH often lacks the folder of mke2fs.
            Self::Program(name) => env::split_paths(&env::var_os("PATH").unwrap_or_default())
                .chain(["/usr/sbin".into(), "/sbin".into()])
                .any(|folder| folder.join(name).is_file()),
            Self::Library(name) => Command::new("pkg-config")
                .args(["--exists", name])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success()),
            Self::File(path) => Path::new(path).exists(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_a_library_and_a_file_that_nobody_has_are_missing() {
        for mark in [Mark::Program("oarlock-no-such"), Mark::Library("oarlock-no-such"), Mark::File("/oarlock-no-such")]
        {
            assert!(!mark.is_there(), "{mark:?}");
        }
        assert!(Mark::Program("sh").is_there());
        assert!(Mark::File("/").is_there());
    }
}
