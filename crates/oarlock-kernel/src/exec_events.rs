//! Who executes a program, as soon as it does: the kernel's process-event connector.
//!
//! The events are a hint, to look at a process sooner: the kernel drops them where they come faster than they are read, and
//! says so ([`ExecEvent::Lost`]). It speaks only to the host's own network, user and pid namespaces, where root may listen,
//! and numbers processes as the host does, those in containers too.
//!
//! Everybody's executions come by, of every container: nothing but the number is read here, and other events are left out
//! by a filter in the kernel, before they wake anybody.

mod message;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::netlink::{CONNECTOR, SocketAddrNetlink};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, sendto, socket_with};

use crate::syscall;
use message::Message;

/// The kernel's part of the connector answers at once, or never.
const ANSWER: Duration = Duration::from_secs(1);
/// Room for some 20,000 events: the kernel counts each with its buffer, about 800 bytes, and doubles what it is told.
const BUFFER: usize = 8 << 20;

/// What the kernel told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecEvent {
    /// This process has executed a program.
    Exec {
        /// Its process id, as the host numbers it.
        pid: u32,
        /// When, on the clock of [`now`].
        at: Duration,
    },
    /// Events were lost: who needs them all looks at all processes now.
    Lost,
}

/// The time since the boot, without that in suspension (`CLOCK_MONOTONIC`), as events tell it.
pub fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Why there are no events to be had.
#[derive(Debug, thiserror::Error)]
pub enum ExecEventsError {
    /// `EPERM`.
    #[error("process events take CAP_NET_ADMIN in the host's own user namespace")]
    Denied(#[source] io::Error),
    /// `ECONNREFUSED`: the kernel's part is in the first network namespace.
    #[error("process events come only in the host's own network namespace")]
    OtherNetwork(#[source] io::Error),
    /// The kernel takes no notice of those in other pid or user namespaces.
    #[error("the kernel does not answer: process events come only in the host's own pid and user namespaces")]
    NoAnswer,
    /// `EPROTONOSUPPORT`: built without `CONFIG_CONNECTOR`; `ENOENT`, `ECONNREFUSED` where its module is not loaded.
    #[error("the kernel has no process events: it is built without CONFIG_PROC_EVENTS, or the module cn is not loaded")]
    Unsupported(#[source] io::Error),
    /// The kernel answered with a failure.
    #[error("the kernel refuses process events")]
    Refused(#[source] io::Error),
    /// Anything else that the kernel says.
    #[error("process events failed")]
    Kernel(#[source] io::Error),
}

/// A subscription to the executions on this host; it ends when this is dropped. To be polled for reading.
#[derive(Debug)]
pub struct ExecEvents {
    socket: OwnedFd,
}

impl ExecEvents {
    /// Subscribes, and waits for the kernel's answer, a second at most. Whoever executed before this returns may have been
    /// missed.
    pub fn open() -> Result<Self, ExecEventsError> {
        Self::open_with(BUFFER)
    }

    fn open_with(buffer: usize) -> Result<Self, ExecEventsError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(CONNECTOR));
        let socket = socket.map_err(|errno| match errno {
            Errno::PROTONOSUPPORT => ExecEventsError::Unsupported(errno.into()),
            _ => ExecEventsError::Kernel(errno.into()),
        })?;
        // Before the first event can come.
        syscall::attach_filter(socket.as_fd(), &message::filter()).map_err(ExecEventsError::Kernel)?;
        // More than net.core.rmem_max takes CAP_NET_ADMIN here; a smaller buffer only loses events sooner.
        set_socket_recv_buffer_size_force(&socket, buffer)
            .or_else(|_| set_socket_recv_buffer_size(&socket, buffer))
            .map_err(|errno| ExecEventsError::Kernel(errno.into()))?;
        bind(&socket, &SocketAddrNetlink::new(0, message::GROUP)).map_err(|errno| match errno {
            Errno::PERM => ExecEventsError::Denied(errno.into()),
            Errno::NOENT => ExecEventsError::Unsupported(errno.into()),
            _ => ExecEventsError::Kernel(errno.into()),
        })?;
        let events = Self { socket };
        let ours = rustix::process::getpid().as_raw_nonzero().get() as u32;
        events.ask(message::LISTEN, ours).map_err(|errno| match errno {
            Errno::CONNREFUSED => ExecEventsError::OtherNetwork(errno.into()),
            Errno::PERM => ExecEventsError::Denied(errno.into()),
            _ => ExecEventsError::Kernel(errno.into()),
        })?;
        events.await_answer(ours)?;
        Ok(events)
    }

    /// The next event that has come already; `None` where there is none, so that it is time to poll.
    pub fn next(&self) -> Result<Option<ExecEvent>, ExecEventsError> {
        loop {
            match self.receive()? {
                None => return Ok(None),
                Some(Received::Lost) => return Ok(Some(ExecEvent::Lost)),
                Some(Received::Message(Message::Exec { pid, at })) => return Ok(Some(ExecEvent::Exec { pid, at })),
                // Answers to whoever else listens come to all.
                Some(Received::Message(Message::Answer { .. }) | Received::Nonsense) => {}
            }
        }
    }

    fn receive(&self) -> Result<Option<Received>, ExecEventsError> {
        let mut bytes = [0_u8; message::LONGEST];
        let received = rustix::io::retry_on_intr(|| recvfrom(&self.socket, &mut bytes, RecvFlags::empty()));
        let (_, length, sender) = match received {
            Ok(received) => received,
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::NOBUFS) => return Ok(Some(Received::Lost)),
            Err(errno) => return Err(ExecEventsError::Kernel(errno.into())),
        };
        // Other processes have numbers; 0 is the kernel.
        let from_kernel =
            sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok()).is_some_and(|at| at.pid() == 0);
        let message = bytes.get(..length).filter(|_| from_kernel).and_then(Message::parse);
        Ok(Some(message.map_or(Received::Nonsense, Received::Message)))
    }

    fn ask(&self, what: u32, ours: u32) -> Result<(), Errno> {
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, &message::request(what, ours), SendFlags::empty(), &kernel).map(|_| ())
    }

    fn await_answer(&self, ours: u32) -> Result<(), ExecEventsError> {
        let deadline = Instant::now() + ANSWER;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            match self.receive()? {
                Some(Received::Message(Message::Answer { to, errno })) if to == ours => return answered(errno),
                // Who listens at all hears of what others asked for.
                Some(_) => {}
                None => self.wait(left).map_err(|errno| ExecEventsError::Kernel(errno.into()))?,
            }
        }
        Err(ExecEventsError::NoAnswer)
    }

    /// Until there is something to read, or the time is over.
    fn wait(&self, most: Duration) -> Result<(), Errno> {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let most = Timespec { tv_sec: most.as_secs() as i64, tv_nsec: i64::from(most.subsec_nanos()) };
        match rustix::event::poll(&mut fds, Some(&most)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

fn answered(errno: u32) -> Result<(), ExecEventsError> {
    let source = io::Error::from_raw_os_error(errno as i32);
    match Errno::from_io_error(&source) {
        _ if errno == 0 => Ok(()),
        Some(Errno::PERM) => Err(ExecEventsError::Denied(source)),
        _ => Err(ExecEventsError::Refused(source)),
    }
}

#[derive(Debug)]
enum Received {
    Message(Message),
    Lost,
    /// Not from the kernel, or in no form that is known here.
    Nonsense,
}

impl AsFd for ExecEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for ExecEvents {
    fn drop(&mut self) {
        // Before Linux 6.6 the kernel goes on making events for nobody unless it is told.
        // Nobody is left to be told that this failed.
        let _unheard: Result<(), Errno> = self.ask(message::IGNORE, 0);
    }
}

#[cfg(test)]
mod tests;
