//! `ListAndWatch`: the whole list at once and at each change, and the count of those who read it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use crate::backend::Device;
use crate::proto::v1beta1::{self as wire, ListAndWatchResponse};
use crate::state::State;

/// The open streams, by the registration in which they were opened: kubelet ends the stream of an older registration
/// by itself, and that means nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readers {
    /// The registration that counts now.
    registration: u64,
    open: HashMap<u64, usize>,
}

impl Readers {
    /// Streams that were opened since the last registration.
    pub(crate) fn current(&self) -> usize {
        self.open.get(&self.registration).copied().unwrap_or(0)
    }

    /// From now on only streams that are opened later count.
    pub(crate) fn next_registration(&mut self) {
        self.registration += 1;
    }
}

/// Who reads, and where that is told.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) readers: watch::Sender<Readers>,
    state: watch::Sender<State>,
}

impl Streams {
    pub(crate) fn new(state: watch::Sender<State>) -> Self {
        Self { readers: watch::Sender::new(Readers::default()), state }
    }

    /// Counts a reader until the answer is dropped.
    fn open(self: &Arc<Self>) -> Open {
        let mut registration = 0;
        self.readers.send_modify(|readers| {
            registration = readers.registration;
            *readers.open.entry(registration).or_default() += 1;
        });
        self.state.send_modify(|state| state.streams += 1);
        Open { streams: Arc::clone(self), registration }
    }
}

#[derive(Debug)]
struct Open {
    streams: Arc<Streams>,
    registration: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.streams.readers.send_modify(|readers| {
            if let Some(open) = readers.open.get_mut(&self.registration) {
                *open -= 1;
                if *open == 0 {
                    readers.open.remove(&self.registration);
                }
            }
        });
        self.streams.state.send_modify(|state| state.streams -= 1);
    }
}

/// One stream of lists. A reader that is slow misses lists in between, and holds nobody up.
pub(crate) struct Lists {
    devices: WatchStream<Arc<Vec<Device>>>,
    ending: Pin<Box<WaitForCancellationFutureOwned>>,
    _open: Open,
}

impl Lists {
    pub(crate) fn new(
        devices: watch::Receiver<Arc<Vec<Device>>>,
        streams: &Arc<Streams>,
        ending: CancellationToken,
    ) -> Self {
        Self { devices: WatchStream::new(devices), ending: Box::pin(ending.cancelled_owned()), _open: streams.open() }
    }
}

impl Stream for Lists {
    type Item = Result<ListAndWatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ending.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.devices).poll_next(cx).map(|list| list.map(|list| Ok(response(&list))))
    }
}

fn response(devices: &[Device]) -> ListAndWatchResponse {
    let topology = |device: &Device| wire::TopologyInfo {
        nodes: device.nodes.iter().map(|id| wire::NumaNode { id: i64::from(id) }).collect(),
    };
    let devices = devices.iter().map(|device| wire::Device {
        id: device.id.clone(),
        health: if device.healthy { "Healthy" } else { "Unhealthy" }.to_owned(),
        topology: (!device.nodes.is_empty()).then(|| topology(device)),
    });
    ListAndWatchResponse { devices: devices.collect() }
}
