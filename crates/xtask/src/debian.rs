//! Debian's packages on any host, unpacked into a folder and not installed, so that neither root nor the host's own
//! programs are touched; and Debian's torchrun, made of them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{command, workspace};

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
            let arriving = folder.with_extension("arriving");
            remove(&arriving)?;
            self.fetch(&arriving)?;
            fs::rename(&arriving, folder).with_context(|| format!("cannot rename to {}", folder.display()))?;
        }
        Ok(())
    }

    fn fetch(&self, folder: &Path) -> Result<()> {
        println!(
            "  fetching {} of Debian {} (unpacked below {}, not installed)",
            self.packages.join(", "),
            self.suite,
            folder.display()
        );
        let apt = folder.join("apt");
        let archives = apt.join("cache/archives");
        let root = folder.join("root");
        for folder in [&apt.join("state/lists/partial"), &archives.join("partial"), &root] {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let sources = apt.join("sources.list");
        let source = format!("deb [signed-by={KEYS}] http://deb.debian.org/debian {} main\n", self.suite);
        for (path, text) in [(&sources, source.as_str()), (&apt.join("status"), "")] {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        command::run(apt_get(&apt).arg("update"))?;
        command::run(
            apt_get(&apt).args(["-y", "--no-install-recommends", "--download-only", "install"]).args(self.packages),
        )?;
        for entry in fs::read_dir(&archives).with_context(|| format!("cannot read {}", archives.display()))? {
            let path = entry.with_context(|| format!("cannot read {}", archives.display()))?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                command::run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&root))?;
            }
        }
        remove(&apt)?;
        for unread in self.unread {
            remove(&root.join(unread))?;
        }
        Ok(())
    }
}

/// apt with lists, packages and sources of its own. The host's settings (a proxy, say) stay in force.
fn apt_get(folder: &Path) -> Command {
    let mut command = Command::new("apt-get");
    command.arg("-qq");
    for (option, value) in [
        ("Dir::State", "state"),
        ("Dir::State::status", "status"),
        ("Dir::Cache", "cache"),
        ("Dir::Etc::SourceList", "sources.list"),
        ("Dir::Etc::SourceParts", "none"),
        ("Dir::Etc::Preferences", "none"),
        ("Dir::Etc::PreferencesParts", "none"),
    ] {
        command.arg("-o").arg(format!("{option}={}", folder.join(value).display()));
    }
    command.args(["-o", "APT::Architecture=amd64", "-o", "APT::Architectures=amd64", "-o", "Acquire::Languages=none"]);
    // The folder is the caller's own: apt's sandbox user could not write to it.
    command.args(["-o", "APT::Sandbox::User="]);
    command
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
