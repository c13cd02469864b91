//! The calls that kubelet makes. Whatever it asks, the answer is bounded in size and time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::backend::{AllocateError, Allocation, Backend};
use crate::proto::v1beta1::device_plugin_server::DevicePlugin;
use crate::proto::v1beta1::{
    AllocateRequest, AllocateResponse, ContainerAllocateRequest, ContainerPreferredAllocationRequest,
    ContainerPreferredAllocationResponse, DevicePluginOptions, Empty, PreStartContainerRequest,
    PreStartContainerResponse, PreferredAllocationRequest, PreferredAllocationResponse,
};
use crate::stream::{Lists, Streams};

/// Ids in one request, all its containers together.
const MOST_IDS: usize = 10_000;

/// kubelet itself sets no bound on these two, and admits no other pod meanwhile.
const PREFER_WITHIN: Duration = Duration::from_millis(500);
const ALLOCATE_WITHIN: Duration = Duration::from_secs(10);

/// What kubelet is to call: the same in the registration and when it asks.
pub(crate) const OPTIONS: DevicePluginOptions =
    DevicePluginOptions { pre_start_required: false, get_preferred_allocation_available: true };

/// One resource, as kubelet calls it.
pub(crate) struct Service {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) streams: Arc<Streams>,
    /// Cancelled when the socket is given up.
    pub(crate) ending: CancellationToken,
}

#[tonic::async_trait]
impl DevicePlugin for Service {
    async fn get_device_plugin_options(&self, _: Request<Empty>) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(OPTIONS))
    }

    type ListAndWatchStream = Lists;

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Lists>, Status> {
        Ok(Response::new(Lists::new(self.backend.devices(), &self.streams, self.ending.clone())))
    }

    /// Never an error: kubelet would refuse the pod for it.
    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        let mut container_responses = Vec::new();
        for request in request.into_inner().container_requests {
            let device_i_ds = prefer(&self.backend, request).await;
            container_responses.push(ContainerPreferredAllocationResponse { device_i_ds });
        }
        Ok(Response::new(PreferredAllocationResponse { container_responses }))
    }

    async fn allocate(&self, request: Request<AllocateRequest>) -> Result<Response<AllocateResponse>, Status> {
        let requests = request.into_inner().container_requests;
        let devices = self.backend.devices().borrow().clone();
        check(&requests, &devices.iter().map(|device| device.id.as_str()).collect())
            .map_err(|refusal| Status::invalid_argument(refusal.to_string()))?;
        let backend = Arc::clone(&self.backend);
        let work = spawn_blocking(move || {
            requests.into_iter().map(|request| backend.allocate(&distinct(request.devices_ids))).collect()
        });
        let answers: Result<Vec<Allocation>, AllocateError> = timeout(ALLOCATE_WITHIN, work)
            .await
            .map_err(|_| Status::deadline_exceeded(format!("no answer within {} s", ALLOCATE_WITHIN.as_secs())))?
            .map_err(|_| Status::internal("the allocation failed inside the plugin: its log says where"))?;
        let container_responses = answers.map_err(|error| match error {
            AllocateError::Unknown(_) => Status::invalid_argument(error.to_string()),
            AllocateError::Refused(_) => Status::failed_precondition(error.to_string()),
        })?;
        Ok(Response::new(AllocateResponse { container_responses }))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

/// Why a request is refused before anyone is asked.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the request names no container")]
    NoContainer,
    #[error("container request {0} (from 0) asks for no device")]
    NoDevice(usize),
    #[error("{0} device ids in one request: at most {MOST_IDS} are taken")]
    TooMany(usize),
    #[error(transparent)]
    Unknown(AllocateError),
}

/// Whether the containers' ids are all there, and not too many.
fn check(requests: &[ContainerAllocateRequest], known: &HashSet<&str>) -> Result<(), Refusal> {
    if requests.is_empty() {
        return Err(Refusal::NoContainer);
    }
    if let Some(empty) = requests.iter().position(|request| request.devices_ids.is_empty()) {
        return Err(Refusal::NoDevice(empty));
    }
    let ids = || requests.iter().flat_map(|request| &request.devices_ids);
    let count = ids().count();
    if count > MOST_IDS {
        return Err(Refusal::TooMany(count));
    }
    let unknown = distinct(ids().filter(|id| !known.contains(id.as_str())).cloned().collect());
    if unknown.is_empty() { Ok(()) } else { Err(Refusal::Unknown(AllocateError::Unknown(unknown))) }
}

/// The ids in their order, each once.
fn distinct(mut ids: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    ids.retain(|id| seen.insert(id.clone()));
    ids
}

/// The backend's advice, or, where it has none that fits, what must be included and then the given order.
async fn prefer(backend: &Arc<dyn Backend>, request: ContainerPreferredAllocationRequest) -> Vec<String> {
    let size = usize::try_from(request.allocation_size).unwrap_or(0);
    let available = distinct(request.available_device_i_ds);
    let must_include = distinct(request.must_include_device_i_ds);
    let fallback = || {
        let mut ids = distinct(must_include.iter().chain(&available).cloned().collect());
        ids.truncate(size);
        ids
    };
    if available.len() + must_include.len() > MOST_IDS || size == 0 {
        return fallback();
    }
    let work = spawn_blocking({
        let (backend, available, must_include) = (Arc::clone(backend), available.clone(), must_include.clone());
        move || backend.prefer(&available, &must_include, size)
    });
    let advice = match timeout(PREFER_WITHIN, work).await {
        Ok(Ok(advice)) => distinct(advice),
        Ok(Err(_)) => {
            tracing::error!("the preferred allocation failed inside the plugin: the given order is used");
            return fallback();
        }
        Err(_) => {
            tracing::warn!("no preferred allocation within {} ms: the given order is used", PREFER_WITHIN.as_millis());
            return fallback();
        }
    };
    let offered: HashSet<&String> = available.iter().chain(&must_include).collect();
    let fits = advice.len() <= size
        && advice.iter().all(|id| offered.contains(id))
        && must_include.iter().all(|id| advice.contains(id));
    if fits { advice } else { fallback() }
}
