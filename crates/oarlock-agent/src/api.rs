//! The Kubernetes API server: one request, and what its answer means.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use k8s_openapi::api::core::v1::{Node, Pod as ApiPod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{GroupVersionKind, Status};
use kube::{Client, Config};
use oarlock_kernel::ledger::Pod;
use serde_json::{Value, json};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// A server that takes longer does not answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// Who owns what is written, to the server.
const FIELD_MANAGER: &str = "oarlock";

/// The server.
pub(crate) struct Server {
    client: Client,
}

/// What an answer means for what was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is there.
    Done,
    /// What it is about is not there, or not any more.
    Gone,
    /// Something is there that stands against it, in the server's words.
    Conflict(String),
    /// It is not allowed, in the server's words.
    Forbidden(String),
    /// It is not taken, now or later, in the server's words.
    Refused(String),
    /// It may be taken later.
    Later {
        /// What the trouble is: the same text for the same trouble.
        why: String,
        /// How long the server asks to wait.
        after: Option<Duration>,
    },
}

/// A Node object, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NodeSeen {
    /// Which of those that ever had its name it is.
    pub(crate) uid: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
}

impl Server {
    /// The server that this process belongs to: `$KUBECONFIG`'s, a kubeconfig file's at its usual place, or that of the
    /// process's own pod. Nothing is sent yet.
    pub(crate) async fn infer() -> Result<Self> {
        // The error's own words hold all its causes.
        let mut config = Config::infer().await.map_err(|error| anyhow!("{error}"))?;
        // When to try again is decided by who asks.
        config.default_retry = false;
        config.connect_timeout = Some(ANSWERED_WITHIN);
        let client = Client::try_from(config).context("cannot speak to the server")?;
        Ok(Self { client })
    }

    /// Makes an event. One that is there already is as good.
    pub(crate) async fn create(&self, event: &Event) -> Answer {
        let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        match sent(events.create(&PostParams::default(), event)).await {
            Ok(_) | Err(Answer::Conflict(_)) => Answer::Done,
            Err(answer) => answer,
        }
    }

    /// Writes an annotation of a pod, or takes it away. Another pod of the same name is left alone.
    pub(crate) async fn annotate(&self, pod: &Pod, key: &str, value: Option<&str>) -> Answer {
        let pods: Api<ApiPod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let patch = json!({ "metadata": { "uid": pod.uid, "annotations": { key: value } } });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        // The pod comes back as its metadata alone.
        match sent(pods.patch_metadata(&pod.name, &params, &Patch::Merge(patch))).await {
            Ok(_) => Answer::Done,
            Err(Answer::Conflict(_)) => Answer::Gone,
            Err(answer) => answer,
        }
    }

    /// The Node object of this name.
    pub(crate) async fn node(&self, name: &str) -> Result<NodeSeen, Answer> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let metadata = sent(nodes.get_metadata(name)).await?.metadata;
        Ok(NodeSeen { uid: metadata.uid.unwrap_or_default(), labels: metadata.labels.unwrap_or_default() })
    }

    /// Applies labels to the Node object of this name and uid: those that were applied before and are not among them are
    /// taken away. It makes no Node.
    pub(crate) async fn label(&self, name: &str, uid: &str, labels: &BTreeMap<&str, String>) -> Answer {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let metadata = json!({ "name": name, "uid": uid, "labels": labels });
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        sent(nodes.patch_metadata(name, &params, &Patch::Apply(node))).await.err().unwrap_or(Answer::Done)
    }

    /// Whether there is a kind of objects. [`Answer::Gone`] is that there is none.
    pub(crate) async fn knows(&self, kind: &GroupVersionKind) -> Answer {
        match sent(self.client.list_api_group_resources(&kind.api_version())).await {
            Ok(known) if known.resources.iter().any(|known| known.kind == kind.kind) => Answer::Done,
            Ok(_) => Answer::Gone,
            Err(answer) => answer,
        }
    }

    /// Applies an object that belongs to no namespace. Where another has written something else into it, it stays as it is,
    /// and that is a [`Answer::Conflict`].
    pub(crate) async fn apply(&self, kind: &GroupVersionKind, plural: &str, name: &str, object: &Value) -> Answer {
        let kind = ApiResource::from_gvk_with_plural(kind, plural);
        let objects: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind);
        let params = PatchParams::apply(FIELD_MANAGER);
        sent(objects.patch_metadata(name, &params, &Patch::Apply(object))).await.err().unwrap_or(Answer::Done)
    }
}

/// Waits for an answer, and reads it where it is none of success.
async fn sent<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Answer> {
    answer(timeout(ANSWERED_WITHIN, request).await)
}

fn answer<T>(sent: Result<Result<T, kube::Error>, Elapsed>) -> Result<T, Answer> {
    let later = |why| Answer::Later { why, after: None };
    Err(match sent {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(kube::Error::Api(status))) => of_status(&status),
        // It was taken, by whoever it was: sent again, it would be answered the same.
        Ok(Err(kube::Error::SerdeError(error))) => Answer::Refused(format!("its answer cannot be read: {error}")),
        Ok(Err(error)) => later(chain(&error)),
        Err(_) => later(format!("no answer within {} s", ANSWERED_WITHIN.as_secs())),
    })
}

fn of_status(status: &Status) -> Answer {
    let words = format!("{}: {}", status.reason, status.message);
    let details = status.details.as_ref();
    match status.code {
        // Nothing new is made in a namespace that is on its way out.
        403 if details
            .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")) =>
        {
            Answer::Gone
        }
        403 => Answer::Forbidden(status.message.clone()),
        404 => Answer::Gone,
        409 => Answer::Conflict(status.message.clone()),
        // A token that has run out is made anew by kubelet.
        401 | 429 | 500.. => Answer::Later {
            why: format!("status {}", status.code),
            after: details
                .map(|details| Duration::from_secs(details.retry_after_seconds.into()))
                .filter(|after| !after.is_zero()),
        },
        _ => Answer::Refused(words),
    }
}

/// An error and its causes, each once: the client's errors repeat their cause.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: serde_json::Value) -> Answer {
        of_status(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn a_status_says_whether_and_when_to_try_again() {
        let later = |why: &str, after| Answer::Later { why: why.to_owned(), after };
        let seconds = Duration::from_secs;
        for (status, expected) in [
            (json!({"code": 403, "reason": "Forbidden", "message": "no"}), Answer::Forbidden("no".to_owned())),
            (
                json!({"code": 403, "reason": "Forbidden", "message": "no",
                    "details": {"causes": [{"reason": "NamespaceTerminating"}]}}),
                Answer::Gone,
            ),
            (json!({"code": 404, "reason": "NotFound", "message": "no"}), Answer::Gone),
            (json!({"code": 409, "reason": "AlreadyExists", "message": "no"}), Answer::Conflict("no".to_owned())),
            (json!({"code": 401, "reason": "Unauthorized"}), later("status 401", None)),
            (
                json!({"code": 429, "reason": "TooManyRequests", "details": {"retryAfterSeconds": 7}}),
                later("status 429", Some(seconds(7))),
            ),
            (json!({"code": 500, "message": "etcd 1"}), later("status 500", None)),
            (json!({"code": 503, "details": {"retryAfterSeconds": 0}}), later("status 503", None)),
            (
                json!({"code": 422, "reason": "Invalid", "message": "note: too long"}),
                Answer::Refused("Invalid: note: too long".to_owned()),
            ),
        ] {
            assert_eq!(of(status.clone()), expected, "{status}");
        }
    }
}
