//! NVML, followed by a thread of its own, since all its calls block: which GPUs there are, what they report, how they answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use oarlock_core::pci::PciAddress;
use oarlock_device_plugin::health::Probe;
use oarlock_discovery::nvml::{EventKind, Fault, Gpu, Listing, OpenError, Session, Watch};
use oarlock_discovery::{Found, Options, Source, discover};
use tokio::sync::mpsc;

/// How often the list of GPUs is read again: MIG devices come and go, and a lost GPU may come back.
const RELIST: Duration = Duration::from_secs(30);
/// No wait is longer than this, so that the thread ends soon when nobody listens.
const SLICE: Duration = Duration::from_millis(250);
/// How often it is asked which processes use the GPUs, while somebody wants to know.
const ASK: Duration = Duration::from_secs(5);

/// What NVML has to say.
#[derive(Debug)]
pub(crate) enum News {
    /// NVML cannot be used, now or at all.
    Closed {
        /// Whether there is no such library.
        missing: bool,
        /// Whether the driver is unloaded.
        unloaded: bool,
        why: String,
    },
    /// The GPUs, and the machine with them. Comes again when they change.
    Listed { found: Box<Found>, gpus: Vec<Gpu> },
    /// A GPU reported an error.
    Xid { gpu: PciAddress, xid: u64 },
    /// The processes on each GPU.
    Used(Vec<(PciAddress, Vec<u32>)>),
    /// A probe of every GPU and MIG device, by UUID.
    Probed(BTreeMap<String, Probe>),
}

/// What the thread is told.
#[derive(Debug, Clone)]
pub(crate) struct Follower {
    pub(crate) library: Option<PathBuf>,
    pub(crate) host_root: PathBuf,
    pub(crate) probe_interval: Duration,
    /// Whether somebody wants to know which processes use the GPUs.
    pub(crate) is_asked: Arc<AtomicBool>,
}

/// Why the thread stops following a session.
enum End {
    /// Nobody listens any more.
    Unheard,
    Fault(Fault),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Follower {
    /// Starts the thread. It ends soon after the receiver of its news is dropped, unless a call to NVML hangs.
    pub(crate) fn start(self, news: mpsc::Sender<News>) -> io::Result<()> {
        thread::Builder::new().name("nvml".to_owned()).spawn(move || self.run(&news)).map(drop)
    }

    fn run(&self, news: &mpsc::Sender<News>) {
        let mut known = Vec::new();
        while !news.is_closed() {
            let closed = match Session::open(self.library.as_deref()) {
                Err(error) => News::Closed {
                    missing: matches!(error, OpenError::Library { .. }),
                    unloaded: matches!(error, OpenError::Driver { .. }),
                    why: format!("{:#}", anyhow::Error::new(error)),
                },
                Ok(session) => match self.follow(&session, &mut known, news) {
                    End::Unheard => return,
                    End::Fault(fault) => News::Closed {
                        missing: false,
                        unloaded: matches!(fault, Fault::Over(_)),
                        why: fault.to_string(),
                    },
                },
            };
            if news.blocking_send(closed).is_err() {
                return;
            }
            let until = Instant::now() + self.probe_interval;
            while Instant::now() < until && !news.is_closed() {
                thread::sleep(SLICE.min(until.saturating_duration_since(Instant::now())));
            }
        }
    }

    fn follow(&self, session: &Session, known: &mut Vec<Gpu>, news: &mpsc::Sender<News>) -> End {
        loop {
            if let Err(end) = self.follow_list(session, known, news) {
                return end;
            }
        }
    }

    /// From one list of GPUs to the next that differs.
    fn follow_list(&self, session: &Session, known: &mut Vec<Gpu>, news: &mpsc::Sender<News>) -> Result<(), End> {
        let listing = session.list()?;
        for (index, fault) in &listing.unreachable {
            tracing::warn!(gpu = index, "NVML lists a gpu and cannot reach it: {fault}");
        }
        *known = with_unreachable(listing, known);
        let gpus: &[Gpu] = known;
        let send = |what| news.blocking_send(what).map_err(|_| End::Unheard);
        let options = Options { nvml: true, nvml_library: self.library.clone(), host_root: self.host_root.clone() };
        match discover(&Source::Live, &options) {
            Ok(found) => send(News::Listed { found: Box::new(found), gpus: gpus.to_vec() })?,
            Err(error) => tracing::warn!("failed to read the machine again: {:#}", anyhow::Error::new(error)),
        }
        let watch = session.watch(gpus)?;
        for (gpu, fault) in watch.unwatched() {
            tracing::warn!(%gpu, "its errors are not heard, and it is only probed: {fault}");
        }
        let mut list_at = Instant::now() + RELIST;
        let mut probe_at = Instant::now();
        let mut ask_at = probe_at;
        loop {
            if self.is_asked.load(Ordering::Relaxed) && Instant::now() >= ask_at {
                ask_at = Instant::now() + ASK;
                send(News::Used(session.processes(gpus)?))?;
            }
            if Instant::now() >= probe_at {
                let results = probe_all(session, gpus)?;
                send(News::Probed(results))?;
                probe_at = Instant::now() + self.probe_interval;
            }
            if Instant::now() >= list_at {
                list_at = Instant::now() + RELIST;
                if with_unreachable(session.list()?, gpus) != gpus {
                    return Ok(());
                }
            }
            if hear(&watch, probe_at, &send)? {
                probe_at = Instant::now();
            }
        }
    }
}

/// Waits for events until the next probe is due, at most a slice. Returns whether to probe at once.
fn hear(watch: &Watch<'_>, probe_at: Instant, send: &impl Fn(News) -> Result<(), End>) -> Result<bool, End> {
    let left = probe_at.saturating_duration_since(Instant::now()).min(SLICE);
    match watch.wait(left) {
        Ok(events) => {
            for event in &events {
                let EventKind::Xid(xid) = event.kind;
                send(News::Xid { gpu: event.pci, xid })?;
            }
            Ok(!events.is_empty())
        }
        Err(fault @ Fault::Over(_)) => Err(fault.into()),
        Err(fault) => {
            tracing::debug!("waiting for events failed: {fault}");
            thread::sleep(left);
            Ok(matches!(fault, Fault::Lost(_)))
        }
    }
}

/// The GPUs of a list, with those that were known before while some cannot be reached: a lost GPU is a matter of health,
/// and not gone.
fn with_unreachable(listing: Listing, known: &[Gpu]) -> Vec<Gpu> {
    let mut gpus = listing.gpus;
    if !listing.unreachable.is_empty() {
        let lost = known.iter().filter(|known| gpus.iter().all(|gpu| gpu.pci != known.pci)).cloned();
        gpus.extend(lost.collect::<Vec<_>>());
        gpus.sort_by_key(|gpu| gpu.index);
    }
    gpus
}

/// Asks every GPU and MIG device whether it answers.
fn probe_all(session: &Session, gpus: &[Gpu]) -> Result<BTreeMap<String, Probe>, Fault> {
    let mut results = BTreeMap::new();
    for uuid in gpus.iter().flat_map(uuids) {
        let probe = match session.probe(uuid) {
            // A library that cannot be asked this says nothing against the device.
            Ok(()) | Err(Fault::Unsupported(_)) => Probe::Good,
            Err(fault @ Fault::Lost(_)) => Probe::Lost(fault.to_string()),
            Err(fault @ Fault::Absent(_)) => Probe::Absent(fault.to_string()),
            Err(fault @ Fault::Hiccup(_)) => Probe::Hiccup(fault.to_string()),
            Err(fault @ Fault::Over(_)) => return Err(fault),
        };
        results.insert(uuid.to_owned(), probe);
    }
    Ok(results)
}

/// The UUIDs of a GPU and its MIG devices.
fn uuids(gpu: &Gpu) -> impl Iterator<Item = &str> {
    let parts = gpu.mig.iter().flatten().map(|part| part.uuid.as_str());
    gpu.uuid.as_deref().into_iter().chain(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(index: u32) -> Gpu {
        Gpu {
            index,
            pci: PciAddress { domain: 0, bus: index as u8, device: 0, function: 0 },
            uuid: Some(format!("GPU-{index}")),
            name: None,
            minor: Some(index),
            memory_node: None,
            memory_affinity: None,
            mig: None,
        }
    }

    #[test]
    fn a_gpu_that_cannot_be_reached_stays_and_one_that_is_no_longer_listed_goes() {
        let known = [gpu(0), gpu(1), gpu(2)];
        let unreachable = vec![(1, Fault::Lost("lost".to_owned()))];
        let listing = Listing { gpus: vec![gpu(0), gpu(2)], unreachable };
        assert_eq!(with_unreachable(listing.clone(), &known), known);
        assert_eq!(with_unreachable(Listing { unreachable: Vec::new(), ..listing.clone() }, &known), [gpu(0), gpu(2)]);
        assert_eq!(with_unreachable(listing, &[]), [gpu(0), gpu(2)], "what was never reached is not known");
    }
}
