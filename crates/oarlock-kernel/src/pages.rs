//! The pages of another process: how many there are, and moving them to other nodes.

use std::io;

use oarlock_core::NodeSet;
use rustix::io::Errno;

use crate::folder::ReadError;
use crate::proc::{Live, Process};
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
        let pid = self.pid();
        match syscall::migrate_pages(pid, &syscall::node_mask(from), &syscall::node_mask(to)) {
            Ok(left) => Ok(Live::Here(left)),
            Err(source) => match Errno::from_io_error(&source) {
                Some(Errno::SRCH) => Ok(Live::Vanished),
                Some(Errno::PERM) => Err(MoveError::Denied { pid }),
                Some(Errno::INVAL) => Err(MoveError::NotAllowed { pid, to: to.clone() }),
                _ => Err(MoveError::Kernel { pid, source }),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

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
}
