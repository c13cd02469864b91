//! What ranks leave behind: processes that they started and did not end. They are this process's descendants, as it takes
//! over their orphans.

use std::time::{Duration, Instant};

use oarlock_kernel::Proc;
use rustix::process::{Pid, Signal};

use super::output::say;
use super::supervise::{GIVE_UP, Supervisor};

/// Between two looks, where no child's end wakes us: an orphan's own child ends without a word to us.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Ends every descendant of this process; returns whether all have ended.
pub(super) fn end(supervisor: &mut Supervisor) -> bool {
    let mut left = descendants(supervisor);
    signal(&left, Signal::TERM);
    let mut until = Instant::now() + supervisor.grace();
    let mut killed = false;
    while !left.is_empty() {
        if Instant::now() >= until {
            if killed {
                let left: Vec<String> = left.iter().map(u32::to_string).collect();
                say(&format!("processes of the ranks do not end: {}", left.join(", ")));
                return false;
            }
            killed = true;
            until = Instant::now() + GIVE_UP;
        }
        if killed {
            // Also those that were started since.
            signal(&left, Signal::KILL);
        }
        if let Some(event) = supervisor.next(Some(Instant::now() + LOOK_AGAIN)) {
            supervisor.note(&event);
        }
        left = descendants(supervisor);
    }
    true
}

fn descendants(supervisor: &mut Supervisor) -> Vec<u32> {
    supervisor.reap();
    // Without a readable /proc nothing can be found, and nothing more be done.
    Proc::open("/proc".as_ref()).and_then(|proc| proc.descendants(std::process::id())).unwrap_or_default()
}

fn signal(pids: &[u32], signal: Signal) {
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
        // One that has ended meanwhile is what we want.
        let _ = rustix::process::kill_process(pid, signal);
    }
}
