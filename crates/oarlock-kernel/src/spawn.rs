//! How children are tied to the process that starts them.

use std::process::Command;

use crate::syscall;

/// Has the kernel kill the child (`SIGKILL`) as soon as the thread that spawns it ends, however that ends. Spawning fails
/// where this process ends between fork and exec.
pub fn kill_with_parent(command: &mut Command) {
    syscall::kill_with_parent(command);
}
