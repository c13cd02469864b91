//! Several connections over one socket: each frame is 4 bytes of connection, 4 of length, and as much of that
//! connection's stream. Frames are no messages.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::lost::WireError;

/// The connection on which the plugin answers. 0 is reserved.
pub(crate) const PLUGIN: u32 = 1;

/// The connection on which the runtime answers.
pub(crate) const RUNTIME: u32 = 2;

/// A frame's header.
const HEADER: usize = 8;

/// A message of 4 MiB and its header.
pub(crate) const LONGEST_FRAME: u32 = (4 << 20) + 10;

/// What is put into one frame. Runtimes read frames through a buffer of this size; they fall silent for good after a
/// longer one that begins a message.
pub(crate) const LONGEST_SENT: usize = 4096;

/// The frames that a runtime keeps unread.
pub(crate) const MOST_QUEUED: usize = 256;

/// Takes frames apart.
#[derive(Debug, Default)]
pub(crate) struct Demux {
    connection: u32,
    /// What is still to come of the current frame.
    left: usize,
}

impl Demux {
    /// The next piece of some connection's stream, as far as it has been read.
    pub(crate) fn next(&mut self, read: &mut BytesMut) -> Result<Option<(u32, Bytes)>, WireError> {
        while self.left == 0 {
            if read.len() < HEADER {
                return Ok(None);
            }
            self.connection = read.get_u32();
            let length = read.get_u32();
            if length > LONGEST_FRAME {
                return Err(WireError::Frame { length });
            }
            self.left = length as usize;
        }
        if read.is_empty() {
            return Ok(None);
        }
        let piece = read.split_to(read.len().min(self.left));
        self.left -= piece.len();
        Ok(Some((self.connection, piece.freeze())))
    }
}

/// Puts a connection's bytes into frames.
pub(crate) fn frames(connection: u32, bytes: &[u8]) -> Bytes {
    let pieces = bytes.chunks(LONGEST_SENT);
    let mut out = BytesMut::with_capacity(bytes.len() + HEADER * pieces.len());
    for piece in pieces {
        out.put_u32(connection);
        out.put_u32(piece.len() as u32);
        out.put_slice(piece);
    }
    out.freeze()
}

#[cfg(test)]
mod tests;
