//! The managed containers of this host: what the ledger holds of them, and the processes that they have now.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use oarlock_kernel::cgroup::{Hierarchy, Membership};
use oarlock_kernel::ledger::{Contents, Entry, LedgerFolder, boot_id};
use oarlock_kernel::{Live, Proc, ReadError, rank_cgroup};

use crate::failure::Failure;

/// The agent holds the ledger for milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where this host keeps what it knows of containers.
#[derive(Debug, Clone, Args)]
pub(crate) struct HostFlags {
    /// The folder that holds the ledger
    #[arg(long, value_name = "FOLDER", default_value = "/run/oarlock")]
    run_dir: PathBuf,
    /// Where the cgroup v2 tree is mounted
    #[arg(long, value_name = "FOLDER", default_value = "/sys/fs/cgroup")]
    cgroup_root: PathBuf,
}

/// Which containers are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    /// By the container's id, or by so much of it that no other begins so.
    Container(String),
    /// All of a pod.
    Pod {
        namespace: String,
        name: String,
    },
}

/// This host.
pub(crate) struct Host {
    pub(crate) proc: Proc,
    /// `None` where cgroup v2 is not mounted there.
    pub(crate) hierarchy: Option<Hierarchy>,
    pub(crate) ledger: LedgerFolder,
    run_dir: PathBuf,
    boot: String,
}

/// A managed container, as it is now.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) entry: Entry,
    /// Its processes, by id. None: it has ended, or not begun.
    pub(crate) members: Vec<Member>,
}

/// A process of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) pid: u32,
    /// The rank whose cgroup it is in.
    pub(crate) held: Option<u32>,
}

/// What the ledger holds, and what in it makes no sense.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) containers: Vec<Container>,
    /// Files that are no entries, in words.
    pub(crate) problems: Vec<String>,
}

/// A pod, as `NAMESPACE/NAME`.
pub(crate) fn pod(text: &str) -> Result<Which, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(Which::Pod { namespace: namespace.to_owned(), name: name.to_owned() })
        }
        _ => Err("a pod is NAMESPACE/NAME".to_owned()),
    }
}

impl HostFlags {
    /// Opens what is there.
    pub(crate) fn open(self) -> Result<Host, Failure> {
        let mut proc = Proc::open("/proc".as_ref()).map_err(anyhow::Error::new)?;
        let hierarchy = match Hierarchy::open(&self.cgroup_root) {
            // Ranks of a host with cgroup v1 are bound by affinity, and seen in /proc.
            Err(ReadError::OtherFilesystem { .. }) => None,
            opened => opened.map_err(anyhow::Error::new)?,
        };
        // In the agent's own container this is what tells pods' cgroups.
        if let Some(tree) = &hierarchy {
            proc = proc.with_whole_paths(tree).map_err(anyhow::Error::new)?;
        }
        let boot = boot_id("/proc".as_ref()).map_err(anyhow::Error::new)?;
        Ok(Host { proc, hierarchy, ledger: LedgerFolder::in_run_dir(&self.run_dir), run_dir: self.run_dir, boot })
    }
}

impl Host {
    /// The containers that are meant, by id, each with its processes. One that is named and not there is a failure.
    pub(crate) fn find(&self, which: &Which) -> Result<Found, Failure> {
        let mut reader = self.ledger.reader(self.boot.clone());
        let contents = reader.read().map_err(anyhow::Error::new)?;
        let entries = self.choose(contents, which)?;
        let mut containers: Vec<Container> =
            entries.into_iter().map(|entry| Container { entry: entry.clone(), members: Vec::new() }).collect();
        self.fill(&mut containers).context("the processes of this host cannot be listed")?;
        let problems = match which {
            Which::All => contents.faults().map(|(_, error)| chain(error)).collect(),
            Which::Container(_) | Which::Pod { .. } => Vec::new(),
        };
        Ok(Found { containers, problems })
    }

    /// Marks the entry of a container as unpinned; whether that is new. There may be none any more.
    pub(crate) fn mark_unpinned(&self, id: &str) -> anyhow::Result<bool> {
        let locked = self.ledger.lock(PATIENCE)?;
        let mut reader = self.ledger.reader(self.boot.clone());
        let Some(entry) = reader.read()?.get(id).filter(|entry| !entry.unpinned) else { return Ok(false) };
        locked.put(&Entry { unpinned: true, ..entry.clone() })?;
        Ok(true)
    }

    /// Removes the entry of a container that has ended.
    pub(crate) fn forget(&self, id: &str) -> anyhow::Result<()> {
        self.ledger.lock(PATIENCE)?.remove(id)?;
        Ok(())
    }

    fn choose<'a>(&self, contents: &'a Contents, which: &Which) -> Result<Vec<&'a Entry>, Failure> {
        let entries: Vec<&Entry> = match which {
            Which::All => return Ok(contents.entries().collect()),
            Which::Container(id) => match contents.get(id) {
                Some(entry) => vec![entry],
                None => contents.entries().filter(|entry| !id.is_empty() && entry.id.starts_with(id)).collect(),
            },
            Which::Pod { namespace, name } => contents
                .entries()
                .filter(|entry| entry.pod.namespace == *namespace && entry.pod.name == *name)
                .collect(),
        };
        match (which, entries.len()) {
            (Which::Container(id), 0) => {
                if let Some((_, fault)) = contents.faults().find(|(fault, _)| fault == id) {
                    return Err(Failure::Failed(anyhow::anyhow!("{}", chain(fault))));
                }
                Err(self.unknown(&format!("container {id:?}")))
            }
            (Which::Container(id), 2..) => {
                let message = format!("{} containers have an id that begins with {id:?}", entries.len());
                Err(Failure::Failed(anyhow::anyhow!(message)))
            }
            (Which::Pod { namespace, name }, 0) => Err(self.unknown(&format!("pod {namespace:?}/{name:?}"))),
            _ => Ok(entries),
        }
    }

    fn unknown(&self, what: &str) -> Failure {
        Failure::Failed(anyhow::anyhow!("{what} is not in the ledger in \"{}\"", self.run_dir.display()))
    }

    /// Looks through all processes once: that finds those of cgroup v1, of sub-cgroups that a container made for itself, and
    /// those that are where the ledger does not know.
    fn fill(&self, containers: &mut [Container]) -> Result<(), ReadError> {
        if containers.is_empty() {
            return Ok(());
        }
        for pid in self.proc.pids()? {
            let Some(process) = self.proc.process(pid)? else { continue };
            let Live::Here(Some(membership)) = process.cgroup()? else { continue };
            let Some(container) = containers.iter_mut().find(|one| one.holds(&membership)) else { continue };
            let held = membership.unified.as_deref().and_then(rank_cgroup::split).map(|(_, rank)| rank);
            container.members.push(Member { pid, held });
        }
        Ok(())
    }
}

impl Container {
    /// The pod's and the container's name, for people.
    pub(crate) fn name(&self) -> String {
        let Entry { pod, name, .. } = &self.entry;
        format!("{}/{}/{name}", pod.namespace, pod.name)
    }

    /// Whether a process with these cgroups is one of its.
    fn holds(&self, membership: &Membership) -> bool {
        let paths = membership.unified.iter().chain(membership.legacy.iter().map(|(_, path)| path));
        let mut seen = BTreeSet::new();
        paths.into_iter().filter(|path| seen.insert(path.as_str())).any(|path| match &self.entry.cgroup {
            Some(cgroup) => {
                path.strip_prefix(cgroup.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            None => path.split('/').any(|part| names(part, &self.entry.id)),
        })
    }

    /// The cgroup of its processes that are no ranks; `None` where that is not known (yet).
    pub(crate) fn cgroup(&self, proc: &Proc) -> Option<String> {
        if let Some(cgroup) = &self.entry.cgroup {
            return Some(cgroup.clone());
        }
        let first = proc.process(self.members.first()?.pid).ok()??;
        let place = first.cgroup().ok()?.here()??.unified?;
        Some(rank_cgroup::split(&place).map_or(place.as_str(), |(container, _)| container).to_owned())
    }
}

impl Container {
    /// The cgroups that may have been given the container's cpuset: that of its processes, and the one above, where that is
    /// the container's too. Some runtimes put the processes one deeper than what they were told.
    pub(crate) fn cgroups<'a>(&self, cgroup: &'a str) -> impl Iterator<Item = &'a str> {
        let above = cgroup.rsplit_once('/').map(|(above, _)| above);
        let above = above.filter(|above| above.rsplit('/').next().is_some_and(|name| names(name, &self.entry.id)));
        std::iter::once(cgroup).chain(above)
    }
}

/// Runtimes name a container's cgroup by its id, alone or as `RUNTIME-ID.scope`.
fn names(part: &str, id: &str) -> bool {
    part == id
        || part.strip_suffix(".scope").and_then(|part| part.strip_suffix(id)).is_some_and(|rest| rest.ends_with('-'))
}

/// The error and its causes, as one line has them.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests;
