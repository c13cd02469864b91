//! `/proc/PID/status` and `/proc/PID/task/TID/status`.

use std::path::Path;
use std::str::FromStr;

use oarlock_core::{CpuSet, NodeSet};

use crate::folder::{Folder, ReadError};
use crate::proc::Live;

/// What the status of a process or thread says, as far as it is used here (`Documentation/filesystems/proc.rst`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The name: the first 15 bytes of the program's file name, unless the thread has named itself.
    pub name: String,
    /// The state's letter: `R`, `S`, `D`, `T`, `Z` and so on.
    pub state: char,
    /// The thread's id.
    pub tid: u32,
    /// The process id.
    pub process: u32,
    /// The parent's process id; 0 where there is none, or none in this pid namespace.
    pub parent: u32,
    /// The process id in each pid namespace, from this `/proc`'s inwards. `None` on a kernel without pid namespaces.
    pub namespaced: Option<Vec<u32>>,
    /// The number of threads of the process.
    pub threads: Option<u32>,
    /// The signals that the process ignores: bit `n - 1` is signal `n`.
    pub signals_ignored: Option<u64>,
    /// The CPUs that the thread may run on: its affinity within its cpuset. `None` on a kernel without cpusets.
    pub cpus_allowed: Option<CpuSet>,
    /// The nodes that its cpuset lets pages come from; its memory policy may narrow that. `None` on a kernel without
    /// cpusets.
    pub mems_allowed: Option<NodeSet>,
}

impl Status {
    /// Whether the process has ended, and only waits for its parent to take note.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    pub(crate) fn read(folder: &Folder) -> Result<Live<Self>, ReadError> {
        // A thread may call itself anything, also what is no text. The rest is some kilobytes, and with the most
        // supplementary groups (65,536) less than this.
        const LIMIT: u64 = 1 << 20;
        match folder.read("status", LIMIT)? {
            Some(contents) => {
                let text = String::from_utf8_lossy(&contents.bytes);
                Self::parse(&text, &folder.path().join("status")).map(Live::Here)
            }
            None => Ok(Live::Vanished),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ReadError> {
        let field = |key: &'static str| {
            text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(|value| Field {
                key,
                value,
                path,
            })
        };
        let required = |key: &'static str| {
            field(key).ok_or_else(|| ReadError::malformed(path, text, format!("a status has a line \"{key}:\"")))
        };
        let state = required("State")?;
        Ok(Self {
            name: required("Name")?.value.trim_start_matches('\t').to_owned(),
            state: state.value.trim().chars().next().ok_or_else(|| state.malformed("a letter"))?,
            tid: required("Pid")?.number()?,
            process: required("Tgid")?.number()?,
            parent: required("PPid")?.number()?,
            namespaced: field("NSpid").map(|field| field.numbers()).transpose()?,
            threads: field("Threads").map(|field| field.number()).transpose()?,
            signals_ignored: field("SigIgn").map(|field| field.mask()).transpose()?,
            cpus_allowed: field("Cpus_allowed_list").map(|field| field.set()).transpose()?,
            mems_allowed: field("Mems_allowed_list").map(|field| field.set()).transpose()?,
        })
    }
}

struct Field<'a> {
    key: &'a str,
    value: &'a str,
    path: &'a Path,
}

impl Field<'_> {
    fn number(&self) -> Result<u32, ReadError> {
        self.value.trim().parse().map_err(|_| self.malformed("a number"))
    }

    fn numbers(&self) -> Result<Vec<u32>, ReadError> {
        let words = self.value.split_ascii_whitespace();
        words.map(|word| word.parse().map_err(|_| self.malformed("numbers"))).collect()
    }

    fn mask(&self) -> Result<u64, ReadError> {
        u64::from_str_radix(self.value.trim(), 16).map_err(|_| self.malformed("a hexadecimal mask"))
    }

    fn set<T: FromStr<Err: std::fmt::Display>>(&self) -> Result<T, ReadError> {
        self.value.trim().parse().map_err(|error| self.malformed(&format!("a list ({error})")))
    }

    fn malformed(&self, what: &str) -> ReadError {
        let Self { key, value, path } = self;
        ReadError::malformed(path, &format!("{key}:{value}"), format!("{key} is followed by {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Threads differ from the process in every number, so that a wrong line shows.
    const THREAD: &str = "Name:\tpt data: \\n 0\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t4100\nNgid:\t0\nPid:\t4107\nPPid:\t77\n\
        TracerPid:\t0\nNSpid:\t4107\t19\t3\nThreads:\t12\nSigBlk:\t0000000000010000\nSigIgn:\t0000000001001001\nCpus_allowed:\tffff0000,00000000,00ff0000\n\
        Cpus_allowed_list:\t16-23,80-95\nMems_allowed:\t00000000,0000000a\nMems_allowed_list:\t1,3\n";

    fn parse(text: &str) -> Result<Status, ReadError> {
        Status::parse(text, "/proc/4100/status".as_ref())
    }

    #[test]
    fn a_status_says_who_the_thread_is_and_what_it_is_allowed() {
        let status = parse(THREAD).unwrap();
        assert_eq!(
            status,
            Status {
                name: "pt data: \\n 0".to_owned(),
                state: 'S',
                tid: 4107,
                process: 4100,
                parent: 77,
                namespaced: Some(vec![4107, 19, 3]),
                threads: Some(12),
                signals_ignored: Some(0x0100_1001),
                cpus_allowed: Some("16-23,80-95".parse().unwrap()),
                mems_allowed: Some("1,3".parse().unwrap()),
            }
        );
    }

    #[test]
    fn lines_that_a_kernel_leaves_out_are_none() {
        let status = parse("Name:\tinit\nState:\tZ (zombie)\nTgid:\t9\nPid:\t9\nPPid:\t0\n").unwrap();
        assert_eq!((status.namespaced, status.threads, status.signals_ignored), (None, None, None));
        assert_eq!((status.cpus_allowed.clone(), status.mems_allowed.clone()), (None, None));
        assert!(parse("Name:\tinit\nState:\tZ (zombie)\nTgid:\t9\nPid:\t9\nPPid:\t0\n").unwrap().is_zombie());
    }

    #[test]
    fn a_line_that_makes_no_sense_is_an_error_with_path_and_text() {
        let error = parse(&THREAD.replace("16-23,80-95", "16-23,80-9x")).unwrap_err().to_string();
        assert!(error.contains("/proc/4100/status") && error.contains("80-9x"), "{error}");
        let error = parse(&THREAD.replace("PPid:", "Papa:")).unwrap_err().to_string();
        assert!(error.contains("a line \"PPid:\""), "{error}");
        assert!(parse("").is_err());
        assert!(parse(&THREAD.replace("Tgid:\t4100", "Tgid:\t-1")).is_err());
    }
}
