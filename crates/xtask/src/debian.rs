//! Debian's packages on any host, unpacked into a folder and not installed, so that neither root nor the host's own
//! programs are touched; and Debian's torchrun, made of them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::{self, capture};
use crate::workspace;

/// Packages to be unpacked, with all that they depend on.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Debian's name for the state of its archive.
    pub(crate) suite: &'static str,
    /// Their names.
    pub(crate) packages: &'static [&'static str],
    /// What nobody reads here: paths in them.
    pub(crate) unread: &'static [&'static str],
}

const TORCHRUN: Wanted = Wanted {
    // Its torch is 2.6; the one before trips over its own Python, and the ones after move.
    suite: "trixie",
    packages: &["python3-torch"],
    // A third of the disk.
    unread: &["usr/share", "usr/include", "usr/lib/libtorch-test", "usr/lib/python3/dist-packages/torch/include"],
};
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An unpacked Debian with torchrun, with `bin/torchrun` and `bin/python3` in front.
#[derive(Debug)]
pub(crate) struct Debian {
    /// The folder that holds it.
    pub(crate) folder: PathBuf,
}

impl Debian {
    /// The one in this folder; fetched once, where there is none.
    pub(crate) fn in_folder(folder: &Path) -> Result<Self> {
        let debian = Self { folder: folder.to_owned() };
        TORCHRUN.in_folder(folder)?;
        debian.put_scripts()?;
        Ok(debian)
    }

    /// The folder of `torchrun` and `python3`.
    pub(crate) fn programs(&self) -> PathBuf {
        self.folder.join("bin")
    }

    /// The same as a disk image, made once.
    pub(crate) fn disk(&self) -> Result<PathBuf> {
        let disk = self.folder.with_extension("ext4");
        if disk.exists() {
            return Ok(disk);
        }
        println!("  making {}", disk.display());
        let arriving = self.folder.with_extension("ext4.arriving");
        remove(&arriving)?;
        // A sparse image: what is not used takes no room on the host.
        let mut make = Command::new("mke2fs");
        make.args(["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d"]).arg(&self.folder);
        // A user's PATH often lacks the folder of mke2fs.
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        command::run(make.arg(&arriving).arg("3G").env("PATH", path))?;
        fs::rename(&arriving, &disk).with_context(|| format!("cannot rename to {}", disk.display()))?;
        Ok(disk)
    }

    fn put_scripts(&self) -> Result<()> {
        let own = workspace().join("tests/launchers");
        for (name, place) in
            [("python3", "bin/python3"), ("torchrun", "bin/torchrun"), ("sitecustomize.py", "site/sitecustomize.py")]
        {
            let (from, to) = (own.join(name), self.folder.join(place));
            let text = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
            // Unchanged, it keeps its time, by which Python knows that its bytecode is fresh.
            if fs::read(&to).is_ok_and(|there| there == text) {
                continue;
            }
            let write = || -> std::io::Result<()> {
                fs::create_dir_all(to.parent().unwrap_or(&self.folder))?;
                fs::write(&to, &text)?;
                fs::set_permissions(&to, fs::Permissions::from_mode(0o755))
            };
            write().with_context(|| format!("cannot write {}", to.display()))?;
            remove(&self.folder.with_extension("ext4"))?;
        }
        Ok(())
    }
}

impl Wanted {
    /// Sees to it that the packages are below `root` in this folder; fetched once, where there is no such folder.
    pub(crate) fn in_folder(&self, folder: &Path) -> Result<()> {
        if !folder.exists() {
            arrive(folder, |arriving| self.fetch(arriving))?;
        }
        Ok(())
    }

    fn fetch(&self, folder: &Path) -> Result<()> {
        announce(&self.packages.join(", "), self.suite, folder);
        let apt = Apt::of(folder.join("apt"), self.suite)?;
        command::run(
            apt.get().args(["-y", "--no-install-recommends", "--download-only", "install"]).args(self.packages),
        )?;
        let root = folder.join("root");
        unpack(&apt.archives(), &root)?;
        remove(&apt.folder)?;
        for unread in self.unread {
            remove(&root.join(unread))?;
        }
        Ok(())
    }
}

/// Makes a folder under another name first, so that half a one is never taken for it.
fn arrive(folder: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let arriving = folder.with_extension("arriving");
    remove(&arriving)?;
    make(&arriving)?;
    fs::rename(&arriving, folder).with_context(|| format!("cannot rename to {}", folder.display()))
}

/// Sees to it that the newest package that a stand-in of this suite depends on is below `root` in this folder, alone;
/// fetched once, where there is no such folder.
pub(crate) fn newest_in_folder(stand_in: &str, suite: &str, folder: &Path) -> Result<()> {
    if folder.exists() { Ok(()) } else { arrive(folder, |arriving| fetch_newest(stand_in, suite, arriving)) }
}

fn fetch_newest(stand_in: &str, suite: &str, folder: &Path) -> Result<()> {
    announce(stand_in, suite, folder);
    let apt = Apt::of(folder.join("apt"), suite)?;
    let text = capture(apt.command("apt-cache").args(["depends", "--important", stand_in]))?;
    let package = text.lines().find_map(|line| versioned(line, stand_in)).with_context(|| {
        format!("{stand_in} of Debian {suite} depends on none that is named as it, with a version: {text}")
    })?;
    command::run(apt.get().args(["download", package]).current_dir(apt.archives()))?;
    unpack(&apt.archives(), &folder.join("root"))?;
    remove(&apt.folder)
}

/// The package that a line of `apt-cache depends` names, where it is a version of the stand-in: `linux-image-6.1.0-56-…`
/// of `linux-image-…`.
fn versioned<'a>(line: &'a str, stand_in: &str) -> Option<&'a str> {
    let name = line.trim().strip_prefix("Depends: ")?;
    let version = name.find(|c: char| c.is_ascii_digit())?;
    stand_in.starts_with(&name[..version]).then_some(name)
}

fn announce(packages: &str, suite: &str, folder: &Path) {
    println!("  fetching {packages} of Debian {suite} (unpacked below {}, not installed)", folder.display());
}

fn unpack(archives: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
    for entry in fs::read_dir(archives).with_context(|| format!("cannot read {}", archives.display()))? {
        let path = entry.with_context(|| format!("cannot read {}", archives.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            command::run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(root))?;
        }
    }
    Ok(())
}

/// apt with lists, packages and sources of its own. The host's settings (a proxy, say) stay in force.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// In this folder, for this suite, with its lists.
    fn of(folder: PathBuf, suite: &str) -> Result<Self> {
        let apt = Self { folder };
        for made in [apt.folder.join("state/lists/partial"), apt.archives().join("partial")] {
            fs::create_dir_all(&made).with_context(|| format!("cannot make {}", made.display()))?;
        }
        let source = format!("deb [signed-by={KEYS}] http://deb.debian.org/debian {suite} main\n");
        for (name, text) in [("sources.list", source.as_str()), ("status", "")] {
            let path = apt.folder.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        command::run(apt.get().arg("update"))?;
        Ok(apt)
    }

    fn archives(&self) -> PathBuf {
        self.folder.join("cache/archives")
    }

    fn get(&self) -> Command {
        let mut command = self.command("apt-get");
        command.arg("-qq");
        command
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (option, value) in [
            ("Dir::State", "state"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
            ("Dir::Etc::SourceList", "sources.list"),
            ("Dir::Etc::SourceParts", "none"),
            ("Dir::Etc::Preferences", "none"),
            ("Dir::Etc::PreferencesParts", "none"),
        ] {
            command.arg("-o").arg(format!("{option}={}", self.folder.join(value).display()));
        }
        for option in ["APT::Architecture=amd64", "APT::Architectures=amd64", "Acquire::Languages=none"] {
            command.args(["-o", option]);
        }
        // The folder is the caller's own: apt's sandbox user could not write to it.
        command.args(["-o", "APT::Sandbox::User="]);
        command
    }
}

fn remove(path: &Path) -> Result<()> {
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_depends_on_its_newest_version_and_on_other_things() {
        let newest = |line| versioned(line, "linux-image-cloud-amd64");
        assert_eq!(newest("  Depends: linux-image-6.1.0-56-cloud-amd64"), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(newest("  Depends: linux-image-cloud"), None);
        assert_eq!(newest("  Depends: libc6"), None);
        assert_eq!(newest("linux-image-cloud-amd64"), None);
    }
}
