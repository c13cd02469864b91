//! The ranks' output: whole lines, each with its rank before it.

use std::io::{self, Read, Write};
use std::sync::Mutex;

/// A longer line is cut in lines of this length, so that a rank that never ends its line takes no endless memory.
const LONGEST_LINE: usize = 1 << 20;

/// Held while something is written: standard output and standard error are often the same file.
static OUTPUT: Mutex<()> = Mutex::new(());

/// Where a rank's stream goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sink {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

impl Sink {
    fn write(self, bytes: &[u8]) -> io::Result<()> {
        let _one_at_a_time = OUTPUT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match self {
            Self::Output => {
                let mut out = io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            Self::Error => io::stderr().lock().write_all(bytes),
        }
    }
}

/// Says something about the job on standard error, between the lines of the ranks.
pub(super) fn say(message: &str) {
    // Who does not listen to standard error loses nothing else.
    drop(Sink::Error.write(format!("oarlock: {message}\n").as_bytes()));
}

/// Passes a rank's stream on until it ends. Where nobody reads us any more, the rank's stream is closed, and the rank is
/// told as it would have been without us in between.
pub(super) fn pass_on(rank: usize, mut stream: impl Read, sink: Sink) -> io::Result<()> {
    let mut lines = Lines::new(rank);
    let mut chunk = vec![0; 64 << 10];
    loop {
        let read = match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let ready = lines.take(&chunk[..read]);
        if !ready.is_empty() {
            sink.write(&ready)?;
        }
    }
    let rest = lines.rest();
    if rest.is_empty() { Ok(()) } else { sink.write(&rest) }
}

/// Cuts a stream of any bytes into lines with a prefix.
struct Lines {
    prefix: Vec<u8>,
    /// The beginning of a line that has not ended yet.
    open: Vec<u8>,
}

impl Lines {
    fn new(rank: usize) -> Self {
        Self { prefix: format!("[{rank}] ").into_bytes(), open: Vec::new() }
    }

    /// The lines that end in these bytes, with what was open before.
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut ready = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.open.extend_from_slice(piece);
            while self.open.len() > LONGEST_LINE + 1 {
                let rest = self.open.split_off(LONGEST_LINE);
                self.end_line(&mut ready);
                self.open = rest;
            }
            if self.open.last() == Some(&b'\n') {
                self.end_line(&mut ready);
            }
        }
        ready
    }

    /// The line that the stream left open.
    fn rest(&mut self) -> Vec<u8> {
        let mut ready = Vec::new();
        if !self.open.is_empty() {
            self.end_line(&mut ready);
        }
        ready
    }

    fn end_line(&mut self, ready: &mut Vec<u8>) {
        ready.extend_from_slice(&self.prefix);
        ready.append(&mut self.open);
        if ready.last() != Some(&b'\n') {
            ready.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<u8> {
        let mut lines = Lines::new(3);
        let mut out: Vec<u8> = chunks.iter().flat_map(|chunk| lines.take(chunk)).collect();
        out.extend(lines.rest());
        out
    }

    #[test]
    fn every_line_gets_the_rank_wherever_the_stream_is_cut() {
        let expected = b"[3] one\n[3] \n[3] \xff\x00two\n[3] three\n";
        assert_eq!(lines(&[b"one\n\n\xff\x00two\nthree"]), expected);
        assert_eq!(lines(&[b"on", b"e", b"\n\n\xff", b"\x00two", b"\nthree"]), expected);
    }

    #[test]
    fn a_stream_without_output_gives_no_line() {
        assert_eq!(lines(&[]), b"");
    }

    #[test]
    fn a_line_of_the_longest_length_stays_whole_and_a_longer_one_is_cut() {
        let longest = [vec![b'x'; LONGEST_LINE], vec![b'\n']].concat();
        assert_eq!(lines(&[&longest]), [b"[3] ".as_slice(), &longest].concat());
        let cut = lines(&[&vec![b'y'; 2 * LONGEST_LINE + 5], b"z\n"]);
        let lengths: Vec<usize> = cut.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::len).collect();
        assert_eq!(lengths, [LONGEST_LINE + 5, LONGEST_LINE + 5, 4 + 6 + 1]);
    }

    #[test]
    fn what_is_open_is_held_back_until_its_line_ends() {
        let mut lines = Lines::new(0);
        assert_eq!(lines.take(b"a\nb"), b"[0] a\n");
        assert_eq!(lines.take(b"c"), b"");
        assert_eq!(lines.rest(), b"[0] bc\n");
    }
}
