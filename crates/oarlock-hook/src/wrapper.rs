//! In front of an OCI runtime: at `create` and `run` the bundle's configuration is edited, and then this process becomes the
//! real runtime, with the arguments, descriptors and signals that it was given.

mod call;

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{self, Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Args, Parser};
use oarlock_core::place::asks_to_refuse;
use oci_spec::runtime::Hook;
use tempfile::NamedTempFile;

use crate::cli::caught;
use crate::config::Config;
use crate::container::Container;
use crate::edit::{self, Hooks};
use crate::failure::Failure;
use crate::host::Host;
use crate::say::{log, one_line, say};
use crate::{input, own};
use call::Create;

/// A program of this name is a runtime; `oarlock-runtime-NAME` is one in front of `NAME`.
pub(crate) const NAME: &str = "oarlock-runtime";
/// The real runtimes that are looked for, in this order, where none is named.
const REAL: [&str; 3] = ["runc", "crun", "nvidia-container-runtime"];
/// Where they are looked for beside the PATH, which a daemon may lack, and podman leaves out when it sends a signal.
const FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// A runtime kills a hook that takes longer, and the container with it; ours ends by itself long before.
const HOOK_SECONDS: i64 = 30;

/// A call as an OCI runtime.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Wrapper {
    #[command(flatten)]
    host: Host,
    /// The real runtime: a path, or a name on the PATH; without it runc, crun or nvidia-container-runtime, the first found
    #[arg(long, value_name = "RUNTIME")]
    real: Option<PathBuf>,
    /// The runtime's arguments, all of them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// The real runtime that a program of this name stands for: one that is to be found, or the one that it names.
#[expect(clippy::option_option, reason = "no runtime at all, any, or this one")]
pub(crate) fn real_named(name: &str) -> Option<Option<PathBuf>> {
    let rest = name.strip_prefix(NAME)?;
    match rest.strip_prefix('-') {
        Some(real) if !real.is_empty() => Some(Some(PathBuf::from(real))),
        None if rest.is_empty() => Some(None),
        _ => None,
    }
}

/// A call by the name of a runtime: all arguments are the real one's.
pub(crate) fn by_name(real: Option<PathBuf>, arguments: Vec<OsString>) -> ExitCode {
    #[derive(Parser)]
    struct Defaults {
        #[command(flatten)]
        host: Host,
    }
    let Defaults { host } = Defaults::parse_from([NAME]);
    Wrapper { host, real, arguments }.run()
}

impl Wrapper {
    pub(crate) fn run(self) -> ExitCode {
        let Some(real) = find(self.real.as_deref()) else {
            let named = self.real.map_or_else(|| REAL.join(", "), |real| real.display().to_string());
            say(&format!("there is no other OCI runtime here: looked for {named}"));
            return ExitCode::FAILURE;
        };
        if let Some(create) = Create::parse(&self.arguments)
            && let Err(failure) = caught(|| prepare(&self.host, &create)).unwrap_or_else(|failure| {
                log(&format!("container {} runs unbound: {}", create.id, failure.line()));
                Ok(())
            })
        {
            refuse(&create, &failure);
            return ExitCode::FAILURE;
        }
        let error = Command::new(&real).args(&self.arguments).exec();
        say(&format!("failed to execute \"{}\": {error}", real.display()));
        ExitCode::FAILURE
    }
}

/// Edits the bundle's configuration. Only what is to keep the container from starting is an error.
fn prepare(host: &Host, create: &Create) -> Result<(), Failure> {
    let mut refuses = false;
    match edit_bundle(host, create, &mut refuses) {
        Err(failure) if refuses => Err(failure),
        Err(failure) => {
            log(&format!("container {} runs unbound: {}", create.id, failure.line()));
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

fn edit_bundle(host: &Host, create: &Create, refuses: &mut bool) -> Result<(), Failure> {
    let named = |path: &Path| {
        path::absolute(path).map_err(|source| Failure::Read { what: format!("\"{}\"", path.display()), source })
    };
    // crun alone takes another name, from the working folder; this one is the bundle's.
    let path = match &create.config {
        Some(config) if config != "config.json" => named(config)?,
        _ => named(create.bundle.as_deref().unwrap_or(Path::new(".")))?.join("config.json"),
    };
    let file = input::open(&path)?;
    let bytes = input::read(&file, &format!("\"{}\"", path.display()))?;
    let config = Config::parse(&bytes, &format!("\"{}\"", path.display()))?;
    *refuses = asks_to_refuse(config.annotations());
    let container = Container { id: create.id.clone(), config };
    if !container.is_asking() {
        return Ok(());
    }
    let hooks = hooks(host)?;
    let Some(edited) = edit::place(host, &container, &bytes, Some(&hooks))? else { return Ok(()) };
    replace(&path, &file, &edited).inspect_err(|_| {
        if let Err(failure) = edit::take_back(host, &container.id) {
            log(&failure.line());
        }
    })
}

/// What the container is to run as it is created, and as it ends: this program, wherever it is called from.
fn hooks(host: &Host) -> Result<Hooks, Failure> {
    let own = own::path()?;
    let hook = |stage: &str| {
        let mut hook = Hook::default();
        let words = ["oarlock-hook".to_owned(), stage.to_owned()].into_iter().chain(host.arguments());
        hook.set_path(own.clone()).set_args(Some(words.collect())).set_timeout(Some(HOOK_SECONDS));
        hook
    };
    Ok(Hooks { create_runtime: hook("createRuntime"), poststop: hook("poststop") })
}

/// Puts the new text in the place of the file that was read, at once, for the same readers.
fn replace(path: &Path, read: &File, text: &[u8]) -> Result<(), Failure> {
    let write = || -> std::io::Result<()> {
        let before = read.metadata()?;
        let mut new = NamedTempFile::with_prefix_in(".config", path.parent().unwrap_or(Path::new("/")))?;
        new.as_file().set_permissions(Permissions::from_mode(before.mode() & 0o7777))?;
        std::os::unix::fs::fchown(new.as_file(), Some(before.uid()), Some(before.gid()))?;
        new.write_all(text)?;
        new.persist(path)?;
        Ok(())
    };
    write().map_err(|source| Failure::Write { path: path.to_owned(), source })
}

/// Says why the container does not start, also where whoever called the runtime looks: containerd in the runtime's log.
fn refuse(create: &Create, failure: &Failure) {
    let line = one_line(&failure.line());
    say(&line);
    let Some(path) = &create.log else { return };
    let text = if create.log_is_json {
        serde_json::json!({"level": "error", "msg": format!("oarlock-hook: {line}")}).to_string()
    } else {
        format!("level=error msg=\"oarlock-hook: {}\"", line.replace('"', "'"))
    };
    if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path) {
        drop(writeln!(file, "{text}"));
    }
}

/// The real runtime, which is not this program under another name.
fn find(named: Option<&Path>) -> Option<PathBuf> {
    let own = own::path().ok().and_then(|path| fs::canonicalize(path).ok());
    let is_program = |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0);
    let is_other = |path: &PathBuf| is_program(path) && fs::canonicalize(path).ok() != own;
    let path = env::var_os("PATH").unwrap_or_default();
    // An empty one would be the working folder.
    let folders = env::split_paths(&path).filter(|folder| folder.is_absolute()).chain(FOLDERS.map(PathBuf::from));
    let folders: Vec<PathBuf> = folders.collect();
    let on_the_path = |name: &Path| folders.iter().map(|folder| folder.join(name)).find(is_other);
    match named {
        Some(named) if named.components().count() > 1 => Some(named.to_owned()).filter(is_other),
        Some(named) => on_the_path(named),
        None => REAL.iter().find_map(|name| on_the_path(Path::new(name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_names_the_real_runtime() {
        assert_eq!(real_named("oarlock-runtime"), Some(None));
        assert_eq!(real_named("oarlock-runtime-crun"), Some(Some("crun".into())));
        for other in ["oarlock-hook", "oarlock-runtime-", "oarlock-runtimes", "runc"] {
            assert_eq!(real_named(other), None, "{other}");
        }
    }
}
