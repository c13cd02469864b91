//! Sets of events, as plugins subscribe to them.

use std::fmt;

use crate::proto::Event;
use crate::version::NriVersion;

/// Events that existed in the first version of the protocol: up to `REMOVE_CONTAINER`.
const FIRST: Events = Events((1 << 11) - 1);

/// With `UPDATE_POD_SANDBOX` and `POST_UPDATE_POD_SANDBOX`, since 0.9.1.
const WITH_POD_UPDATES: Events = Events((1 << 13) - 1);

/// With `VALIDATE_CONTAINER_ADJUSTMENT`, since 0.10.0.
const WITH_VALIDATION: Events = Events((1 << 14) - 1);

/// A set of events. On the wire, event n is bit n−1.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Events(i32);

impl Events {
    /// No event.
    pub const NONE: Self = Self(0);

    /// Every event that this library knows.
    pub const ALL: Self = WITH_VALIDATION;

    /// Whether the event is in the set.
    pub fn contains(self, event: Event) -> bool {
        self.0 & Self::from([event]).0 != 0
    }

    /// Whether no event is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The events of both sets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The events that a runtime knows by its version of NRI. Where that is unknown, the events that all of them know: a
    /// single unknown bit makes a runtime refuse the plugin.
    pub fn known_to(version: Option<NriVersion>) -> Self {
        match version {
            Some(version) if version >= NriVersion::new(0, 10, 0) => WITH_VALIDATION,
            Some(version) if version >= NriVersion::new(0, 9, 1) => WITH_POD_UPDATES,
            _ => FIRST,
        }
    }

    /// The set as it is on the wire. There an empty one stands for all events, so that none is to be sent.
    pub(crate) fn mask(self) -> i32 {
        self.0
    }
}

impl<const N: usize> From<[Event; N]> for Events {
    fn from(events: [Event; N]) -> Self {
        events.into_iter().collect()
    }
}

impl FromIterator<Event> for Events {
    fn from_iter<I: IntoIterator<Item = Event>>(events: I) -> Self {
        let bit =
            |event| (event as i32).checked_sub(1).and_then(|bit| u32::try_from(bit).ok()).map_or(0, |bit| 1 << bit);
        Self(events.into_iter().fold(0, |mask, event| mask | bit(event)))
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = (1..=14).filter_map(|number| Event::try_from(number).ok());
        formatter.debug_set().entries(all.filter(|event| self.contains(*event))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_n_is_bit_n_less_one() {
        assert_eq!(Events::from([Event::RunPodSandbox]).mask(), 1);
        assert_eq!(Events::from([Event::CreateContainer, Event::RemoveContainer]).mask(), 0b100_0000_1000);
        assert_eq!(Events::from([Event::ValidateContainerAdjustment]).mask(), 1 << 13);
        assert!(Events::from([Event::Unknown]).is_empty());
    }

    #[test]
    fn a_runtime_is_never_asked_for_an_event_that_its_version_lacks() {
        let newest = |version| {
            (1..=14).rev().filter_map(|n| Event::try_from(n).ok()).find(|e| Events::known_to(version).contains(*e))
        };
        for (version, last) in [
            (None, Event::RemoveContainer),
            (Some(NriVersion::new(0, 2, 0)), Event::RemoveContainer),
            (Some(NriVersion::new(0, 9, 0)), Event::RemoveContainer),
            (Some(NriVersion::new(0, 9, 1)), Event::PostUpdatePodSandbox),
            (Some(NriVersion::new(0, 10, 0)), Event::ValidateContainerAdjustment),
            (Some(NriVersion::new(1, 0, 0)), Event::ValidateContainerAdjustment),
        ] {
            assert_eq!(newest(version), Some(last), "{version:?}");
            assert!(Events::known_to(version).contains(Event::RunPodSandbox), "{version:?}");
        }
    }
}
