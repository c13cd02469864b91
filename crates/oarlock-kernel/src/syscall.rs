//! The few system calls that rustix lacks, or offers for 1,024 CPUs only. Nothing else in the workspace is unsafe.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use oarlock_core::NodeSet;
use rustix::process::Signal;

/// 64-bit words of a mask of CPUs (`NR_CPUS` is at most 8,192).
pub(crate) const CPU_WORDS: usize = 8192 / 64;
/// 64-bit words of a mask of nodes (`MAX_NUMNODES` is at most 1,024).
pub(crate) const NODE_WORDS: usize = 1024 / 64;

/// `sched_setaffinity(2)`; thread 0 is the caller.
#[expect(unsafe_code, reason = "rustix's CpuSet ends at cpu 1023")]
pub(crate) fn sched_setaffinity(tid: u32, mask: &[u64; CPU_WORDS]) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of_val(mask)` bytes from a live array of that size and keeps no pointer to it.
    let result =
        unsafe { libc::syscall(libc::SYS_sched_setaffinity, tid as libc::pid_t, size_of_val(mask), mask.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `sched_getaffinity(2)`; thread 0 is the caller.
#[expect(unsafe_code, reason = "rustix's CpuSet ends at cpu 1023")]
pub(crate) fn sched_getaffinity(tid: u32) -> io::Result<[u64; CPU_WORDS]> {
    let mut mask = [0_u64; CPU_WORDS];
    // SAFETY: the kernel writes at most `size_of_val(&mask)` bytes into a live array of that size; any bits are valid.
    let result = unsafe {
        libc::syscall(libc::SYS_sched_getaffinity, tid as libc::pid_t, size_of_val(&mask), mask.as_mut_ptr())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(mask) }
}

/// `set_mempolicy(2)` for the calling thread.
#[expect(unsafe_code, reason = "rustix has no memory policy calls")]
pub(crate) fn set_mempolicy(mode: i32, mask: &[u64; NODE_WORDS]) -> io::Result<()> {
    // The kernel reads one bit less than it is told (`get_nodes` in mm/mempolicy.c).
    let bits = size_of_val(mask) * 8 + 1;
    // SAFETY: the kernel reads `bits - 1` bits from a live array of that size and keeps no pointer to it.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, libc::c_long::from(mode), mask.as_ptr(), bits) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `get_mempolicy(2)` of the calling thread: mode with its flags, and nodes.
#[expect(unsafe_code, reason = "rustix has no memory policy calls")]
pub(crate) fn get_mempolicy() -> io::Result<(i32, [u64; NODE_WORDS])> {
    let mut mode: libc::c_int = 0;
    let mut mask = [0_u64; NODE_WORDS];
    let bits = size_of_val(&mask) * 8;
    let no_address: *const libc::c_void = std::ptr::null();
    // SAFETY: the kernel writes one int and at most `bits` bits into live values of those sizes; the address is unused
    // without MPOL_F_ADDR.
    let result = unsafe {
        libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, mask.as_mut_ptr(), bits, no_address, 0 as libc::c_ulong)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok((mode, mask)) }
}

/// `migrate_pages(2)`: how many pages were left behind.
#[expect(unsafe_code, reason = "rustix has no memory policy calls")]
pub(crate) fn migrate_pages(pid: u32, from: &[u64; NODE_WORDS], to: &[u64; NODE_WORDS]) -> io::Result<u64> {
    // The kernel reads one bit less than it is told (`get_nodes` in mm/mempolicy.c).
    let bits = size_of_val(from) * 8 + 1;
    // SAFETY: the kernel reads `bits - 1` bits from each of two live arrays of that size and keeps no pointer to them.
    let result =
        unsafe { libc::syscall(libc::SYS_migrate_pages, pid as libc::pid_t, bits, from.as_ptr(), to.as_ptr()) };
    u64::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// `move_pages(2)`: the node of each page that begins at one of these addresses, or a negated error number. Where a node is
/// given they are moved there, whoever shares them.
#[expect(unsafe_code, reason = "rustix has no memory policy calls")]
pub(crate) fn move_pages(pid: u32, addresses: &[usize], to: Option<u32>) -> io::Result<Vec<i32>> {
    let nodes = to.map(|node| vec![node as libc::c_int; addresses.len()]);
    let nodes: *const libc::c_int = nodes.as_ref().map_or(std::ptr::null(), Vec::as_ptr);
    // `MPOL_MF_MOVE_ALL` of include/uapi/linux/mempolicy.h.
    let flags: libc::c_int = if to.is_some() { 1 << 2 } else { 0 };
    let mut status = vec![-libc::ENOENT; addresses.len()];
    // SAFETY: the addresses are another process's, and the kernel follows none of them here. It reads as many addresses and
    // nodes, and writes as many numbers, as live arrays of that length hold, and keeps no pointer to them.
    let result = unsafe {
        let (pid, count) = (pid as libc::pid_t, addresses.len());
        libc::syscall(libc::SYS_move_pages, pid, count, addresses.as_ptr(), nodes, status.as_mut_ptr(), flags)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(status) }
}

/// A set of nodes as the kernel takes it.
pub(crate) fn node_mask(nodes: &NodeSet) -> [u64; NODE_WORDS] {
    let mut mask = [0; NODE_WORDS];
    for node in nodes.iter() {
        mask[(node / 64) as usize] |= 1 << (node % 64);
    }
    mask
}

/// Has the child killed by the kernel when the thread that spawns it ends.
#[expect(unsafe_code, reason = "the signal can only be asked for by the child itself, between fork and exec")]
pub(crate) fn kill_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let ask = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have ended before the child asked.
        if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(orphaned()) }
    };
    // SAFETY: the closure makes two system calls (prctl, getppid), which are async-signal-safe, allocates nothing and
    // takes no lock.
    unsafe { command.pre_exec(ask) };
}

fn orphaned() -> io::Error {
    io::Error::from_raw_os_error(libc::ECHILD)
}

/// `SO_ATTACH_FILTER`: what the program does not let pass never reaches the socket.
#[expect(unsafe_code, reason = "rustix has no socket filters")]
pub(crate) fn attach_filter(socket: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let length = program.len() as libc::c_ushort;
    // The kernel's structure has a pointer to mutable instructions; it copies them, and changes none.
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads one `sock_fprog`, and `len` instructions from a live slice of that length, and keeps no
    // pointer to either.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
