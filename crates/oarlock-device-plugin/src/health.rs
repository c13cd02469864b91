//! When a device may be given away: what is heard and asked of GPUs, as a state for each. Time is an argument.
//!
//! - A GPU that reports an error of hardware or driver (XID), is lost or is gone is unhealthy at once.
//! - A call that fails for no reason of the GPU's counts only when it happens several times in a row, never when all calls
//!   of a round fail so (that is the library's trouble), and never against the last healthy device.
//! - A driver that goes away takes all GPUs with it, after a grace in which it may come back.
//! - A device is healthy again after enough good probes in a row over enough time. After an XID that asks for a reset they
//!   count only once the GPU has been away: lost, absent, or without its driver.
//! - MIG devices share the fate of their GPU.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// XIDs that a program causes, and not the GPU.
pub const APPLICATION_XIDS: [u64; 6] = [13, 31, 43, 45, 68, 109];

/// XIDs that only a reset of the GPU or a restart of its host ends. NVIDIA's catalogue (its page "Analyzing Xid Errors with
/// the Xid Catalog") has `RESET_GPU` or `RESTART_BM` as the immediate action for them, and says of 48 and 74 that one of
/// both is needed. It names a reset for 109 too, which stays with [`APPLICATION_XIDS`].
pub const RESET_XIDS: [u64; 16] = [46, 48, 62, 64, 74, 79, 95, 110, 119, 120, 136, 140, 143, 155, 156, 158];

/// When a fault counts, and when it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// XIDs that say nothing about the GPU.
    pub ignored_xids: BTreeSet<u64>,
    /// Failed calls in a row that take a device out; at least 1.
    pub hiccups: u32,
    /// How long the driver may be away before its GPUs are unhealthy.
    pub driver_grace: Duration,
    /// Good probes in a row before a device is healthy again; at least 1.
    pub recover_probes: u32,
    /// The time over which they are spread, at least.
    pub recover_after: Duration,
}

/// Why a device is unhealthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It reported this error.
    Xid(u64),
    /// It does not answer: off the bus, or to be reset.
    Lost(String),
    /// The driver knows no such device any more.
    Absent(String),
    /// Calls for it keep failing.
    Failing(String),
    /// The driver is away.
    Driver(String),
    /// Its GPU is unhealthy, for this reason.
    Gpu(Box<Reason>),
}

/// What one probe of a device said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// It answers.
    Good,
    /// It is lost.
    Lost(String),
    /// It is not known.
    Absent(String),
    /// The call failed, for a reason that is not the device's.
    Hiccup(String),
}

/// A device whose health has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The device.
    pub id: String,
    /// Why it is unhealthy now; `None` where it is healthy again.
    pub reason: Option<Reason>,
}

/// The health of all devices. Times are since any fixed moment, and never go back.
#[derive(Debug, Clone)]
pub struct Health {
    policy: Policy,
    devices: BTreeMap<String, Device>,
    driver_away_since: Option<Duration>,
}

#[derive(Debug, Clone, Default)]
struct Device {
    /// The GPU that it is a part of.
    gpu: Option<String>,
    hiccups: u32,
    fault: Option<Fault>,
}

#[derive(Debug, Clone)]
struct Fault {
    reason: Reason,
    /// Good probes say nothing before the device has been away.
    awaits_reset: bool,
    /// Good probes since the last bad one, and when the first of them was.
    good: u32,
    good_since: Duration,
}

impl Health {
    /// No devices yet.
    pub fn new(policy: Policy) -> Self {
        Self { policy, devices: BTreeMap::new(), driver_away_since: None }
    }

    /// The devices from now on, each with the GPU that it is a part of. What is known of those that stay is kept; the GPU of
    /// a part is a device itself.
    pub fn set_devices(&mut self, devices: impl IntoIterator<Item = (String, Option<String>)>) {
        let mut known = std::mem::take(&mut self.devices);
        for (id, gpu) in devices {
            let device = known.remove(&id).unwrap_or_default();
            self.devices.insert(id, Device { gpu, ..device });
        }
    }

    /// Why a device is unhealthy: by itself, else by its GPU. `None` where it is healthy, or no device.
    pub fn reason(&self, id: &str) -> Option<Reason> {
        let device = self.devices.get(id)?;
        let own = device.fault.as_ref().map(|fault| fault.reason.clone());
        own.or_else(|| {
            let gpu = self.devices.get(device.gpu.as_ref()?)?;
            Some(Reason::Gpu(Box::new(gpu.fault.as_ref()?.reason.clone())))
        })
    }

    /// The devices, ascending by id.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.devices.keys().map(String::as_str)
    }

    /// A GPU reported an error.
    pub fn xid(&mut self, id: &str, xid: u64) -> Vec<Change> {
        let ignored = self.policy.ignored_xids.contains(&xid);
        self.changing(|health| {
            if !ignored {
                health.fail(id, Reason::Xid(xid));
            }
        })
    }

    /// One round of probes, at best of all devices.
    pub fn round(&mut self, results: &BTreeMap<String, Probe>, now: Duration) -> Vec<Change> {
        self.driver_away_since = None;
        let library = !results.is_empty() && results.values().all(|probe| matches!(probe, Probe::Hiccup(_)));
        self.changing(|health| {
            for (id, probe) in results.iter().filter(|_| !library) {
                match probe {
                    Probe::Good => health.answer(id, now),
                    Probe::Lost(why) => health.fail(id, Reason::Lost(why.clone())),
                    Probe::Absent(why) => health.fail(id, Reason::Absent(why.clone())),
                    Probe::Hiccup(why) => health.hiccup(id, why),
                }
            }
        })
    }

    /// The driver was unloaded: with it all GPUs are reset, and good probes count again.
    pub fn driver_unloaded(&mut self) {
        for fault in self.devices.values_mut().filter_map(|device| device.fault.as_mut()) {
            fault.awaits_reset = false;
        }
    }

    /// The driver is away, so that nothing can be asked.
    pub fn driver_away(&mut self, why: &str, now: Duration) -> Vec<Change> {
        let since = *self.driver_away_since.get_or_insert(now);
        let over = now.saturating_sub(since) >= self.policy.driver_grace;
        self.changing(|health| {
            if over {
                let ids: Vec<String> = health.devices.keys().cloned().collect();
                for id in ids {
                    health.fail(&id, Reason::Driver(why.to_owned()));
                }
            }
        })
    }

    fn answer(&mut self, id: &str, now: Duration) {
        let (probes, after) = (self.policy.recover_probes, self.policy.recover_after);
        let Some(device) = self.devices.get_mut(id) else { return };
        device.hiccups = 0;
        let Some(fault) = device.fault.as_mut().filter(|fault| !fault.awaits_reset) else { return };
        if fault.good == 0 {
            fault.good_since = now;
        }
        fault.good += 1;
        if fault.good >= probes && now.saturating_sub(fault.good_since) >= after {
            device.fault = None;
        }
    }

    /// A fault that is certain. What was known before gives way, and recovery begins anew; but what asks for a reset
    /// stays until the device is away, whatever else it reports.
    fn fail(&mut self, id: &str, reason: Reason) {
        let Some(device) = self.devices.get_mut(id) else { return };
        device.hiccups = 0;
        let awaits_reset = matches!(reason, Reason::Xid(xid) if RESET_XIDS.contains(&xid));
        let awaited = device.fault.as_ref().is_some_and(|fault| fault.awaits_reset);
        if awaits_reset || !awaited || !matches!(reason, Reason::Xid(_)) {
            device.fault = Some(Fault { reason, awaits_reset, good: 0, good_since: Duration::ZERO });
        }
    }

    fn hiccup(&mut self, id: &str, why: &str) {
        let others = self.another_is_healthy(id);
        let most = self.policy.hiccups;
        let Some(device) = self.devices.get_mut(id) else { return };
        device.hiccups = device.hiccups.saturating_add(1);
        match &mut device.fault {
            Some(fault) => fault.good = 0,
            None if device.hiccups >= most && others => self.fail(id, Reason::Failing(why.to_owned())),
            None => {}
        }
    }

    /// Whether a device would stay healthy if this one were not.
    fn another_is_healthy(&self, id: &str) -> bool {
        let cut: BTreeSet<&String> = self.devices.values().filter_map(|device| device.gpu.as_ref()).collect();
        let mut others = self.devices.iter().filter(|(other, device)| {
            other.as_str() != id && device.gpu.as_deref() != Some(id) && !cut.contains(other)
        });
        others.any(|(other, _)| self.reason(other).is_none())
    }

    fn changing(&mut self, act: impl FnOnce(&mut Self)) -> Vec<Change> {
        let reasons = |health: &Self| -> Vec<(String, Option<Reason>)> {
            health.devices.keys().map(|id| (id.clone(), health.reason(id))).collect()
        };
        let before = reasons(self);
        act(self);
        let after = reasons(self).into_iter().zip(before).filter(|(after, before)| after != before);
        after.map(|((id, reason), _)| Change { id, reason }).collect()
    }
}

impl Reason {
    /// One word for metrics, from a set that is bounded: XIDs by number where NVIDIA has such a number.
    pub fn label(&self) -> String {
        match self {
            Self::Xid(xid @ 1..=999) => format!("xid-{xid}"),
            Self::Xid(_) => "xid".to_owned(),
            Self::Lost(_) => "lost".to_owned(),
            Self::Absent(_) => "absent".to_owned(),
            Self::Failing(_) => "failing".to_owned(),
            Self::Driver(_) => "driver".to_owned(),
            Self::Gpu(reason) => reason.label(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xid(xid) if RESET_XIDS.contains(xid) => write!(f, "it reported XID {xid}, and has to be reset"),
            Self::Xid(xid) => write!(f, "it reported XID {xid}"),
            Self::Lost(why) | Self::Absent(why) => f.write_str(why),
            Self::Failing(why) => write!(f, "calls for it keep failing: {why}"),
            Self::Driver(why) => write!(f, "the driver is away: {why}"),
            Self::Gpu(reason) => write!(f, "its GPU: {reason}"),
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ignored_xids: APPLICATION_XIDS.into(),
            hiccups: 3,
            driver_grace: Duration::from_secs(10),
            recover_probes: 3,
            recover_after: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests;
