//! The pages of another process: how many there are, where some of them are, and moving them to other nodes.
//!
//! A page of a rank may leave its wall in one way that is known. Before Linux 6.6 (`FOLL_NUMA` in mm/gup.c), NUMA balancing
//! takes whoever reads a process's `cmdline` or `environ` for one of its threads, and may move the page that holds these to
//! the node of the reader's CPU; the reader's cpuset counts then, and not the process's. Any `ps` may do it.

use std::collections::BTreeSet;
use std::io;

use oarlock_core::NodeSet;
use rustix::io::Errno;

use crate::folder::ReadError;
use crate::proc::{Live, MOST_STRINGS, Process};
use crate::syscall;

/// Why pages could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// `EPERM`.
    #[error("moving the pages of process {pid} takes CAP_SYS_NICE")]
    Denied {
        /// The process.
        pid: u32,
    },
    /// `EINVAL`, also for nodes that the process may not have.
    #[error("the pages of process {pid} cannot go to nodes {to}: it may not have memory there")]
    NotAllowed {
        /// The process.
        pid: u32,
        /// Where they were to go.
        to: NodeSet,
    },
    /// The process could not be read.
    #[error(transparent)]
    Process(#[from] ReadError),
    /// Anything else that the kernel says.
    #[error("the pages of process {pid} could not be moved")]
    Kernel {
        /// The process.
        pid: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Process {
    /// The bytes that it has in memory, those included that it shares (`statm`, in pages).
    pub fn resident(&self) -> Result<Live<u64>, ReadError> {
        let Some(text) = self.folder().text("statm")? else { return Ok(Live::Vanished) };
        let pages = text.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
        let path = self.folder().path().join("statm");
        let pages = pages.ok_or_else(|| ReadError::malformed(&path, &text, "its second word is a number of pages"))?;
        Ok(Live::Here(pages.saturating_mul(rustix::param::page_size() as u64)))
    }

    /// Moves its pages from some nodes to others (`migrate_pages(2)`), and returns how many stayed behind: those that the
    /// kernel itself is busy with, or that a device has pinned. It goes over all of the process's memory.
    pub fn move_pages(&self, from: &NodeSet, to: &NodeSet) -> Result<Live<u64>, MoveError> {
        let left = syscall::migrate_pages(self.pid(), &syscall::node_mask(from), &syscall::node_mask(to));
        self.moved(left, to)
    }

    /// How many of the pages that hold its arguments and environment are on other nodes than these.
    pub fn strings_outside(&self, nodes: &NodeSet) -> Result<Live<u64>, MoveError> {
        Ok(match self.strings_astray(nodes)? {
            Live::Here(addresses) => Live::Here(addresses.len() as u64),
            Live::Vanished => Live::Vanished,
        })
    }

    /// Moves the pages that hold its arguments and environment, and are on other nodes than these, to the first of these
    /// (`move_pages(2)`), and returns how many there were. That takes little where there are none.
    pub fn bring_strings(&self, nodes: &NodeSet) -> Result<Live<u64>, MoveError> {
        let Live::Here(addresses) = self.strings_astray(nodes)? else { return Ok(Live::Vanished) };
        if !addresses.is_empty() {
            let moved = syscall::move_pages(self.pid(), &addresses, nodes.first());
            if self.moved(moved, nodes)? == Live::Vanished {
                return Ok(Live::Vanished);
            }
        }
        Ok(Live::Here(addresses.len() as u64))
    }

    fn strings_astray(&self, nodes: &NodeSet) -> Result<Live<Vec<usize>>, MoveError> {
        let Live::Here(strings) = self.strings()? else { return Ok(Live::Vanished) };
        let page = rustix::param::page_size() as u64;
        let most = (MOST_STRINGS / page) as usize;
        let pages = strings.into_iter().flat_map(|range| (range.start / page..range.end.div_ceil(page)).take(most));
        let addresses: Vec<usize> =
            pages.collect::<BTreeSet<u64>>().into_iter().map(|at| (at * page) as usize).collect();
        // A process without memory (a zombie) has none, and is not to be asked.
        if addresses.is_empty() {
            return Ok(Live::Here(addresses));
        }
        let status = syscall::move_pages(self.pid(), &addresses, None);
        let Live::Here(status) = self.moved(status, nodes)? else { return Ok(Live::Vanished) };
        // A page that is not there, as it was swapped out, has no node.
        let is_astray = |status: i32| u32::try_from(status).is_ok_and(|node| !nodes.contains(node));
        Ok(Live::Here(addresses.into_iter().zip(status).filter(|&(_, at)| is_astray(at)).map(|(at, _)| at).collect()))
    }

    /// What the kernel said to moving pages to these nodes.
    fn moved<T>(&self, said: io::Result<T>, to: &NodeSet) -> Result<Live<T>, MoveError> {
        let pid = self.pid();
        said.map(Live::Here).or_else(|source| match Errno::from_io_error(&source) {
            Some(Errno::SRCH) => Ok(Live::Vanished),
            Some(Errno::PERM) => Err(MoveError::Denied { pid }),
            Some(Errno::INVAL) => Err(MoveError::NotAllowed { pid, to: to.clone() }),
            _ => Err(MoveError::Kernel { pid, source }),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::path::Path;
    use std::process::Stdio;

    use super::*;
    use crate::Proc;

    fn this() -> Process {
        let proc = Proc::open(Path::new("/proc")).unwrap();
        proc.process(std::process::id()).unwrap().unwrap()
    }

    #[test]
    fn what_a_process_has_in_memory_grows_with_what_it_touches() {
        let before = this().resident().unwrap().here().unwrap();
        let memory = vec![1_u8; 64 << 20];
        let after = this().resident().unwrap().here().unwrap();
        assert!(after >= before + (60 << 20), "{before} {after} {}", memory[4096]);
    }

    #[test]
    fn pages_stay_where_nothing_is_to_move_and_absent_nodes_are_refused() {
        let here: NodeSet = "0".parse().unwrap();
        assert_eq!(this().move_pages(&here, &here).unwrap(), Live::Here(0));
        let error = this().move_pages(&here, &"1023".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("cannot go to nodes 1023"), "{error}");
    }

    #[test]
    fn the_pages_of_arguments_and_environment_are_counted_where_they_are() {
        let mut child = std::process::Command::new("cat");
        let child = child.env("BIG", "x".repeat(100_000)).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.spawn().unwrap();
        // Its environment is there when the program runs, which is later than its start returns.
        child.stdin.as_mut().unwrap().write_all(b".").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let proc = Proc::open(Path::new("/proc")).unwrap();
        let process = proc.process(child.id()).unwrap().unwrap();
        let everywhere: NodeSet = (0..1024).collect();
        let counted = (process.strings_outside(&everywhere), process.strings_outside(&"1023".parse().unwrap()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(counted.0.unwrap(), Live::Here(0));
        let all = counted.1.unwrap().here().unwrap();
        assert!((100_000 / 4096..100_000 / 4096 + 30).contains(&all), "{all}");
        assert_eq!(process.strings_outside(&everywhere).unwrap(), Live::Vanished);
        assert_eq!(process.bring_strings(&everywhere).unwrap(), Live::Vanished);
    }
}
