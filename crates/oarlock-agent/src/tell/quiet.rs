//! What need not be said again: whoever starts and fails in a loop has one event, and not thousands.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use super::Notice;

/// The same words about the same container of a pod are not repeated for so long.
const SILENCE: Duration = Duration::from_secs(600);
/// In that time so many different things are said of a pod. What a hostile one has to say has no end.
const MOST_OF_POD: usize = 16;
/// Pods of which something was said in that time; a host runs some hundred.
const MOST_PODS: usize = 4096;

/// What was said of each pod, by its uid, since when.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    pods: HashMap<String, (Instant, HashSet<u64>)>,
}

impl Quiet {
    /// Whether this is to be said now.
    pub(super) fn is_news(&mut self, notice: &Notice, now: Instant) -> bool {
        let is_recent = |since: &Instant| now.duration_since(*since) < SILENCE;
        if self.pods.len() >= MOST_PODS && !self.pods.contains_key(&notice.pod.uid) {
            self.pods.retain(|_, (since, _)| is_recent(since));
            if self.pods.len() >= MOST_PODS {
                return false;
            }
        }
        let (since, said) = self.pods.entry(notice.pod.uid.clone()).or_insert_with(|| (now, HashSet::new()));
        if !is_recent(since) {
            *since = now;
            said.clear();
        }
        let mut words = DefaultHasher::new();
        (&notice.container, notice.what, &notice.words).hash(&mut words);
        said.len() < MOST_OF_POD && said.insert(words.finish())
    }
}

#[cfg(test)]
mod tests {
    use oarlock_kernel::ledger::Pod;

    use super::super::What;
    use super::*;

    fn notice(uid: &str, words: &str) -> Notice {
        let pod = Pod { namespace: "ml".to_owned(), name: "same".to_owned(), uid: uid.to_owned() };
        Notice { pod, container: "main".to_owned(), what: What::BindingRefused, words: words.to_owned() }
    }

    #[test]
    fn the_same_words_are_said_again_after_a_while_and_others_at_once() {
        let (mut quiet, began) = (Quiet::default(), Instant::now());
        assert!(quiet.is_news(&notice("1", "no"), began));
        for seconds in [0, 1, 599] {
            assert!(!quiet.is_news(&notice("1", "no"), began + Duration::from_secs(seconds)), "{seconds}");
        }
        assert!(quiet.is_news(&notice("1", "still no"), began));
        assert!(quiet.is_news(&notice("2", "no"), began), "another pod of the same name");
        let other = Notice { container: "other".to_owned(), ..notice("1", "no") };
        assert!(quiet.is_news(&other, began));
        assert!(quiet.is_news(&Notice { what: What::RanksUnbound, ..other }, began));
        assert!(quiet.is_news(&notice("1", "no"), began + Duration::from_secs(600)));
    }

    #[test]
    fn a_pod_without_end_is_cut_and_so_are_pods_without_end() {
        let (mut quiet, began) = (Quiet::default(), Instant::now());
        let said = (0..1000).filter(|number| quiet.is_news(&notice("1", &format!("{number}")), began)).count();
        assert_eq!(said, MOST_OF_POD);
        let said = (0..10_000).filter(|number| quiet.is_news(&notice(&format!("uid {number}"), "no"), began)).count();
        assert_eq!(said, MOST_PODS - 1);
        assert!(quiet.is_news(&notice("late", "no"), began + SILENCE), "the old ones made room");
    }
}
