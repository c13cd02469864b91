//! The annotation `oarlock.dev/placement`: what the ranks of a pod's containers were given.
//!
//! `{"main":[{"cpus":"0-3","mems":"0","gpus":[0]},…]}`: for each container its ranks in their order, with CPUs and memory
//! nodes in the kernel's list form, `null` where they are not bound, and the machine's indices of the GPUs. `gpu_mems` is
//! there where it is not empty.

use std::collections::{BTreeMap, VecDeque};

use oarlock_core::rankenv::RankEntry;
use oarlock_kernel::ledger::Pod;

/// The annotation's key.
pub(super) const ANNOTATION: &str = "oarlock.dev/placement";
/// A longer value is not written: all annotations of a pod together have 256 KiB.
const MOST_BYTES: usize = 64 << 10;

/// What has become of a pod.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Placed {
    /// One of its containers has these places now, or none.
    Container {
        /// The pod.
        pod: Pod,
        /// Whether kubelet has it from a file. What the API has is a copy of its own, which is left alone.
        from_file: bool,
        /// The container's name.
        container: String,
        /// The place of each rank.
        ranks: Vec<RankEntry>,
    },
    /// It is gone.
    Gone {
        /// Its uid.
        uid: String,
    },
}

/// The annotations of all pods, and which of them the API server does not have yet.
#[derive(Debug, Default)]
pub(super) struct Annotations {
    /// By the pod's uid.
    pods: BTreeMap<String, OfPod>,
    /// The uids of those that are to be written. Each is there once, however often it changes.
    waiting: VecDeque<String>,
}

#[derive(Debug)]
struct OfPod {
    pod: Pod,
    containers: BTreeMap<String, Vec<RankEntry>>,
    /// What was written last.
    written: Option<String>,
    /// Whether anything was; before that, an earlier agent's word may be there.
    is_ours: bool,
}

impl OfPod {
    fn is_written(&self) -> bool {
        self.is_ours && self.written == self.value()
    }

    /// The value; `None` where there is to be none.
    fn value(&self) -> Option<String> {
        if self.containers.is_empty() {
            return None;
        }
        // Such maps have no form that JSON lacks.
        serde_json::to_string(&self.containers).ok().filter(|text| text.len() <= MOST_BYTES)
    }
}

impl Annotations {
    /// A container of a pod has places, or none any more.
    pub(super) fn set(&mut self, pod: Pod, container: String, ranks: Vec<RankEntry>) {
        let uid = pod.uid.clone();
        let of_pod = self.pods.entry(uid.clone()).or_insert_with(|| OfPod {
            pod,
            containers: BTreeMap::new(),
            written: None,
            is_ours: false,
        });
        if ranks.is_empty() {
            of_pod.containers.remove(&container);
        } else {
            of_pod.containers.insert(container, ranks);
        }
        if !self.waiting.contains(&uid) && !of_pod.is_written() {
            self.waiting.push_back(uid);
        }
    }

    /// A pod is gone, and its annotation with it.
    pub(super) fn forget(&mut self, uid: &str) {
        self.pods.remove(uid);
        self.waiting.retain(|waiting| waiting != uid);
    }

    /// The pod that waits longest, and what is to be written on it. It waits until it is [`Self::done`].
    pub(super) fn first(&self) -> Option<(Pod, Option<String>)> {
        let of_pod = self.pods.get(self.waiting.front()?)?;
        Some((of_pod.pod.clone(), of_pod.value()))
    }

    /// This was written on a pod, or cannot be.
    pub(super) fn done(&mut self, uid: &str, value: Option<String>) {
        self.waiting.retain(|waiting| waiting != uid);
        let Some(of_pod) = self.pods.get_mut(uid) else { return };
        (of_pod.written, of_pod.is_ours) = (value, true);
        if !of_pod.is_written() {
            self.waiting.push_back(uid.to_owned());
        }
    }

    /// Nothing is to be written any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str) -> Pod {
        Pod { namespace: "ml".to_owned(), name: "job".to_owned(), uid: uid.to_owned() }
    }

    fn rank(cpus: &str, gpu: u32) -> RankEntry {
        RankEntry { cpus: cpus.parse().ok(), mems: "1".parse().ok(), gpus: vec![gpu], ..RankEntry::default() }
    }

    fn set(annotations: &mut Annotations, uid: &str, ranks: &[RankEntry]) {
        annotations.set(pod(uid), "main".to_owned(), ranks.to_vec());
    }

    #[test]
    fn the_value_has_for_each_container_its_ranks_in_their_order() {
        let mut annotations = Annotations::default();
        let unbound = RankEntry { gpus: vec![4], ..RankEntry::default() };
        set(&mut annotations, "u", &[rank("4-5", 7), unbound]);
        let (_, value) = annotations.first().unwrap();
        let expected = r#"{"main":[{"cpus":"4-5","mems":"1","gpus":[7]},{"cpus":null,"mems":null,"gpus":[4]}]}"#;
        assert_eq!(value.as_deref(), Some(expected));
        annotations.set(pod("u"), "aside".to_owned(), vec![rank("0", 0)]);
        let value = annotations.first().unwrap().1.unwrap();
        assert!(
            value.starts_with(r#"{"aside":[{"cpus":"0","#) && value.contains(r#""main":[{"cpus":"4-5""#),
            "{value}"
        );
    }

    #[test]
    fn what_was_written_is_written_again_only_where_it_changes() {
        let mut annotations = Annotations::default();
        set(&mut annotations, "u", &[rank("4-5", 7)]);
        set(&mut annotations, "u", &[rank("4-6", 7)]);
        let (pod, value) = annotations.first().unwrap();
        assert!(value.as_ref().unwrap().contains("4-6"));
        // It changes while it is on its way.
        set(&mut annotations, "u", &[rank("4-7", 7)]);
        annotations.done(&pod.uid, value);
        let (_, value) = annotations.first().unwrap();
        assert!(value.as_ref().unwrap().contains("4-7"));
        annotations.done("u", value);
        assert_eq!(annotations.first(), None);
        set(&mut annotations, "u", &[rank("4-7", 7)]);
        assert_eq!(annotations.first(), None);
        set(&mut annotations, "u", &[]);
        assert_eq!(annotations.first(), Some((self::pod("u"), None)));
    }

    #[test]
    fn of_a_container_that_never_had_a_place_an_earlier_agents_word_is_taken_away_once() {
        let mut annotations = Annotations::default();
        set(&mut annotations, "u", &[]);
        assert_eq!(annotations.first(), Some((pod("u"), None)));
        annotations.done("u", None);
        set(&mut annotations, "u", &[]);
        assert_eq!(annotations.first(), None);
    }

    #[test]
    fn of_a_pod_that_is_gone_nothing_is_kept_and_a_value_that_is_too_long_is_none() {
        let mut annotations = Annotations::default();
        set(&mut annotations, "u", &[rank("4-5", 7)]);
        set(&mut annotations, "v", &vec![rank("4-5", 7); 3000]);
        annotations.forget("u");
        assert_eq!(annotations.first(), Some((pod("v"), None)));
        annotations.forget("v");
        assert_eq!((annotations.first(), annotations.pods.len()), (None, 0));
    }
}
