//! Metrics and health over HTTP, for a few callers: whoever connects and says nothing, or says it slowly, is cut.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::status::Status;

/// Connections at one time; the oldest gives way.
const MOST_CONNECTIONS: usize = 64;

/// From the connection to the end of its one answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of a request's head, and as many of an answer that wait for their reader.
const LARGEST_HEAD: usize = 16 * 1024;

#[derive(Clone)]
struct Sources {
    metrics: Arc<Metrics>,
    status: Arc<Status>,
}

/// Answers on `listener` until told to stop. Each connection has one answer.
pub(crate) async fn serve(
    mut listener: TcpListener,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    shutdown: CancellationToken,
) {
    let router = Router::new()
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(readiness))
        .with_state(Sources { metrics, status });
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(LARGEST_HEAD);
    let mut connections = JoinSet::new();
    let mut oldest: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(_) = connections.join_next() => oldest.retain(|connection| !connection.is_finished()),
            (stream, _) = Listener::accept(&mut listener) => {
                if oldest.len() >= MOST_CONNECTIONS && let Some(first) = oldest.pop_front() {
                    first.abort();
                }
                let connection = http.serve_connection(TokioIo::new(stream), service.clone());
                oldest.push_back(connections.spawn(async {
                    // What goes wrong here is the peer's, and nobody's to hear of.
                    let _ = timeout(ANSWERED_WITHIN, connection).await;
                }));
            }
        }
    }
}

async fn metrics_text(State(sources): State<Sources>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], sources.metrics.text())
}

async fn readiness(State(sources): State<Sources>) -> impl IntoResponse {
    match sources.status.not_ready() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    }
}
