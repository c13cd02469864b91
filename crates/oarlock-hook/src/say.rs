//! What a person should know: to the system's log, and to standard error where that is nobody else's.

use std::io::Write as _;
use std::os::unix::net::UnixDatagram;

/// syslog's facility `daemon`, severity `warning` (RFC 3164).
const PRIORITY: u32 = 3 * 8 + 4;
/// Where the system's log listens (`syslog(3)`).
const LOG: &str = "/dev/log";
/// A container may have annotations of 256 KiB.
const LONGEST: usize = 2048;

/// Says it in the system's log.
pub(crate) fn log(line: &str) {
    let text = format!("<{PRIORITY}>oarlock-hook[{}]: {}", std::process::id(), one_line(line));
    // Where no log listens, or it has too much to do, nobody waits for it.
    if let Ok(socket) = UnixDatagram::unbound()
        && socket.set_nonblocking(true).is_ok()
    {
        drop(socket.send_to(text.as_bytes(), LOG));
    }
}

/// Says it there and on standard error.
pub(crate) fn say(line: &str) {
    log(line);
    drop(writeln!(std::io::stderr(), "oarlock-hook: {}", one_line(line)));
}

/// Without control characters, and of a length that a person reads.
pub(crate) fn one_line(line: &str) -> String {
    line.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
