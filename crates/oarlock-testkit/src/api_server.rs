//! A Kubernetes API server as those meet it that write to it: it takes what it is sent, counts it, and answers as a test
//! says. It has every Node that it is asked for, with the labels that were applied to it, and every kind of objects.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);
/// No request of a test is longer.
const MOST_BYTES: usize = 1 << 20;

/// What a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It takes it.
    Take,
    /// A failure with this HTTP status.
    Status(u16),
    /// It takes it after so long.
    After(Duration),
    /// Nothing, ever.
    Hang,
}

/// A request.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// `GET`, `POST` or `PATCH`.
    pub method: String,
    /// With what is after the question mark.
    pub uri: String,
    /// `null` where it is no JSON.
    pub body: Value,
}

/// The server. Dropping it ends it.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: String,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    /// For paths that hold these words, the first of which counts.
    answers: Mutex<Vec<(&'static str, Answer)>>,
    asked: watch::Sender<Vec<Asked>>,
    /// The labels of Nodes, by their paths.
    labels: Mutex<BTreeMap<String, Value>>,
}

impl ApiServer {
    /// Starts one that takes everything.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            answers: Mutex::default(),
            asked: watch::Sender::new(Vec::new()),
            labels: Mutex::default(),
        });
        let router = Router::new().fallback(any(answer)).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { shared, address, task }
    }

    /// Writes a kubeconfig file that leads here.
    pub fn write_kubeconfig(&self, path: &Path) {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{ "name": "here", "context": { "cluster": "here", "user": "agent" } }],
            "clusters": [{ "name": "here", "cluster": { "server": format!("http://{}", self.address) } }],
            "users": [{ "name": "agent", "user": { "token": "secret" } }],
        });
        fs::write(path, config.to_string()).unwrap();
    }

    /// From now on requests whose path holds these words are answered so.
    pub fn answer(&self, words: &'static str, answer: Answer) {
        let mut answers = self.shared.answers();
        answers.retain(|(other, _)| *other != words);
        answers.insert(0, (words, answer));
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.borrow().clone()
    }

    /// Waits until the requests are as a test wants them.
    pub async fn until(&self, is_so: impl Fn(&[Asked]) -> bool) -> Vec<Asked> {
        let mut asked = self.shared.asked.subscribe();
        let waited = timeout(PATIENCE, asked.wait_for(|asked| is_so(asked))).await;
        let waited = waited.unwrap_or_else(|_| panic!("never asked what the test waits for: {:#?}", self.asked()));
        waited.unwrap().clone()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn answers(&self) -> MutexGuard<'_, Vec<(&'static str, Answer)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, MOST_BYTES).await.unwrap();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let uri = parts.uri.to_string();
    let answer = shared.answers().iter().find(|(words, _)| uri.contains(words)).map(|(_, answer)| *answer);
    shared.asked.send_modify(|asked| {
        asked.push(Asked { method: parts.method.to_string(), uri, body: body.clone() });
    });
    match answer.unwrap_or(Answer::Take) {
        Answer::Take => {}
        Answer::After(wait) => sleep(wait).await,
        Answer::Hang => std::future::pending().await,
        Answer::Status(code) => return failure(code),
    }
    let path = parts.uri.path();
    let metadata = if let Some(name) = path.strip_prefix("/api/v1/nodes/") {
        let mut labels = shared.labels.lock().unwrap_or_else(PoisonError::into_inner);
        if parts.method == "PATCH" {
            labels.insert(path.to_owned(), body["metadata"]["labels"].clone());
        }
        json!({ "name": name, "uid": format!("uid-of-{name}"), "labels": labels.get(path) })
    } else {
        json!({})
    };
    match parts.method.as_str() {
        "GET" if path.starts_with("/apis/") => kinds(path).into_response(),
        "GET" | "PATCH" => {
            let object =
                json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata });
            object.to_string().into_response()
        }
        _ => (StatusCode::CREATED, body.to_string()).into_response(),
    }
}

/// The kinds of a group (`meta/v1.APIResourceList`).
fn kinds(path: &str) -> String {
    let kind = json!({
        "name": "noderesourcetopologies", "singularName": "noderesourcetopology", "kind": "NodeResourceTopology",
        "namespaced": false, "verbs": ["create", "patch"],
    });
    let group = path.trim_start_matches("/apis/");
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": [kind] }).to_string()
}

/// As the API server words it (`meta/v1.Status`).
fn failure(code: u16) -> Response {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "AlreadyExists",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "the test says no", "reason": reason, "code": code,
    });
    (StatusCode::from_u16(code).unwrap(), status.to_string()).into_response()
}
