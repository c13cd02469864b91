//! One connection to a runtime, from the registration to its end.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::dispatch::Dispatch;
use crate::identity::Identity;
use crate::lost::{Lost, WireError};
use crate::mux::{self, Demux};
use crate::plugin::Plugin;
use crate::proto::RegisterPluginRequest;
use crate::runtime::{self, Call, CallError, HANDLING, Runtime};
use crate::ttrpc::{self, Decoder, Incoming, Request, Response, Status, TooLong};
use crate::version::NriVersion;

/// The runtime's service.
const SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";

/// Calls of the runtime that are at work. It makes one at a time; what cannot be has an end here.
pub(crate) const MOST_AT_WORK: usize = 64;

/// Messages that wait to be written.
const MOST_WAITING: usize = 8;

/// What is read at once, and no more.
const READ: usize = 16 << 10;

/// A call of the runtime, at work.
#[derive(Debug)]
struct AtWork {
    method: String,
    since: Instant,
    /// How long the runtime waits for it.
    allowed: Duration,
}

/// A call of ours that waits for its answer.
#[derive(Debug)]
enum Waiting {
    Registration,
    Call(oneshot::Sender<Result<Bytes, CallError>>),
}

/// What has been read, in its layers.
#[derive(Debug, Default)]
struct Wire {
    read: BytesMut,
    demux: Demux,
    asked: Decoder,
    answered: Decoder,
}

/// All that a connection holds.
struct Session<P> {
    dispatch: Arc<Dispatch<P>>,
    outgoing: mpsc::Sender<Bytes>,
    handlers: JoinSet<()>,
    at_work: HashMap<Id, AtWork>,
    waiting: HashMap<u32, Waiting>,
    next_stream: u32,
    since: Instant,
}

/// Runs a plugin over a connection that is there: that of a runtime which started the plugin itself, or a test's. It is
/// registered, and then answers until the connection ends.
///
/// `patience` is how long the runtime may take to configure the plugin. It takes one plugin after the other, and each has
/// seconds to register. Once `shutdown` is cancelled, handlers at work may end first, for as long as the runtime would
/// wait for them; then this is `Ok`.
pub async fn serve<S, P>(
    connection: S,
    identity: &Identity,
    plugin: Arc<P>,
    patience: Duration,
    shutdown: &CancellationToken,
) -> Result<(), Lost>
where
    S: AsyncRead + AsyncWrite + Send,
    P: Plugin,
{
    let (reader, writer) = tokio::io::split(connection);
    let (outgoing, to_write) = mpsc::channel(MOST_WAITING);
    let (calls, called) = mpsc::channel(runtime::QUEUE);
    let mut session = Session {
        dispatch: Arc::new(Dispatch::new(plugin, Runtime::new(calls))),
        outgoing,
        handlers: JoinSet::new(),
        at_work: HashMap::new(),
        waiting: HashMap::new(),
        next_stream: 1,
        since: Instant::now(),
    };
    session.register(identity);
    let writing = write(writer, to_write);
    tokio::pin!(writing);
    select! {
        lost = session.converse(reader, called, writing.as_mut(), patience) => {
            // Those of the next connection never meet handlers of this one.
            session.handlers.shutdown().await;
            return Err(lost);
        }
        () = shutdown.cancelled() => {}
    }
    let allowed = session.dispatch.request_timeout();
    let Session { mut handlers, outgoing, .. } = session;
    let ending = async {
        drop(outgoing);
        while handlers.join_next().await.is_some() {}
    };
    // What does not end in time, the runtime no longer waits for.
    let _ = timeout(allowed, async { tokio::join!(ending, writing) }).await;
    Ok(())
}

impl<P: Plugin> Session<P> {
    /// Everything that happens on the connection, until it ends.
    async fn converse(
        &mut self,
        mut reader: impl AsyncRead + Unpin,
        mut called: mpsc::Receiver<Call>,
        mut writing: Pin<&mut impl Future<Output = io::Result<()>>>,
        patience: Duration,
    ) -> Lost {
        let late = sleep(patience);
        tokio::pin!(late);
        let mut wire = Wire::default();
        loop {
            wire.read.reserve(READ);
            let going_on = select! {
                result = reader.read_buf(&mut wire.read) => match result {
                    Ok(0) => Err(self.hung_up()),
                    Ok(_) => self.take(&mut wire),
                    Err(error) => Err(self.failed(error)),
                },
                result = &mut writing => Err(result.map_or_else(|error| self.failed(error), |()| self.hung_up())),
                Some(call) = called.recv() => {
                    self.call(call);
                    Ok(())
                }
                Some(ended) = self.handlers.join_next_with_id() => self.ended(ended),
                () = &mut late, if !self.dispatch.is_configured() => Err(Lost::Unanswered { within: patience }),
            };
            if let Err(lost) = going_on {
                return lost;
            }
        }
    }

    /// Takes all messages that have been read.
    fn take(&mut self, wire: &mut Wire) -> Result<(), Lost> {
        while let Some((connection, piece)) = wire.demux.next(&mut wire.read)? {
            match connection {
                mux::PLUGIN => {
                    wire.asked.feed(piece);
                    while let Some(message) = wire.asked.next() {
                        self.asked(message)?;
                    }
                }
                mux::RUNTIME => {
                    wire.answered.feed(piece);
                    while let Some(message) = wire.answered.next() {
                        self.answered(message)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn register(&mut self, identity: &Identity) {
        let request = RegisterPluginRequest {
            plugin_name: identity.name().to_owned(),
            plugin_idx: identity.index().to_owned(),
            nri_version: NriVersion::OWN.to_string(),
        };
        self.send("RegisterPlugin", request.encode_to_vec().into(), Duration::ZERO, Waiting::Registration);
    }

    fn call(&mut self, call: Call) {
        self.send(call.method, call.payload, call.timeout, Waiting::Call(call.answer));
    }

    /// Sends a call. Stream ids are odd and rise, as runtimes demand; they are given out and queued in one order.
    fn send(&mut self, method: &str, payload: Bytes, timeout: Duration, waiting: Waiting) {
        // Callers that no longer wait have no place here either.
        self.waiting.retain(|_, waiting| !matches!(waiting, Waiting::Call(answer) if answer.is_closed()));
        let request = Request {
            service: SERVICE.to_owned(),
            method: method.to_owned(),
            payload,
            timeout_nano: i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX),
        };
        let sent = ttrpc::request(self.next_stream, &request)
            .map_err(|TooLong(length)| CallError::TooLong(length))
            .and_then(|bytes| self.outgoing.try_send(mux::frames(mux::RUNTIME, &bytes)).map_err(|_| CallError::Stuck));
        match (sent, waiting) {
            (Ok(()), waiting) => {
                self.waiting.insert(self.next_stream, waiting);
                self.next_stream = self.next_stream.wrapping_add(2);
            }
            // A caller that no longer waits misses nothing. The registration is short and the first to be sent.
            (Err(error), Waiting::Call(answer)) => drop(answer.send(Err(error))),
            (Err(_), Waiting::Registration) => {}
        }
    }

    /// The runtime asks.
    fn asked(&mut self, message: Incoming) -> Result<(), Lost> {
        if message.kind != ttrpc::REQUEST {
            return Ok(());
        }
        if self.handlers.len() >= MOST_AT_WORK {
            return Err(Lost::Wire(WireError::Calls));
        }
        let request = match message.body {
            Ok(body) => Request::decode(body).map_err(|error| Status::invalid(error.to_string())),
            Err(length) => {
                let most = ttrpc::LONGEST_BODY;
                Err(Status::exhausted(format!("a message of {length} bytes: at most {most} are allowed")))
            }
        };
        let method = request.as_ref().map_or_else(|_| String::new(), |request| request.method.clone());
        let told = request.as_ref().ok().and_then(|request| u64::try_from(request.timeout_nano).ok());
        let allowed = told.filter(|nanos| *nanos > 0).map(Duration::from_nanos);
        let allowed = allowed.unwrap_or_else(|| self.dispatch.request_timeout());
        let (dispatch, outgoing, stream) = (Arc::clone(&self.dispatch), self.outgoing.clone(), message.stream);
        let task = self.handlers.spawn(HANDLING.scope((), async move {
            let result = match request {
                Ok(request) => dispatch.answer(request).await,
                Err(status) => Err(status),
            };
            // Nobody takes it where the connection has ended.
            let _ = outgoing.send(mux::frames(mux::PLUGIN, &ttrpc::response(stream, result))).await;
        }));
        self.at_work.insert(task.id(), AtWork { method, since: Instant::now(), allowed });
        Ok(())
    }

    /// The runtime answers.
    fn answered(&mut self, message: Incoming) -> Result<(), Lost> {
        if message.kind != ttrpc::RESPONSE {
            return Ok(());
        }
        let result = match message.body {
            Ok(body) => Response::decode(body)
                .map_err(|error| Status::invalid(error.to_string()))
                .and_then(Response::into_result),
            Err(length) => Err(Status::exhausted(format!("the answer has {length} bytes"))),
        };
        match self.waiting.remove(&message.stream) {
            Some(Waiting::Registration) => {
                result.map_err(|status| Lost::Refused { message: status.message })?;
            }
            Some(Waiting::Call(answer)) => drop(answer.send(result.map_err(CallError::Status))),
            // An answer that came too late, or one that nobody asked for.
            None => {}
        }
        Ok(())
    }

    /// A handler is done.
    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) -> Result<(), Lost> {
        let (id, panicked) = match ended {
            Ok((id, ())) => (id, false),
            Err(error) => (error.id(), error.is_panic()),
        };
        let method = self.at_work.remove(&id).map(|call| call.method).unwrap_or_default();
        if panicked { Err(Lost::Panicked { method }) } else { Ok(()) }
    }

    /// Why reading or writing failed: as a rule the other side has hung up.
    fn failed(&self, error: io::Error) -> Lost {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => self.hung_up(),
            _ => Lost::Io(error),
        }
    }

    /// Why the runtime hung up.
    fn hung_up(&self) -> Lost {
        if let Some((method, message)) = self.dispatch.unwilling() {
            return Lost::Unwilling { method, message };
        }
        // The runtime began to count a little earlier.
        let late = self.at_work.values().find(|call| call.since.elapsed() * 10 >= call.allowed * 9);
        if let Some(AtWork { method, since, allowed }) = late {
            return Lost::RequestTooSlow { method: method.clone(), after: since.elapsed(), allowed: *allowed };
        }
        if !self.dispatch.is_configured() {
            return Lost::RegistrationTooSlow { after: self.since.elapsed() };
        }
        Lost::Gone
    }
}

/// Writes what is queued, each message in one piece, until nobody can queue any more.
async fn write(mut writer: impl AsyncWrite + Unpin, mut to_write: mpsc::Receiver<Bytes>) -> io::Result<()> {
    while let Some(bytes) = to_write.recv().await {
        writer.write_all(&bytes).await?;
        writer.flush().await?;
    }
    Ok(())
}
