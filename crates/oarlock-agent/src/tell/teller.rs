//! Who tells the API server: one task, one request at a time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use oarlock_kernel::ledger::Pod;
use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::Notice;
use super::event::event;
use super::mail::{Letter, Mail, Put};
use super::pace::Pace;
use super::placed::{ANNOTATION, Placed};
use crate::api::{Answer, Server};
use crate::config::KubernetesConfig;
use crate::metrics::Metrics;

/// What was not taken after so many tries is given up, for what comes after it.
const MOST_TRIES: u32 = 10;
/// The namespaces that are remembered as closed.
const MOST_CLOSED: usize = 1024;

/// The box, and who empties it.
#[derive(Debug)]
pub(crate) struct Teller {
    settings: KubernetesConfig,
    host: String,
    metrics: Arc<Metrics>,
    inbox: Mutex<Inbox>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inbox {
    mail: Mail,
    /// Whether nobody empties it.
    closed: bool,
    /// Whether it was said that pods from files have no annotation.
    said_of_files: bool,
}

impl Teller {
    /// A teller that has nothing to tell yet.
    pub(crate) fn new(settings: &KubernetesConfig, metrics: Arc<Metrics>) -> Self {
        let host = settings.host();
        let inbox = Inbox { closed: !settings.enabled, ..Inbox::default() };
        Self { settings: settings.clone(), host, metrics, inbox: Mutex::new(inbox), wake: Notify::new() }
    }

    /// Puts a notice into the box. It never waits.
    pub(crate) fn notice(&self, notice: &Notice) {
        let mut inbox = self.inbox();
        // The pod of a container that is known by itself alone has no name.
        if inbox.closed || !self.settings.events || notice.pod.name.is_empty() {
            return;
        }
        match inbox.mail.put(notice, Timestamp::now(), Instant::now()) {
            Put::Waits => {}
            Put::ForAnother => self.metrics.told.told("event", "dropped"),
            Put::Quiet => return self.metrics.told.told("event", "repeated"),
        }
        self.wake.notify_one();
    }

    /// Puts the news of a pod's annotation into the box. It never waits.
    pub(crate) fn placed(&self, placed: Placed) {
        let mut inbox = self.inbox();
        if inbox.closed || !self.settings.placement_annotation {
            return;
        }
        if let Placed::Container { pod, from_file: true, .. } = &placed {
            if !inbox.said_of_files {
                inbox.said_of_files = true;
                tracing::info!(pod = pod.name, "pods that kubelet has from files get no annotation");
            }
            return;
        }
        inbox.mail.placed(placed);
        self.wake.notify_one();
    }

    /// Tells the API server, until nobody can be told. The connection is made when there is something to tell.
    pub(crate) async fn run(&self) {
        let mut sender = Sender { teller: self, server: None, pace: Pace::new(Instant::now()), tries: 0, said: None };
        let mut forbidden = Forbidden::default();
        loop {
            let first = self.inbox().mail.first();
            match first {
                None => self.wake.notified().await,
                Some(letter) if forbidden.covers(&letter) => self.inbox().mail.done(letter),
                Some(letter) => sender.send(letter, &mut forbidden).await,
            }
        }
    }

    /// Nobody is told anything from now on.
    fn close(&self) {
        let mut inbox = self.inbox();
        inbox.closed = true;
        inbox.mail.clear();
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one who sends.
struct Sender<'a> {
    teller: &'a Teller,
    server: Option<Server>,
    pace: Pace,
    /// How often the first letter was tried.
    tries: u32,
    /// The trouble that was said last.
    said: Option<String>,
}

impl Sender<'_> {
    async fn send(&mut self, letter: Letter, forbidden: &mut Forbidden) {
        let metrics = &self.teller.metrics.told;
        if self.server.is_none() {
            match Server::infer().await {
                Ok(server) => self.server = Some(server),
                Err(error) => {
                    tracing::warn!("pods get no events and no annotations: {error:#}");
                    return self.teller.close();
                }
            }
        }
        let Some(server) = &self.server else { return };
        sleep_until(self.pace.next(Instant::now()).into()).await;
        self.pace.went(Instant::now());
        metrics.requested();
        let answer = match &letter {
            Letter::Event { notice, at, .. } => server.create(&event(notice, *at, &self.teller.host)).await,
            Letter::Annotation { pod, value } => server.annotate(pod, ANNOTATION, value.as_deref()).await,
        };
        self.tries += 1;
        let outcome = match answer {
            Answer::Later { why, after } => {
                self.pace.failed(Instant::now(), after);
                self.say(&why);
                if self.tries < MOST_TRIES {
                    return;
                }
                "failed"
            }
            answer => {
                self.pace.answered();
                if self.said.take().is_some() {
                    tracing::info!("the API server answers again");
                }
                match answer {
                    Answer::Forbidden(why) => {
                        forbidden.add(&letter, &why);
                        "failed"
                    }
                    Answer::Refused(why) => {
                        tracing::warn!(pod = letter.pod().name, "the API server refuses the {}: {why}", letter.kind());
                        "failed"
                    }
                    Answer::Done => "sent",
                    _ => "failed",
                }
            }
        };
        self.tries = 0;
        metrics.told(letter.kind(), outcome);
        self.teller.inbox().mail.done(letter);
    }

    /// Says what the trouble is, where it is another than before.
    fn say(&mut self, why: &str) {
        if self.said.as_deref() != Some(why) {
            tracing::warn!("the API server cannot be told of pods: {why}");
            self.said = Some(why.to_owned());
        }
    }
}

impl Letter {
    fn kind(&self) -> &'static str {
        match self {
            Self::Event { .. } => "event",
            Self::Annotation { .. } => "annotation",
        }
    }

    fn pod(&self) -> &Pod {
        match self {
            Self::Event { notice, .. } => &notice.pod,
            Self::Annotation { pod, .. } => pod,
        }
    }

    /// The rule that allows it.
    fn rule(&self) -> &'static str {
        match self {
            Self::Event { .. } => "apiGroups: [events.k8s.io], resources: [events], verbs: [create]",
            Self::Annotation { .. } => "apiGroups: [\"\"], resources: [pods], verbs: [patch]",
        }
    }
}

/// What is not allowed, until the agent starts anew. It is by namespace: rights are given by namespace, and a tenant's quota
/// silences nobody but the tenant.
#[derive(Debug, Default)]
struct Forbidden {
    closed: BTreeSet<(&'static str, String)>,
}

impl Forbidden {
    fn covers(&self, letter: &Letter) -> bool {
        self.closed.contains(&(letter.kind(), letter.pod().namespace.clone()))
    }

    /// The first of its kind is said.
    fn add(&mut self, letter: &Letter, why: &str) {
        let kind = letter.kind();
        let namespace = &letter.pod().namespace;
        if self.closed.iter().any(|(other, _)| *other == kind) {
            tracing::debug!(namespace, "no {kind}s either: {why}");
        } else {
            let rule = letter.rule();
            tracing::warn!(namespace, "no {kind}s for pods until the next start, a rule with {rule} is missing: {why}");
        }
        if self.closed.len() < MOST_CLOSED {
            self.closed.insert((kind, namespace.clone()));
        }
    }
}

/// A test of the whole task is `tests/told.rs`, before a server.
#[cfg(test)]
mod tests {
    use oarlock_kernel::ledger::Pod;

    use super::super::What;
    use super::*;

    fn letter(namespace: &str) -> Letter {
        let pod = Pod { namespace: namespace.to_owned(), name: "job".to_owned(), uid: "u".to_owned() };
        let notice = Notice { pod, container: "main".to_owned(), what: What::RanksBound, words: String::new() };
        Letter::Event { number: 0, notice, at: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn what_one_namespace_forbids_another_may_allow() {
        let mut forbidden = Forbidden::default();
        forbidden.add(&letter("quota"), "exceeded quota");
        assert!(forbidden.covers(&letter("quota")));
        assert!(!forbidden.covers(&letter("other")));
        let Letter::Event { notice, .. } = letter("quota") else { unreachable!() };
        assert!(!forbidden.covers(&Letter::Annotation { pod: notice.pod, value: None }));
    }
}
