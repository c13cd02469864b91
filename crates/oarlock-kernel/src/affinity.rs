//! Which CPUs threads may run on: `sched_setaffinity(2)`, for up to 8,192 CPUs.

use std::collections::BTreeSet;
use std::io;

use oarlock_core::CpuSet;
use rustix::io::Errno;

use crate::folder::ReadError;
use crate::proc::{Live, Process};
use crate::syscall::{self, CPU_WORDS};

/// Why an affinity could not be set or read.
#[derive(Debug, thiserror::Error)]
pub enum AffinityError {
    /// No thread may have an empty affinity.
    #[error("an affinity has at least one cpu")]
    Empty,
    /// `EINVAL`: none of the CPUs is online and in the thread's cpuset.
    #[error("thread {tid} cannot have cpus {cpus}: none of them is online and in its cpuset")]
    NotAllowed {
        /// The thread; 0 is the caller.
        tid: u32,
        /// What was asked for.
        cpus: CpuSet,
    },
    /// `EPERM`: another user's thread.
    #[error("thread {tid} cannot have cpus {cpus}: another user's thread takes CAP_SYS_NICE")]
    Denied {
        /// The thread; 0 is the caller.
        tid: u32,
        /// What was asked for.
        cpus: CpuSet,
    },
    /// The kernel gave fewer CPUs than asked for: the rest are offline or outside the thread's cpuset.
    #[error("thread {tid} got cpus {got} of {cpus}: the others are offline or not in its cpuset")]
    Partly {
        /// The thread; 0 is the caller.
        tid: u32,
        /// What was asked for.
        cpus: CpuSet,
        /// What it has now.
        got: CpuSet,
    },
    /// The threads could not be listed.
    #[error(transparent)]
    Threads(#[from] ReadError),
    /// Anything else that the kernel says.
    #[error("the affinity of thread {tid} failed")]
    Kernel {
        /// The thread; 0 is the caller.
        tid: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The CPUs that thread `tid` may run on; 0 is the caller.
pub fn of_thread(tid: u32) -> Result<Live<CpuSet>, AffinityError> {
    match syscall::sched_getaffinity(tid) {
        Ok(mask) => {
            let ids = (0_u32..).zip(mask).flat_map(|(word, bits)| bits_of(bits).map(move |bit| word * 64 + bit));
            Ok(Live::Here(ids.collect()))
        }
        Err(error) if vanished(&error) => Ok(Live::Vanished),
        Err(source) => Err(AffinityError::Kernel { tid, source }),
    }
}

/// Gives thread `tid` these CPUs and no others, and reads back that it has them; 0 is the caller.
pub fn set_thread(tid: u32, cpus: &CpuSet) -> Result<Live<()>, AffinityError> {
    if cpus.is_empty() {
        return Err(AffinityError::Empty);
    }
    let mut mask = [0_u64; CPU_WORDS];
    for cpu in cpus.iter() {
        mask[(cpu / 64) as usize] |= 1 << (cpu % 64);
    }
    match syscall::sched_setaffinity(tid, &mask) {
        Ok(()) => {}
        Err(error) if vanished(&error) => return Ok(Live::Vanished),
        Err(source) => {
            let cpus = cpus.clone();
            return Err(match Errno::from_io_error(&source) {
                Some(Errno::INVAL) => AffinityError::NotAllowed { tid, cpus },
                Some(Errno::PERM) => AffinityError::Denied { tid, cpus },
                _ => AffinityError::Kernel { tid, source },
            });
        }
    }
    // The kernel takes the part of the mask that is in the cpuset, and says nothing about the rest.
    match of_thread(tid)? {
        Live::Here(got) if got == *cpus => Ok(Live::Here(())),
        Live::Here(got) => Err(AffinityError::Partly { tid, cpus: cpus.clone(), got }),
        Live::Vanished => Ok(Live::Vanished),
    }
}

/// Gives every thread of the process these CPUs, and returns how many threads that were.
///
/// A thread that is started meanwhile has the affinity of the thread that started it, old or new: the list is read until
/// none in it has to be set. Threads that bind themselves elsewhere and start others faster than that are not fought: the
/// list is read 100 times at most.
pub fn set_process(process: &Process, cpus: &CpuSet) -> Result<Live<usize>, AffinityError> {
    const MOST_READS: u32 = 100;
    let mut seen = BTreeSet::new();
    for _ in 0..MOST_READS {
        let Live::Here(threads) = process.threads()? else { return Ok(Live::Vanished) };
        let mut all_were_set = true;
        for tid in threads {
            // Each is set once: one that then binds itself elsewhere is not fought here.
            if seen.insert(tid) && matches!(of_thread(tid)?, Live::Here(has) if has != *cpus) {
                all_were_set = false;
                // A thread that ended is done too.
                let _ended: Live<()> = set_thread(tid, cpus)?;
            }
        }
        if all_were_set {
            break;
        }
    }
    Ok(Live::Here(seen.len()))
}

/// Does this on these CPUs, as far as the calling thread may run there, and comes back.
///
/// Whoever reads a process's `environ` or `cmdline` does it there: before Linux 6.6 the kernel's NUMA balancing takes a page
/// that is read so as one that the reader needs, and may move it to the node of the reader's CPU, whatever the cpuset of the
/// process (`FOLL_NUMA` in mm/gup.c).
pub fn on<T>(cpus: &CpuSet, act: impl FnOnce() -> T) -> T {
    let home = of_thread(0);
    // Where it may not go it reads from where it is.
    drop(set_thread(0, cpus));
    let done = act();
    if let Ok(Live::Here(home)) = home {
        drop(set_thread(0, &home));
    }
    done
}

fn bits_of(word: u64) -> impl Iterator<Item = u32> {
    (0..64).filter(move |bit| word & (1 << bit) != 0)
}

fn vanished(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::SRCH)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::proc::Proc;

    fn own() -> CpuSet {
        of_thread(0).unwrap().here().unwrap()
    }

    #[test]
    fn a_thread_gets_the_cpus_it_is_given_and_its_neighbours_keep_theirs() {
        let before = own();
        let one = CpuSet::of(before.iter().last().unwrap());
        thread::scope(|scope| {
            scope.spawn(|| {
                set_thread(0, &one).unwrap();
                assert_eq!(own(), one);
            });
        });
        assert_eq!(own(), before);
    }

    #[test]
    fn what_is_done_on_other_cpus_is_done_there_and_where_the_thread_may_not_go_all_the_same() {
        let before = own();
        for last in [before.iter().last().unwrap(), 8191] {
            let there = CpuSet::of(last);
            let expected = if before.contains(last) { &there } else { &before };
            assert_eq!(on(&there, own), *expected);
            assert_eq!(own(), before);
        }
    }

    #[test]
    fn another_process_is_set_until_it_ends() {
        let all = own();
        let one = CpuSet::of(all.iter().last().unwrap());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Proc::open("/proc".as_ref()).unwrap().process(child.id()).unwrap().unwrap();
        assert_eq!(set_process(&process, &one).unwrap(), Live::Here(1));
        assert_eq!(of_thread(child.id()).unwrap(), Live::Here(one));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(set_process(&process, &all).unwrap(), Live::Vanished);
        assert_eq!(of_thread(child.id()).unwrap(), Live::Vanished);
    }

    #[test]
    fn cpus_that_the_thread_cannot_have_are_refused_by_name() {
        assert!(matches!(set_thread(0, &CpuSet::new()), Err(AffinityError::Empty)));
        let error = set_thread(0, &CpuSet::of(8191)).unwrap_err();
        assert_eq!(error.to_string(), "thread 0 cannot have cpus 8191: none of them is online and in its cpuset");
    }

    #[test]
    fn getting_only_a_part_of_the_cpus_is_not_success() {
        let (send, receive) = mpsc::channel();
        thread::spawn(move || {
            let first = own().first().unwrap();
            let mut asked = CpuSet::of(first);
            asked.insert(8191);
            send.send((first, set_thread(0, &asked))).unwrap();
        });
        let (first, result) = receive.recv().unwrap();
        assert!(matches!(result, Err(AffinityError::Partly { got, .. }) if got == CpuSet::of(first)));
    }
}
