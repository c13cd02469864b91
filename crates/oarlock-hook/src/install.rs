//! `oarlock hook install` and `uninstall`: what makes a runtime call this program.
//!
//! podman and CRI-O read the same files in the same folder (`oci-hooks(5)`), and CRI-O refuses that of a stage that only podman
//! has: so a host with CRI-O has none of it, and podman's containers there get no environment.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _, stdout};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::failure::Failure;
use crate::host::Host;
use crate::own;
use crate::wrapper::NAME;

/// Both read hooks in the order of their names.
const CREATE_RUNTIME: (&str, &str) = ("99-oarlock-create.json", "createRuntime");
const POSTSTOP: (&str, &str) = ("99-oarlock-poststop.json", "poststop");
const PRECREATE: (&str, &str) = ("99-oarlock-precreate.json", "precreate");
/// This program's name, for whoever looks for it.
const PROGRAM: &str = "oarlock-hook";
/// A hook that takes longer breaks the container; ours ends by itself long before.
const SECONDS: u32 = 30;

/// Whose containers are to be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Runtime {
    Podman,
    Crio,
    Containerd,
}

/// Has a container runtime call this program for annotated containers
#[derive(Debug, Args)]
pub(crate) struct Install {
    /// The runtime
    #[arg(long, value_enum)]
    runtime: Runtime,
    #[command(flatten)]
    places: Places,
    /// For containerd: the real OCI runtime, by its name on the PATH; without it the first found
    #[arg(long, value_name = "NAME")]
    real: Option<String>,
    #[command(flatten)]
    host: Host,
}

/// Takes away again what install has written
#[derive(Debug, Args)]
pub(crate) struct Uninstall {
    /// The runtime; without it all of them
    #[arg(long, value_enum)]
    runtime: Option<Runtime>,
    #[command(flatten)]
    places: Places,
}

#[derive(Debug, Args)]
struct Places {
    /// The folder of hook files that podman and CRI-O read
    #[arg(long = "hooks-dir", value_name = "FOLDER", default_value = "/usr/share/containers/oci/hooks.d")]
    hooks: PathBuf,
    /// CRI-O's settings: where they are, there is a CRI-O that reads the hook files, too
    #[arg(long = "crio-dir", value_name = "FOLDER", default_value = "/etc/crio")]
    crio: PathBuf,
    /// The folder that the runtime for containerd is put into
    #[arg(long = "bin-dir", value_name = "FOLDER", default_value = "/usr/local/bin")]
    bin: PathBuf,
    /// A folder on the host for a copy of this program, which is then the one that is called: for an installation from a container
    #[arg(long, value_name = "FOLDER")]
    copy_to: Option<PathBuf>,
    /// Where the host's root is, or the folders above are below it: what is written is named without it
    #[arg(long, value_name = "FOLDER", default_value = "/", requires = "copy_to")]
    root: PathBuf,
}

impl Places {
    /// Where this process finds a path of the host.
    fn here(&self, path: &Path) -> PathBuf {
        path.strip_prefix("/").map_or_else(|_| path.to_owned(), |below| self.root.join(below))
    }

    /// Whether a CRI-O reads the hook files.
    fn has_crio(&self) -> bool {
        self.here(&self.crio).exists()
    }

    /// The copy of this program, as the host names it.
    fn copy(&self) -> Option<PathBuf> {
        self.copy_to.as_ref().map(|folder| folder.join(PROGRAM))
    }
}

/// The files of these runtimes: name and stage.
fn hooks(precreate: bool) -> impl Iterator<Item = (&'static str, &'static str)> {
    [CREATE_RUNTIME, POSTSTOP].into_iter().chain(precreate.then_some(PRECREATE))
}

impl Install {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut own = own::path()?;
        // Before anything names it.
        if let Some(copy) = self.places.copy() {
            let path = self.places.here(&copy);
            put(&path, 0o755, |file| io::copy(&mut File::open(&own)?, file).map(drop))?;
            own = copy;
        }
        if self.runtime == Runtime::Containerd {
            return self.containerd(&own);
        }
        let folder = self.places.here(&self.places.hooks);
        let has_crio = self.runtime == Runtime::Crio || self.places.has_crio();
        for (name, stage) in hooks(!has_crio) {
            let hook = hook(&own, stage, &self.host);
            put(&folder.join(name), 0o644, |file| writeln!(file, "{hook:#}"))?;
        }
        if has_crio {
            remove(&folder.join(PRECREATE.0))?;
            if self.runtime == Runtime::Podman {
                print(
                    "left out the filter, which gives the rank environment: CRI-O reads this folder, and refuses it\n",
                );
            }
        }
        Ok(())
    }

    /// containerd has no folder of hooks. Its settings are the administrator's: they are told what to write there.
    fn containerd(&self, own: &Path) -> Result<(), Failure> {
        let name = self.real.as_ref().map_or_else(|| NAME.to_owned(), |real| format!("{NAME}-{real}"));
        let named = self.places.bin.join(name);
        let path = self.places.here(&named);
        let link = || {
            // containerd may be calling it: a link that is right stays.
            if fs::read_link(&path).is_ok_and(|target| target == own) {
                return Ok(());
            }
            fs::create_dir_all(self.places.here(&self.places.bin))?;
            if is_ours(&path) {
                fs::remove_file(&path)?;
            }
            symlink(own, &path)
        };
        link().map_err(|source| Failure::Write { path: path.clone(), source })?;
        print(&format!("wrote {}\n\n{}", path.display(), for_containerd(&named)));
        Ok(())
    }
}

impl Uninstall {
    pub(crate) fn run(self) -> Result<(), Failure> {
        if self.runtime != Some(Runtime::Containerd) {
            let folder = self.places.here(&self.places.hooks);
            for (name, _) in hooks(true) {
                remove(&folder.join(name))?;
            }
            // As it was before the first hook: others may have theirs there. CRI-O makes the folder itself, and watches it until
            // it is removed: hooks of a folder made anew it would see at its next start only.
            if !self.places.has_crio() {
                drop(fs::remove_dir(&folder));
            }
        }
        if self.runtime.is_none_or(|runtime| runtime == Runtime::Containerd) {
            for path in runtimes(&self.places.here(&self.places.bin)) {
                remove(&path)?;
            }
        }
        // After all that names it.
        if let Some(copy) = self.places.copy() {
            remove(&self.places.here(&copy))?;
        }
        Ok(())
    }
}

/// A hook file (`oci-hooks(5)`, version 1.0.0).
fn hook(own: &Path, stage: &str, host: &Host) -> Value {
    let args: Vec<String> = [PROGRAM, stage].map(str::to_owned).into_iter().chain(host.arguments()).collect();
    json!({
        "version": "1.0.0",
        "hook": {"path": own, "args": args, "timeout": SECONDS},
        "when": {"annotations": {"^oarlock\\.dev/(cpu|mem)-map$": ".*"}},
        "stages": [stage],
    })
}

/// Whoever watches the folder sees the whole file, by a name that they read; whoever executes it, the old one or the new.
fn put(path: &Path, mode: u32, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Failure> {
    let put = || {
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder)?;
        let mut file = NamedTempFile::with_prefix_in(".oarlock", folder)?;
        write(file.as_file_mut())?;
        file.as_file().set_permissions(Permissions::from_mode(mode))?;
        file.persist(path)?;
        Ok(())
    };
    put().map_err(|source| Failure::Write { path: path.to_owned(), source })?;
    print(&format!("wrote {}\n", path.display()));
    Ok(())
}

/// The links to this program, by whatever path, that were made for containerd.
fn runtimes(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(NAME)));
    named.map(|entry| entry.path()).filter(|path| is_ours(path)).collect()
}

fn is_ours(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|target| target.file_name().is_some_and(|name| name == PROGRAM))
}

fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Ok(()) => {
            print(&format!("removed {}\n", path.display()));
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Failure::Write { path: path.to_owned(), source }),
    }
}

/// What an administrator writes, once: the tables of containerd 1 and of containerd 2 have different names. docker has a
/// containerd of its own, and its own settings.
fn for_containerd(runtime: &Path) -> String {
    let table = |plugin: &str| {
        let table = format!("plugins.\"{plugin}\".containerd.runtimes.oarlock");
        format!(
            "[{table}]\nruntime_type = \"io.containerd.runc.v2\"\npod_annotations = [\"oarlock.dev/*\"]\n[{table}.options]\n\
             BinaryName = \"{}\"\n# as the runtime that you have now:\n# SystemdCgroup = true\n",
            runtime.display()
        )
    };
    format!(
        "Add to /etc/containerd/config.toml and restart containerd; where it says version = 3:\n\n{}\nelse:\n\n{}\n\
         and to the cluster:\n\napiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {{name: oarlock}}\nhandler: oarlock\n\n\
         For docker, in /etc/docker/daemon.json:\n\n{}\n",
        table("io.containerd.cri.v1.runtime"),
        table("io.containerd.grpc.v1.cri"),
        json!({"runtimes": {"oarlock": {"path": runtime}}}),
    )
}

/// A reader that has gone away does not matter.
fn print(text: &str) {
    drop(stdout().write_all(text.as_bytes()));
}
