//! This host, as the command line names its parts.

use std::path::{self, Path, PathBuf};

use clap::Args;
use oarlock_core::CpuSet;
use oarlock_kernel::ledger::{LedgerFolder, boot_id};
use oarlock_kernel::{ReadError, presence};

use crate::failure::Failure;

const RUN_DIR: &str = "/run/oarlock";
const ROOT: &str = "/";

/// Where this host keeps what is needed.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_field_names, reason = "the flag is called --host-root everywhere")]
pub(crate) struct Host {
    /// The folder that holds the ledger and the machine file
    #[arg(long, value_name = "FOLDER", default_value = RUN_DIR)]
    pub(crate) run_dir: PathBuf,
    /// Where the host's proc/ and sys/ are
    #[arg(long, value_name = "FOLDER", default_value = ROOT)]
    pub(crate) host_root: PathBuf,
    /// A machine file, in place of the one that the agent keeps
    #[arg(long, value_name = "FILE")]
    pub(crate) machine: Option<PathBuf>,
    /// CPUs that the system keeps, in place of those that the agent knows of
    #[arg(long, value_name = "LIST")]
    pub(crate) reserved_cpus: Option<CpuSet>,
}

impl Host {
    pub(crate) fn proc(&self) -> PathBuf {
        self.host_root.join("proc")
    }

    pub(crate) fn cgroup_root(&self) -> PathBuf {
        self.host_root.join("sys/fs/cgroup")
    }

    pub(crate) fn ledger(&self) -> LedgerFolder {
        LedgerFolder::in_run_dir(&self.run_dir)
    }

    pub(crate) fn boot(&self) -> Result<String, ReadError> {
        boot_id(&self.proc())
    }

    /// Whether an agent runs, which binds the single ranks.
    pub(crate) fn has_agent(&self) -> bool {
        presence::is_there(&self.run_dir)
    }

    /// Refuses where this process cannot place anything: without the host's root, and without cgroup v2 alone.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        rootless(&self.proc())?;
        let root = self.cgroup_root();
        // In a hybrid tree it is one deeper.
        if root.join("cgroup.controllers").exists() { Ok(()) } else { Err(Failure::NoCgroup2 { path: root }) }
    }

    /// The arguments that say the same to another call of this program, from whatever folder.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
        let text = |path: &Path| path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
        if self.run_dir != Path::new(RUN_DIR) {
            add("--run-dir", text(&self.run_dir));
        }
        if self.host_root != Path::new(ROOT) {
            add("--host-root", text(&self.host_root));
        }
        if let Some(machine) = &self.machine {
            add("--machine", text(machine));
        }
        if let Some(reserved) = &self.reserved_cpus {
            add("--reserved-cpus", reserved.to_string());
        }
        arguments
    }
}

/// Rootless runtimes have a user namespace, in which they are called root.
fn rootless(proc: &Path) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::Rootless { why: "this is not root" });
    }
    // The first namespace has one line: all ids as they are (`user_namespaces(7)`).
    match std::fs::read_to_string(proc.join("self/uid_map")) {
        Ok(map) if map.split_ascii_whitespace().ne(["0", "0", "4294967295"]) => {
            Err(Failure::Rootless { why: "this is root in a user namespace only" })
        }
        // A kernel without user namespaces has no such file.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::Uid;
    use rustix::thread::set_thread_uid;

    use super::*;

    #[test]
    fn whoever_is_not_root_is_refused_though_its_ids_are_the_hosts() {
        // A thread's own: the others stay root.
        let thread = std::thread::spawn(|| {
            if rustix::process::geteuid().is_root() {
                set_thread_uid(Uid::from_raw(65534)).unwrap();
            }
            rootless(Path::new("/nowhere")).map_err(|failure| failure.line())
        });
        assert!(thread.join().unwrap().unwrap_err().contains("this is not root"));
    }
}
