//! Connections to the plugin's socket. One that says nothing costs a file descriptor for a few seconds, and never a
//! place among those that speak; one that speaks and asks for nothing gives its place to the next.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// What every HTTP/2 client says first.
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a client may take to say it. kubelet does so at once.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// Clients that speak at one time; kubelet is one, or two while it registers anew.
const MOST_SPEAKING: usize = 64;

/// Clients that have not spoken yet; the oldest gives way.
const MOST_SILENT: usize = 256;

/// A client that speaks HTTP/2.
#[derive(Debug)]
pub(crate) struct Connection {
    /// What is still to be read again of the preface.
    preface: &'static [u8],
    stream: UnixStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    place: Arc<Place>,
}

/// A client's place among those that speak.
#[derive(Debug)]
pub(crate) struct Place {
    has_asked: AtomicBool,
    cut: CancellationToken,
}

impl Place {
    /// The client has made a call, and keeps its place from now on.
    pub(crate) fn keep(&self) {
        self.has_asked.store(true, Ordering::Relaxed);
    }
}

/// The places of those that speak, the oldest first.
#[derive(Debug, Default)]
struct Places(Vec<Weak<Place>>);

impl Places {
    /// A place for one more: a free one, or that of the oldest client that has asked for nothing.
    fn one_more(&mut self, cut: CancellationToken) -> Option<Arc<Place>> {
        self.0.retain(|place| place.strong_count() > 0);
        if self.0.len() >= MOST_SPEAKING {
            let idle = |place: &Weak<Place>| place.upgrade().is_none_or(|held| !held.has_asked.load(Ordering::Relaxed));
            let oldest = self.0.iter().position(idle)?;
            if let Some(held) = self.0.remove(oldest).upgrade() {
                held.cut.cancel();
            }
        }
        let place = Arc::new(Place { has_asked: AtomicBool::new(false), cut });
        self.0.push(Arc::downgrade(&place));
        Some(place)
    }
}

/// Accepts clients until the listener fails for good, and hands on those that speak. All of them are cut when `cut` is
/// cancelled.
pub(crate) async fn accept(
    listener: UnixListener,
    speaking: mpsc::Sender<io::Result<Connection>>,
    cut: CancellationToken,
) -> io::Error {
    let mut places = Places::default();
    let mut silent = JoinSet::new();
    let mut oldest: VecDeque<AbortHandle> = VecDeque::new();
    let mut full = false;
    loop {
        tokio::select! {
            Some(finished) = silent.join_next() => {
                oldest.retain(|task| !task.is_finished());
                let Ok(Some(stream)) = finished else { continue };
                let Some(place) = places.one_more(cut.child_token()) else {
                    if !std::mem::replace(&mut full, true) {
                        tracing::warn!("{MOST_SPEAKING} clients are at work: more are turned away");
                    }
                    continue;
                };
                full = false;
                let cut = Box::pin(place.cut.clone().cancelled_owned());
                let connection = Connection { preface: &PREFACE, stream, cut, place };
                if speaking.send(Ok(connection)).await.is_err() {
                    return io::Error::from(io::ErrorKind::BrokenPipe);
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if oldest.len() >= MOST_SILENT && let Some(first) = oldest.pop_front() {
                        first.abort();
                    }
                    oldest.push_back(silent.spawn(first_word(stream)));
                }
                Err(error) if is_passing(&error) => sleep(Duration::from_millis(100)).await,
                Err(error) => return error,
            },
        }
    }
}

/// Out of descriptors or memory: others may give some back.
fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    Errno::from_io_error(error).is_some_and(|errno| {
        [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::CONNABORTED].contains(&errno)
    })
}

/// The stream, once its client has said that it speaks HTTP/2.
async fn first_word(mut stream: UnixStream) -> Option<UnixStream> {
    let mut word = [0; PREFACE.len()];
    timeout(FIRST_WORD, stream.read_exact(&mut word)).await.ok()?.ok()?;
    (word == PREFACE).then_some(stream)
}

impl Connected for Connection {
    type ConnectInfo = Arc<Place>;

    fn connect_info(&self) -> Arc<Place> {
        Arc::clone(&self.place)
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionAborted)));
        }
        if self.preface.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let (now, later) = self.preface.split_at(self.preface.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.preface = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
