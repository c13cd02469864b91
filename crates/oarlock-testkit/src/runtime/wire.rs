//! The runtime's end of a plugin's socket, byte by byte, and apart from the library under test: frames, ttrpc, and what
//! Go's implementation of both makes of a peer that does otherwise.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oarlock_nri::proto::Empty;
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Connections of the socket.
const PLUGIN: u32 = 1;
const RUNTIME: u32 = 2;

/// Go reads a connection through a buffer of this size, into which a frame has to fit.
const READ_BUFFER: usize = 4096;

const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";

/// gRPC's code for anything.
pub const UNKNOWN: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
    #[prost(string, tag = "2")]
    method: String,
    #[prost(bytes = "vec", tag = "3")]
    payload: Vec<u8>,
    #[prost(int64, tag = "4")]
    timeout_nano: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    payload: Vec<u8>,
}

/// How a call failed.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    /// gRPC's code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// In words.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// The plugin says so.
    Status(Status),
    /// It says nothing in time.
    Timeout,
    /// The connection has ended.
    Closed,
}

/// A call of the plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// To be answered on this stream.
    pub stream: u32,
    /// Of the runtime's service.
    pub method: String,
    /// An encoded message.
    pub payload: Vec<u8>,
}

type Waiting = Arc<Mutex<HashMap<u32, oneshot::Sender<Response>>>>;

/// A plugin, from the runtime's end. Dropping it hangs up.
#[derive(Debug)]
pub struct Peer {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    waiting: Waiting,
    next: AtomicU32,
    /// What is put into one frame.
    frame: usize,
    ended: CancellationToken,
    _alive: DropGuard,
}

impl Peer {
    /// Speaks to the plugin at the other end, in frames of at most `frame` bytes, and gives on what it asks.
    pub fn over(socket: UnixStream, frame: usize) -> (Self, mpsc::UnboundedReceiver<Asked>) {
        let (reader, writer) = socket.into_split();
        let waiting = Waiting::default();
        let (asked, asks) = mpsc::unbounded_channel();
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let reading = read(reader, Arc::clone(&waiting), asked);
        let (stopped, end) = (stop.clone(), ended.clone());
        let waiting_at_end = Arc::clone(&waiting);
        tokio::spawn(async move {
            tokio::select! {
                () = reading => {}
                () = stopped.cancelled() => {}
            }
            waiting_at_end.lock().unwrap().clear();
            end.cancel();
        });
        let writer = tokio::sync::Mutex::new(writer);
        let next = AtomicU32::new(1);
        (Self { writer, waiting, next, frame, ended, _alive: stop.drop_guard() }, asks)
    }

    /// Asks the plugin.
    pub async fn call(&self, method: &str, message: &impl Message, within: Duration) -> Result<Vec<u8>, Failure> {
        let stream = self.next.fetch_add(2, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().unwrap().insert(stream, answer);
        let request = Request {
            service: PLUGIN_SERVICE.to_owned(),
            method: method.to_owned(),
            payload: message.encode_to_vec(),
            timeout_nano: within.as_nanos() as i64,
        };
        let asking = async {
            self.send(PLUGIN, stream, 1, &request.encode_to_vec()).await;
            answered.await.map_err(|_| Failure::Closed)
        };
        let response = tokio::select! {
            // An answer counts, also of a plugin that hangs up right after it.
            biased;
            response = timeout(within, asking) => response.map_err(|_| Failure::Timeout)??,
            () = self.ended.cancelled() => return Err(Failure::Closed),
        };
        match response.status {
            Some(status) if status.code != 0 => Err(Failure::Status(status)),
            _ => Ok(response.payload),
        }
    }

    /// Answers the plugin.
    pub async fn answer(&self, stream: u32, result: Result<Vec<u8>, Status>) {
        let response = match result {
            Ok(payload) => Response { status: None, payload },
            Err(status) => Response { status: Some(status), payload: Vec::new() },
        };
        self.send(RUNTIME, stream, 2, &response.encode_to_vec()).await;
    }

    /// Sends a message of any kind.
    pub async fn send(&self, connection: u32, stream: u32, kind: u8, body: &[u8]) {
        let length = (body.len() as u32).to_be_bytes();
        let message = [&length[..], &stream.to_be_bytes(), &[kind, 0], body].concat();
        let frames: Vec<u8> = message.chunks(self.frame).flat_map(|piece| frame(connection, piece)).collect();
        self.send_bytes(&frames).await;
    }

    /// Sends bytes as they are. A peer that has gone does not care.
    pub async fn send_bytes(&self, bytes: &[u8]) {
        let _ = self.writer.lock().await.write_all(bytes).await;
    }

    /// Waits until the plugin has hung up.
    pub async fn closed(&self) {
        self.ended.cancelled().await;
    }
}

/// One frame.
pub fn frame(connection: u32, piece: &[u8]) -> Vec<u8> {
    [&connection.to_be_bytes()[..], &(piece.len() as u32).to_be_bytes(), piece].concat()
}

/// An answer that says nothing.
pub(super) fn nothing() -> Vec<u8> {
    Empty {}.encode_to_vec()
}

/// Reads until the plugin hangs up, or does what Go's implementation hangs up on.
async fn read(mut reader: OwnedReadHalf, waiting: Waiting, asked: mpsc::UnboundedSender<Asked>) {
    let mut streams: HashMap<u32, Vec<u8>> = HashMap::new();
    let mut last = 0;
    loop {
        let (Ok(connection), Ok(length)) = (reader.read_u32().await, reader.read_u32().await) else { return };
        if length as usize > READ_BUFFER {
            return;
        }
        let mut piece = vec![0; length as usize];
        if reader.read_exact(&mut piece).await.is_err() {
            return;
        }
        let stream = streams.entry(connection).or_default();
        stream.extend(piece);
        while let Some((header, rest)) = stream.split_at_checked(10) {
            let body = u32::from_be_bytes(header[..4].try_into().unwrap()) as usize;
            let (id, kind) = (u32::from_be_bytes(header[4..8].try_into().unwrap()), header[8]);
            let Some(body) = rest.get(..body) else { break };
            match (connection, kind) {
                (PLUGIN, 2) => {
                    let answer = waiting.lock().unwrap().remove(&id);
                    // Go passes over answers that it no longer waits for.
                    if let Some(answer) = answer {
                        let _ = answer.send(Response::decode(body).unwrap());
                    }
                }
                (RUNTIME, 1) => {
                    let request = Request::decode(body).unwrap();
                    assert!(id % 2 == 1 && id > last, "stream {id} after {last}: ids of requests are odd and rise");
                    assert_eq!(request.service, RUNTIME_SERVICE);
                    last = id;
                    let _ = asked.send(Asked { stream: id, method: request.method, payload: request.payload });
                }
                _ => panic!("a message of type {kind} on connection {connection}"),
            }
            let used = 10 + body.len();
            stream.drain(..used);
        }
    }
}
