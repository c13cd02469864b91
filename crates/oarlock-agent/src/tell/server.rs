//! The API server: one request, and what its answer means.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use k8s_openapi::api::core::v1::Pod as ApiPod;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::Status;
use kube::{Client, Config};
use oarlock_kernel::ledger::Pod;
use serde_json::json;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::placed::ANNOTATION;

/// A server that takes longer does not answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// Who owns the annotation, to the server.
const FIELD_MANAGER: &str = "oarlock";

/// The server.
pub(super) struct Server {
    client: Client,
}

/// What an answer means for what was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is there.
    Done,
    /// The pod or its namespace is not there any more.
    Gone,
    /// Something is there that stands against it.
    Conflict,
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

impl Server {
    /// The server that this process belongs to: `$KUBECONFIG`'s, a kubeconfig file's at its usual place, or that of the
    /// process's own pod. Nothing is sent yet.
    pub(super) async fn infer() -> Result<Self> {
        // The error's own words hold all its causes.
        let mut config = Config::infer().await.map_err(|error| anyhow!("{error}"))?;
        // When to try again is decided here, for all requests together.
        config.default_retry = false;
        config.connect_timeout = Some(ANSWERED_WITHIN);
        let client = Client::try_from(config).context("cannot speak to the server")?;
        Ok(Self { client })
    }

    /// Makes an event. One that is there already is as good.
    pub(super) async fn create(&self, event: &Event) -> Answer {
        let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let sent = timeout(ANSWERED_WITHIN, events.create(&PostParams::default(), event)).await;
        match answer(sent) {
            Answer::Conflict => Answer::Done,
            answer => answer,
        }
    }

    /// Writes a pod's annotation, or takes it away. Another pod of the same name is left alone.
    pub(super) async fn annotate(&self, pod: &Pod, value: Option<&str>) -> Answer {
        let pods: Api<ApiPod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let patch = json!({ "metadata": { "uid": pod.uid, "annotations": { ANNOTATION: value } } });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        // The pod comes back as its metadata alone.
        let sent = timeout(ANSWERED_WITHIN, pods.patch_metadata(&pod.name, &params, &Patch::Merge(patch))).await;
        match answer(sent) {
            Answer::Conflict => Answer::Gone,
            answer => answer,
        }
    }
}

fn answer<T>(sent: Result<Result<T, kube::Error>, Elapsed>) -> Answer {
    let later = |why| Answer::Later { why, after: None };
    match sent {
        Ok(Ok(_)) => Answer::Done,
        Ok(Err(kube::Error::Api(status))) => of_status(&status),
        // It was taken, by whoever it was: sent again, it would be answered the same.
        Ok(Err(kube::Error::SerdeError(error))) => Answer::Refused(format!("its answer cannot be read: {error}")),
        Ok(Err(error)) => later(chain(&error)),
        Err(_) => later(format!("no answer within {} s", ANSWERED_WITHIN.as_secs())),
    }
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
        409 => Answer::Conflict,
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
            (json!({"code": 409, "reason": "AlreadyExists", "message": "no"}), Answer::Conflict),
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
