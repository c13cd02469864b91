//! ttrpc, as much of it as NRI uses: calls with one request and one response each, on a stream of bytes. A message has a
//! header of 10 bytes (length, stream, type, flags) and a body of at most 4 MiB.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message;

use crate::mux;

/// Message types. A third one carries data of streaming calls, which NRI has not.
pub(crate) const REQUEST: u8 = 1;
/// See [`REQUEST`].
pub(crate) const RESPONSE: u8 = 2;

/// The flag of a request that no data will follow.
const REMOTE_CLOSED: u8 = 1;

const HEADER: usize = 10;

/// The longest body that is taken, as everywhere.
pub(crate) const LONGEST_BODY: usize = 4 << 20;

/// The longest body that is sent. A runtime keeps at most 256 frames that its reader has not come to, and hangs up on one
/// more; a message of 4 MiB in frames of 4096 bytes now and then is too quick for a busy host.
pub(crate) const LONGEST_SENT: usize = mux::MOST_QUEUED * mux::LONGEST_SENT - HEADER;

/// The body of a request. Metadata is left unread.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Request {
    #[prost(string, tag = "1")]
    pub(crate) service: String,
    #[prost(string, tag = "2")]
    pub(crate) method: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) payload: Bytes,
    /// How long the caller waits; 0 for ever.
    #[prost(int64, tag = "4")]
    pub(crate) timeout_nano: i64,
}

/// The body of a response.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Response {
    #[prost(message, optional, tag = "1")]
    pub(crate) status: Option<Status>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) payload: Bytes,
}

/// How a call failed, in gRPC's codes.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Status {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
}

impl Status {
    pub(crate) fn unknown(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self { code: 3, message: message.into() }
    }

    pub(crate) fn exhausted(message: impl Into<String>) -> Self {
        Self { code: 8, message: message.into() }
    }

    pub(crate) fn unimplemented(message: impl Into<String>) -> Self {
        Self { code: 12, message: message.into() }
    }
}

impl Response {
    /// Its payload, or why there is none.
    pub(crate) fn into_result(self) -> Result<Bytes, Status> {
        match self.status {
            Some(status) if status.code != 0 => Err(status),
            _ => Ok(self.payload),
        }
    }
}

/// What comes out of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Incoming {
    pub(crate) stream: u32,
    pub(crate) kind: u8,
    /// The body, or the length of one that is too long to be kept.
    pub(crate) body: Result<Bytes, usize>,
}

/// Takes messages from a stream of bytes.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    held: BytesMut,
    /// What is still to come of a body that is too long.
    skipped: usize,
}

impl Decoder {
    /// Takes what has been read.
    pub(crate) fn feed(&mut self, mut piece: Bytes) {
        let passed = piece.len().min(self.skipped);
        piece.advance(passed);
        self.skipped -= passed;
        self.held.extend_from_slice(&piece);
    }

    /// The next message that is there as a whole.
    pub(crate) fn next(&mut self) -> Option<Incoming> {
        let mut header = self.held.get(..HEADER)?;
        let length = header.get_u32() as usize;
        let (stream, kind) = (header.get_u32(), header.get_u8());
        let there = self.held.len() - HEADER;
        if length > LONGEST_BODY {
            self.held.advance(HEADER + length.min(there));
            self.skipped = length.saturating_sub(there);
            return Some(Incoming { stream, kind, body: Err(length) });
        }
        if there < length {
            return None;
        }
        self.held.advance(HEADER);
        let body = self.held.split_to(length).freeze();
        if self.held.is_empty() {
            // A long message's memory goes with the message.
            self.held = BytesMut::new();
        }
        Some(Incoming { stream, kind, body: Ok(body) })
    }
}

/// A body that is longer than what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong(pub(crate) usize);

/// A request as it goes on the wire.
pub(crate) fn request(stream: u32, body: &Request) -> Result<Bytes, TooLong> {
    message(stream, REQUEST, REMOTE_CLOSED, body)
}

/// A response as it goes on the wire; an error in place of one that is too long.
pub(crate) fn response(stream: u32, result: Result<Bytes, Status>) -> Bytes {
    let body = |result: Result<Bytes, Status>| match result {
        Ok(payload) => Response { status: None, payload },
        Err(status) => Response { status: Some(status), payload: Bytes::new() },
    };
    message(stream, RESPONSE, 0, &body(result)).unwrap_or_else(|TooLong(length)| {
        let status = Status::exhausted(format!("an answer of {length} bytes: at most {LONGEST_SENT} are allowed"));
        message(stream, RESPONSE, 0, &body(Err(status))).unwrap_or_default()
    })
}

fn message(stream: u32, kind: u8, flags: u8, body: &impl Message) -> Result<Bytes, TooLong> {
    let length = body.encoded_len();
    if length > LONGEST_SENT {
        return Err(TooLong(length));
    }
    let mut out = BytesMut::with_capacity(HEADER + length);
    out.put_u32(length as u32);
    out.put_u32(stream);
    out.put_u8(kind);
    out.put_u8(flags);
    body.encode_raw(&mut out);
    Ok(out.freeze())
}

#[cfg(test)]
mod tests;
