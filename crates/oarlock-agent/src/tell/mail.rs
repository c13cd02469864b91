//! What waits for the API server. The box has a bound: what is oldest goes first.

use std::collections::VecDeque;
use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use oarlock_kernel::ledger::Pod;

use super::Notice;
use super::placed::{Annotations, Placed};
use super::quiet::Quiet;

/// So many notices wait at most.
const MOST_WAITING: usize = 256;

/// The box.
#[derive(Debug, Default)]
pub(super) struct Mail {
    quiet: Quiet,
    notices: VecDeque<Letter>,
    /// The number of the next notice.
    number: u64,
    annotations: Annotations,
}

/// One thing to send.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Letter {
    /// An event, of this time. The number tells it from others.
    Event { number: u64, notice: Notice, at: Timestamp },
    /// The annotation of a pod; `None` takes it away.
    Annotation { pod: Pod, value: Option<String> },
}

/// What became of a notice that was put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// It waits.
    Waits,
    /// It waits, and the one that waited longest was dropped for it.
    ForAnother,
    /// The same was said a moment ago, or too much was.
    Quiet,
}

impl Mail {
    /// A notice, now.
    pub(super) fn put(&mut self, notice: &Notice, at: Timestamp, now: Instant) -> Put {
        if !self.quiet.is_news(notice, now) {
            return Put::Quiet;
        }
        let full = self.notices.len() >= MOST_WAITING;
        if full {
            self.notices.pop_front();
        }
        self.notices.push_back(Letter::Event { number: self.number, notice: notice.clone(), at });
        self.number += 1;
        if full { Put::ForAnother } else { Put::Waits }
    }

    /// What has become of a pod.
    pub(super) fn placed(&mut self, placed: Placed) {
        match placed {
            Placed::Container { pod, container, ranks, .. } => self.annotations.set(pod, container, ranks),
            // What was said of it is not said again of its next sandbox.
            Placed::Gone { uid } => self.annotations.forget(&uid),
        }
    }

    /// What is to be sent first: notices before annotations, since they say what went wrong. It stays until it is
    /// [`Self::done`].
    pub(super) fn first(&self) -> Option<Letter> {
        let annotation = || self.annotations.first().map(|(pod, value)| Letter::Annotation { pod, value });
        self.notices.front().cloned().or_else(annotation)
    }

    /// This needs no sending any more.
    pub(super) fn done(&mut self, letter: Letter) {
        match letter {
            // It may have been dropped meanwhile.
            Letter::Event { number, .. } => {
                self.notices.retain(|waits| !matches!(waits, Letter::Event { number: other, .. } if *other == number));
            }
            Letter::Annotation { pod, value } => self.annotations.done(&pod.uid, value),
        }
    }

    /// Takes all out.
    pub(super) fn clear(&mut self) {
        self.notices.clear();
        self.annotations.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::What;
    use super::*;

    fn notice(uid: usize) -> Notice {
        let pod = Pod { namespace: "ml".to_owned(), name: "job".to_owned(), uid: uid.to_string() };
        Notice { pod, container: "main".to_owned(), what: What::RanksBound, words: "held".to_owned() }
    }

    fn uid(mail: &Mail) -> String {
        match mail.first() {
            Some(Letter::Event { notice, .. }) => notice.pod.uid,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn of_a_thousand_notices_the_last_wait_and_the_oldest_of_them_is_first() {
        let (mut mail, now) = (Mail::default(), Instant::now());
        let put: Vec<Put> = (0..1000).map(|pod| mail.put(&notice(pod), Timestamp::UNIX_EPOCH, now)).collect();
        let count = |what| put.iter().filter(|put| **put == what).count();
        assert_eq!((count(Put::Waits), count(Put::ForAnother), count(Put::Quiet)), (256, 744, 0));
        assert_eq!(uid(&mail), "744");
        assert_eq!(mail.put(&notice(999), Timestamp::UNIX_EPOCH, now), Put::Quiet);
    }

    #[test]
    fn what_was_dropped_while_it_was_on_its_way_takes_no_other_with_it() {
        let (mut mail, now) = (Mail::default(), Instant::now());
        for pod in 0..256 {
            mail.put(&notice(pod), Timestamp::UNIX_EPOCH, now);
        }
        let on_its_way = mail.first().unwrap();
        mail.put(&notice(256), Timestamp::UNIX_EPOCH, now);
        mail.done(on_its_way);
        assert_eq!(uid(&mail), "1");
        let second = mail.first().unwrap();
        mail.done(second);
        assert_eq!(uid(&mail), "2");
    }
}
