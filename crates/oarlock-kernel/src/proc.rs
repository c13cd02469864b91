//! Processes under a `/proc` root: their files, threads, children and environment.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::path::Path;

use crate::cgroup::{Hierarchy, Membership, Namespace};
use crate::folder::{Filesystem, Folder, ReadError};
use crate::numa_maps::{self, NumaMaps, Policy};
use crate::status::Status;

/// The bytes of arguments and environment that the kernel gives an executed program at most; a program may point elsewhere.
pub(crate) const MOST_STRINGS: u64 = 6 << 20;

/// Something of a process that may end at any moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Live<T> {
    /// It was there to be read.
    Here(T),
    /// The process (or thread) has ended meanwhile: not an absence, and not a failure.
    Vanished,
}

impl<T> Live<T> {
    /// The value, unless the process has ended.
    pub fn here(self) -> Option<T> {
        match self {
            Self::Here(value) => Some(value),
            Self::Vanished => None,
        }
    }
}

/// A `/proc` tree.
#[derive(Debug)]
pub struct Proc {
    root: Folder,
    namespace: Namespace,
}

impl Proc {
    /// Opens a mounted procfs.
    pub fn open(root: &Path) -> Result<Self, ReadError> {
        let proc = Self::open_any_folder(root)?;
        proc.root.require(Filesystem::Proc)?;
        Ok(proc)
    }

    /// Opens a folder that looks like a procfs, without asking whether it is one: for tests and captured trees.
    pub fn open_any_folder(root: &Path) -> Result<Self, ReadError> {
        match Folder::open(root)? {
            Some(root) => Ok(Self { root, namespace: Namespace::default() }),
            None => Err(ReadError::Io { path: root.to_owned(), source: std::io::ErrorKind::NotFound.into() }),
        }
    }

    /// The same, which tells of processes' cgroups by their paths in the whole tree, also where this process is in a
    /// container with a cgroup namespace of its own. As it is, where this process is in none of the tree's cgroups.
    pub fn with_whole_paths(self, tree: &Hierarchy) -> Result<Self, ReadError> {
        let own = std::process::id();
        let Some(Live::Here(Some(membership))) = self.process(own)?.map(|process| process.cgroup()).transpose()? else {
            return Ok(self);
        };
        let shown = membership.unified.unwrap_or_default();
        let namespace = Namespace::of(own, &shown, tree)?.unwrap_or_default();
        Ok(Self { namespace, ..self })
    }

    /// The process (or thread) of this id; `None` where there is none.
    pub fn process(&self, pid: u32) -> Result<Option<Process>, ReadError> {
        let folder = self.root.folder(pid.to_string())?;
        Ok(folder.map(|folder| Process { pid, folder, namespace: self.namespace.clone() }))
    }

    /// The ids of all processes, ascending.
    pub fn pids(&self) -> Result<Vec<u32>, ReadError> {
        self.root.numbers()
    }

    /// The children of a process, their children, and so on, parents before children. Processes that come and go
    /// meanwhile may be missed.
    pub fn descendants(&self, pid: u32) -> Result<Vec<u32>, ReadError> {
        let mut all = None;
        let mut seen = BTreeSet::from([pid]);
        let mut queue = VecDeque::from([pid]);
        let mut found = Vec::new();
        while let Some(parent) = queue.pop_front() {
            let children = match self.listed_children(parent)? {
                Some(children) => children,
                None => match &all {
                    Some(all) => children_in(all, parent),
                    None => children_in(all.insert(self.parents()?), parent),
                },
            };
            for child in children.into_iter().filter(|&child| seen.insert(child)) {
                found.push(child);
                queue.push_back(child);
            }
        }
        Ok(found)
    }

    /// The children as `task/TID/children` lists them; `None` on a kernel without that file (`CONFIG_PROC_CHILDREN`).
    fn listed_children(&self, pid: u32) -> Result<Option<Vec<u32>>, ReadError> {
        let Some(process) = self.process(pid)? else { return Ok(Some(Vec::new())) };
        let Live::Here(threads) = process.threads()? else { return Ok(Some(Vec::new())) };
        let mut children = Vec::new();
        for tid in threads {
            let Some(task) = process.folder.folder(format!("task/{tid}"))? else { continue };
            let Some(text) = task.text("children")? else {
                if task.has("status") {
                    return Ok(None);
                }
                continue;
            };
            for word in text.split_ascii_whitespace() {
                let child = word.parse().map_err(|_| {
                    ReadError::malformed(&task.path().join("children"), word, "process ids separated by spaces")
                })?;
                children.push(child);
            }
        }
        Ok(Some(children))
    }

    /// Every process's children, by the parent that its status names.
    fn parents(&self) -> Result<BTreeMap<u32, Vec<u32>>, ReadError> {
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for pid in self.pids()? {
            let Some(process) = self.process(pid)? else { continue };
            let Live::Here(status) = process.status()? else { continue };
            children.entry(status.parent).or_default().push(pid);
        }
        Ok(children)
    }
}

fn children_in(all: &BTreeMap<u32, Vec<u32>>, parent: u32) -> Vec<u32> {
    all.get(&parent).cloned().unwrap_or_default()
}

/// One process's folder, held open: another process that gets the same id later is not mistaken for it.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    folder: Folder,
    namespace: Namespace,
}

impl Process {
    /// The process id, as this `/proc` numbers it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// `status` of the process: of its main thread where threads differ.
    pub fn status(&self) -> Result<Live<Status>, ReadError> {
        Status::read(&self.folder)
    }

    /// The ids of its threads, ascending.
    pub fn threads(&self) -> Result<Live<Vec<u32>>, ReadError> {
        let threads = match self.folder.folder("task")? {
            Some(tasks) => tasks.numbers()?,
            None => Vec::new(),
        };
        Ok(if threads.is_empty() { Live::Vanished } else { Live::Here(threads) })
    }

    /// `task/TID/status`.
    pub fn thread(&self, tid: u32) -> Result<Live<Status>, ReadError> {
        match self.task(tid)? {
            Some(task) => Status::read(&task),
            None => Ok(Live::Vanished),
        }
    }

    /// The memory policy of one thread, as the first mapping in `task/TID/numa_maps` shows it: a mapping has the thread's
    /// policy unless the program gave that mapping its own. `None` on a kernel without NUMA, and for a process that has no
    /// memory (any more).
    pub fn thread_policy(&self, tid: u32) -> Result<Live<Option<Policy>>, ReadError> {
        let Some(task) = self.task(tid)? else { return Ok(Live::Vanished) };
        let policy = numa_maps::first_policy(&task)?;
        Ok(in_time(&task, policy))
    }

    /// `numa_maps`, added up; `None` on a kernel without NUMA, and for a process that has no memory (any more).
    pub fn numa_maps(&self) -> Result<Live<Option<NumaMaps>>, ReadError> {
        let maps = NumaMaps::read(&self.folder)?;
        Ok(in_time(&self.folder, maps))
    }

    /// `cgroup`: where the process is in each hierarchy; `None` on a kernel without cgroups.
    pub fn cgroup(&self) -> Result<Live<Option<Membership>>, ReadError> {
        let membership = Membership::read(&self.folder)?;
        Ok(in_time(&self.folder, membership.map(|membership| self.namespace.whole(membership))))
    }

    /// The environment that the process was executed with, or what it has made of it: anything may be in there.
    pub fn environ(&self) -> Result<Live<Environ>, ReadError> {
        let contents = self.folder.read("environ", MOST_STRINGS)?;
        Ok(match in_time(&self.folder, contents) {
            Live::Here(Some(contents)) => Live::Here(Environ { bytes: contents.bytes, cut: contents.cut }),
            // A process that has no memory (any more) has no environment either.
            Live::Here(None) => Live::Here(Environ { bytes: Vec::new(), cut: false }),
            Live::Vanished => Live::Vanished,
        })
    }

    /// `cmdline`: the arguments that the process was executed with, or what it has made of them. Past 64 KiB they are left
    /// out; a process without memory has none.
    pub fn arguments(&self) -> Result<Live<Vec<Vec<u8>>>, ReadError> {
        const LIMIT: u64 = 64 << 10;
        let contents = self.folder.read("cmdline", LIMIT)?;
        Ok(match in_time(&self.folder, contents) {
            Live::Here(contents) => {
                let bytes = contents.map(|contents| contents.bytes).unwrap_or_default();
                let ended = bytes.strip_suffix(b"\0").unwrap_or(&bytes).split(|&byte| byte == 0);
                Live::Here(if bytes.is_empty() { Vec::new() } else { ended.map(<[u8]>::to_vec).collect() })
            }
            Live::Vanished => Live::Vanished,
        })
    }

    /// When it was started, in clock ticks since the boot: the 22nd field of `stat` (`proc(5)`).
    pub fn started(&self) -> Result<Live<u64>, ReadError> {
        Ok(match self.numbers_of_stat(22, "the 22nd field is a time")? {
            Live::Here([ticks]) => Live::Here(ticks),
            Live::Vanished => Live::Vanished,
        })
    }

    /// Where its arguments and its environment are in its memory: fields 48 to 51 of `stat` (`proc(5)`), zeros for whom that
    /// does not concern. A program may have made anything of them.
    pub(crate) fn strings(&self) -> Result<Live<[Range<u64>; 2]>, ReadError> {
        Ok(match self.numbers_of_stat(48, "fields 48 to 51 are addresses")? {
            Live::Here([arguments, arguments_end, environ, environ_end]) => {
                Live::Here([arguments..arguments_end, environ..environ_end])
            }
            Live::Vanished => Live::Vanished,
        })
    }

    /// So many fields of `stat` from this one on, counted as in `proc(5)`. All after the third are numbers.
    fn numbers_of_stat<const COUNT: usize>(&self, first: usize, rule: &str) -> Result<Live<[u64; COUNT]>, ReadError> {
        let Some(contents) = self.folder.read("stat", 4096)? else { return Ok(Live::Vanished) };
        let text = String::from_utf8_lossy(&contents.bytes);
        // The second field is its name in parentheses, and there may be others in it. The third follows.
        let numbers = text.rsplit_once(')').and_then(|(_, rest)| {
            let words = rest.split_ascii_whitespace().skip(first - 3).take(COUNT);
            words.map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>()?.try_into().ok()
        });
        let malformed = || ReadError::malformed(&self.folder.path().join("stat"), &text, rule);
        numbers.map(Live::Here).ok_or_else(malformed)
    }

    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    fn task(&self, tid: u32) -> Result<Option<Folder>, ReadError> {
        self.folder.folder(format!("task/{tid}"))
    }
}

/// Tells a file that this kernel lacks from a process that has ended: `status` is there exactly as long as the process is.
fn in_time<T>(folder: &Folder, found: Option<T>) -> Live<Option<T>> {
    if found.is_some() || folder.has("status") { Live::Here(found) } else { Live::Vanished }
}

/// An environment block: `KEY=value` strings, each ended by a NUL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environ {
    bytes: Vec<u8>,
    cut: bool,
}

impl Environ {
    /// The value of the first entry for `key`, as `getenv(3)` finds it.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        let key = key.as_bytes();
        self.bytes
            .split(|&byte| byte == 0)
            .find_map(|entry| entry.strip_prefix(key).and_then(|rest| rest.strip_prefix(b"=")))
    }

    /// The first entries for any of these keys, found in one pass: whoever starts a process may give it megabytes.
    pub fn get_all<'a>(&self, keys: &[&'a str]) -> Vec<(&'a str, &[u8])> {
        let shortest = keys.iter().map(|key| key.len()).min().unwrap_or_default();
        let mut found: Vec<(&str, &[u8])> = Vec::new();
        for entry in self.bytes.split(|&byte| byte == 0).filter(|entry| entry.len() > shortest) {
            let value = |key: &str| entry.strip_prefix(key.as_bytes())?.strip_prefix(b"=");
            if let Some((key, value)) = keys.iter().find_map(|&key| Some((key, value(key)?)))
                && found.iter().all(|(known, _)| *known != key)
            {
                found.push((key, value));
            }
        }
        found
    }

    /// Whether there was more than was read.
    pub fn is_cut(&self) -> bool {
        self.cut
    }
}

#[cfg(test)]
mod tests;
