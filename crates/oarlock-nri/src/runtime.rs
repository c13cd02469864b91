//! Calls to the runtime.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::proto::{ContainerUpdate, UpdateContainersRequest, UpdateContainersResponse};
use crate::ttrpc::{LONGEST_SENT, Status};

/// Calls that wait for the connection to take them.
pub(crate) const QUEUE: usize = 16;

tokio::task_local! {
    /// There is a value where a handler runs.
    pub(crate) static HANDLING: ();
}

/// Why containers were not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// The call was made by a handler. The runtime holds a lock until the handler has answered, and would wait for that
    /// lock: changes belong into the handler's answer, or into a task that outlives it. A task that the handler waits for
    /// is not noticed here; the runtime then hangs up.
    #[error("containers cannot be changed from within a handler: the runtime waits for its answer first")]
    InHandler,
    /// The connection has ended.
    #[error("there is no connection to the runtime any more")]
    Gone,
    /// The runtime takes nothing.
    #[error("the runtime does not read what is sent to it")]
    Stuck,
    /// No answer in time. The runtime may still do it.
    #[error("the runtime has not answered within {0:?}")]
    Late(Duration),
    /// More than is sent in one message.
    #[error("changes of {0} bytes: at most {LONGEST_SENT} are allowed")]
    TooLong(usize),
    /// What the runtime says.
    #[error("the runtime says: {0}")]
    Refused(String),
}

/// A call on its way to the connection.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) payload: Bytes,
    pub(crate) timeout: Duration,
    pub(crate) answer: oneshot::Sender<Result<Bytes, CallError>>,
}

/// Why a call has no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    Stuck,
    TooLong(usize),
    Status(Status),
}

/// The runtime at the other end of one connection.
#[derive(Debug, Clone)]
pub struct Runtime {
    calls: mpsc::Sender<Call>,
}

impl Runtime {
    pub(crate) fn new(calls: mpsc::Sender<Call>) -> Self {
        Self { calls }
    }

    /// Changes containers that no event is about, and gives back those changes that the runtime could not do. Changes to
    /// containers that it does not know are passed over in silence.
    ///
    /// The runtime does this between two events; `within` has to leave time for one to end. An answer that comes later is
    /// lost.
    pub async fn update_containers(
        &self,
        update: Vec<ContainerUpdate>,
        within: Duration,
    ) -> Result<Vec<ContainerUpdate>, UpdateError> {
        if HANDLING.try_with(|()| ()).is_ok() {
            return Err(UpdateError::InHandler);
        }
        let payload = UpdateContainersRequest { update, evict: Vec::new() }.encode_to_vec().into();
        let (answer, answered) = oneshot::channel();
        let call = Call { method: "UpdateContainers", payload, timeout: within, answer };
        let asking = async {
            self.calls.send(call).await.map_err(|_| UpdateError::Gone)?;
            answered.await.map_err(|_| UpdateError::Gone)
        };
        let response = timeout(within, asking).await.map_err(|_| UpdateError::Late(within))??;
        let payload = response.map_err(|error| match error {
            CallError::Stuck => UpdateError::Stuck,
            CallError::TooLong(length) => UpdateError::TooLong(length),
            CallError::Status(status) => UpdateError::Refused(status.message),
        })?;
        let response = UpdateContainersResponse::decode(payload);
        Ok(response.map_err(|error| UpdateError::Refused(error.to_string()))?.failed)
    }

    /// Waits for the end of the connection.
    pub async fn closed(&self) {
        self.calls.closed().await;
    }
}
