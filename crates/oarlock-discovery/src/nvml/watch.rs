//! Waiting for what GPUs report by themselves.

use std::thread;
use std::time::Duration;

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::event::EventData;
use nvml_wrapper::{Device, EventSet};
use oarlock_core::pci::PciAddress;

use super::{Fault, Gpu, Patience, Session};

/// The XID that NVML gives where it does not know which.
const UNKNOWN_XID: u64 = 999;
/// More events than this in one wait are left for the next.
const MOST_EVENTS: usize = 256;

/// Something that a GPU reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The GPU's UUID, where it has one.
    pub uuid: Option<String>,
    /// Its address.
    pub pci: PciAddress,
    /// What it reported.
    pub kind: EventKind,
}

/// What a GPU reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// An error by NVIDIA's number (XID); 999 where NVML does not know which. It is of the whole GPU: the wrapper does not
    /// tell which MIG device had it.
    Xid(u64),
}

/// The events of some GPUs. Made by [`Session::watch`].
#[derive(Debug)]
pub struct Watch<'session> {
    /// `None` where no GPU could be registered.
    set: Option<EventSet<'session>>,
    members: Vec<Member>,
    unwatched: Vec<(PciAddress, Fault)>,
}

/// A registered GPU. A lost one cannot be asked for its UUID, so its handle tells whose an event is.
#[derive(Debug)]
struct Member {
    handle: usize,
    uuid: Option<String>,
    pci: PciAddress,
}

impl<'session> Watch<'session> {
    /// Registers each GPU for itself. NVML gives up a whole set when one registration fails, so those that can be
    /// registered are registered again without the one that cannot.
    pub(super) fn new(session: &'session Session, gpus: &[Gpu]) -> Result<Self, Fault> {
        let mut unwatched: Vec<(PciAddress, Fault)> = Vec::new();
        let mut patience = Patience::new();
        loop {
            let wanted = gpus.iter().filter(|gpu| !unwatched.iter().any(|(pci, _)| *pci == gpu.pci));
            match register(session, wanted) {
                Ok((set, members)) => {
                    let set = (!members.is_empty()).then_some(set);
                    return Ok(Self { set, members, unwatched });
                }
                Err((_, fault)) if patience.with(&fault) => {}
                Err((_, fault @ Fault::Over(_)) | (None, fault)) => return Err(fault),
                Err((Some(gpu), fault)) => unwatched.push((gpu, fault)),
            }
        }
    }

    /// The GPUs that could not be registered: nothing is heard from them, and they must be asked.
    pub fn unwatched(&self) -> &[(PciAddress, Fault)] {
        &self.unwatched
    }

    /// Blocks until a GPU reports something, at most for `timeout`, and returns all that was reported; nothing at the
    /// timeout. A [`Fault::Lost`] here names no GPU: each must be probed.
    pub fn wait(&self, timeout: Duration) -> Result<Vec<Event>, Fault> {
        let Some(set) = &self.set else {
            thread::sleep(timeout);
            return Ok(Vec::new());
        };
        let mut events = Vec::new();
        let mut left = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        while events.len() < MOST_EVENTS {
            match set.wait(left) {
                Ok(data) => events.extend(self.event(&data)),
                Err(NvmlError::Timeout) => break,
                // What was heard is not lost for it: the next wait fails again, or does not.
                Err(_) if !events.is_empty() => break,
                Err(error) => return Err(error.into()),
            }
            left = 0;
        }
        Ok(events)
    }

    fn event(&self, data: &EventData<'_>) -> Option<Event> {
        let xid = match data.event_data.as_ref()? {
            XidError::Value(xid) => *xid,
            XidError::Unknown => UNKNOWN_XID,
        };
        let handle = handle(&data.device);
        let member = self.members.iter().find(|member| member.handle == handle);
        let (uuid, pci) = match member {
            Some(member) => (member.uuid.clone(), member.pci),
            None => (data.device.uuid().ok(), data.device.pci_info().ok()?.bus_id.parse().ok()?),
        };
        Some(Event { uuid, pci, kind: EventKind::Xid(xid) })
    }
}

/// A set with all of these GPUs, or the first that cannot be registered.
fn register<'session, 'gpu>(
    session: &'session Session,
    gpus: impl Iterator<Item = &'gpu Gpu>,
) -> Result<(EventSet<'session>, Vec<Member>), (Option<PciAddress>, Fault)> {
    let mut set = session.nvml.create_event_set().map_err(|error| (None, error.into()))?;
    let mut members = Vec::new();
    for gpu in gpus {
        let failed = |error: NvmlError| (Some(gpu.pci), error.into());
        let device = session.nvml.device_by_pci_bus_id(gpu.pci.to_string()).map_err(failed)?;
        set = device.register_events(EventTypes::CRITICAL_XID_ERROR, set).map_err(|error| failed(error.error))?;
        members.push(Member { handle: handle(&device), uuid: gpu.uuid.clone(), pci: gpu.pci });
    }
    Ok((set, members))
}

#[expect(unsafe_code, reason = "the wrapper gives the handle by an unsafe function only")]
fn handle(device: &Device<'_>) -> usize {
    // SAFETY: nothing is called with the handle; its number is compared.
    unsafe { device.handle() }.addr()
}
