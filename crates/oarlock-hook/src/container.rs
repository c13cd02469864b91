//! One container, as its configuration describes it: who it is, and what it asks for.

use oarlock_kernel::ledger::Pod;

use crate::config::{self, Config};

/// What containerd and CRI-O write about a container, in this order.
const KINDS: [&str; 2] = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];
const NAMES: [&str; 2] = ["io.kubernetes.cri.container-name", "io.kubernetes.container.name"];
const PODS: [&str; 2] = ["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"];
const NAMESPACES: [&str; 2] = ["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"];
const UIDS: [&str; 3] = ["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid", "io.kubernetes.cri.sandbox-id"];
/// What podman writes.
const PODMAN: (&str, &str) = ("io.container.manager", "libpod");
/// So much of an id people know a container by.
const SHORT: usize = 12;

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) config: Config,
}

impl Container {
    /// Whether it asks for a place. A pod's sandbox has the pod's annotations, and nothing to place.
    pub(crate) fn is_asking(&self) -> bool {
        config::asks(self.config.annotations().keys()) && self.config.annotation(&KINDS) != Some("sandbox")
    }

    /// Its name in its pod; one without a pod goes by its id.
    pub(crate) fn name(&self) -> &str {
        self.config.annotation(&NAMES).unwrap_or_else(|| self.short_id())
    }

    /// Its pod; one without a pod is alone in one of its own, in the namespace of what made it.
    pub(crate) fn pod(&self) -> Pod {
        let text = |names: &[&str]| self.config.annotation(names).map(str::to_owned);
        let manager = if self.config.annotation(&[PODMAN.0]) == Some(PODMAN.1) { "podman" } else { "oci" };
        Pod {
            namespace: text(&NAMESPACES).unwrap_or_else(|| manager.to_owned()),
            name: text(&PODS).unwrap_or_else(|| self.short_id().to_owned()),
            uid: text(&UIDS).unwrap_or_else(|| self.id.clone()),
        }
    }

    fn short_id(&self) -> &str {
        self.id.char_indices().nth(SHORT).map_or(self.id.as_str(), |(end, _)| &self.id[..end])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "c0ffee00c0ffee00";

    fn container(annotations: &serde_json::Value) -> Container {
        let config = json!({"annotations": annotations}).to_string();
        Container { id: ID.to_owned(), config: Config::parse(config.as_bytes(), "a test").unwrap() }
    }

    fn pod(namespace: &str, name: &str, uid: &str) -> Pod {
        Pod { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.to_owned() }
    }

    #[test]
    fn who_a_container_is_says_what_made_it() {
        let containerds = container(&json!({
            "io.kubernetes.cri.container-name": "trainer", "io.kubernetes.cri.sandbox-name": "job-0",
            "io.kubernetes.cri.sandbox-namespace": "ml", "io.kubernetes.cri.sandbox-uid": "uid-1", "io.kubernetes.cri.sandbox-id": "5a",
        }));
        assert_eq!((containerds.name(), containerds.pod()), ("trainer", pod("ml", "job-0", "uid-1")));
        let crios = container(&json!({
            "io.kubernetes.container.name": "trainer", "io.kubernetes.pod.name": "job-0",
            "io.kubernetes.pod.namespace": "ml", "io.kubernetes.pod.uid": "uid-1",
        }));
        assert_eq!((crios.name(), crios.pod()), ("trainer", pod("ml", "job-0", "uid-1")));
        let podmans = container(&json!({"io.container.manager": "libpod"}));
        assert_eq!((podmans.name(), podmans.pod()), ("c0ffee00c0ff", pod("podman", "c0ffee00c0ff", ID)));
        assert_eq!(container(&json!({})).pod(), pod("oci", "c0ffee00c0ff", ID));
        assert_eq!(
            container(&json!({"io.kubernetes.cri.sandbox-id": "5a"})).pod().uid,
            "5a",
            "where it tells no other"
        );
    }
}
