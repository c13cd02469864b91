//! What kubelet says that it has given to the pods of this host, whoever's plugin it came from.
//!
//! kubelet refuses more than 100 calls a second, or 10 at once, of all its callers together. So calls wait for their
//! turn here, well below that, and a list that is young enough is not asked for again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use oarlock_core::{CpuSet, NodeSet};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::paths::KubeletPaths;
use crate::proto::v1 as wire;
use crate::proto::v1::pod_resources_lister_client::PodResourcesListerClient;
use crate::register::{CallError, dial};

/// Calls that may come at once, and the time between those after them: half of kubelet's burst, a fifth of its rate.
const BURST: u32 = 5;
const BETWEEN: Duration = Duration::from_millis(50);

/// Other callers may have used kubelet's budget up; it is full again after this.
const BUDGET_REFILLS: Duration = Duration::from_millis(100);
const ATTEMPTS: usize = 4;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The largest answer that kubelet sends.
const LARGEST_ANSWER: usize = 16 * 1024 * 1024;

/// kubelet does not say what its pods hold.
#[derive(Debug, thiserror::Error)]
#[error("cannot learn from kubelet what pods hold")]
pub struct PodResourcesError(#[source] CallError);

/// One container that runs, and what is its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerHoldings {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name.
    pub container: String,
    /// Its devices, as kubelet lists them: one entry or several for a resource.
    pub devices: Vec<HeldDevices>,
    /// Its exclusive CPUs; empty for a container in the shared pool.
    pub cpus: CpuSet,
    /// The memory that kubelet's Memory Manager reserves for it; empty where that does not.
    pub memory: Vec<Memory>,
}

/// Memory of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// `memory`, or `hugepages-` and a size.
    pub kind: String,
    /// How much.
    pub bytes: u64,
    /// The NUMA nodes that it is on, together.
    pub nodes: NodeSet,
}

/// What kubelet could give away if nobody held any of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allocatable {
    /// Devices, whoever's plugin they came from: one entry or several for a resource.
    pub devices: Vec<HeldDevices>,
    /// CPUs that containers can have for themselves; empty where the CPU Manager gives none away.
    pub cpus: CpuSet,
    /// Memory by NUMA node; empty where the Memory Manager reserves none.
    pub memory: Vec<Memory>,
}

/// Devices of one resource that a container holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldDevices {
    /// The resource's name.
    pub resource: String,
    /// Their ids, as the resource's plugin named them.
    pub ids: Vec<String>,
    /// The NUMA nodes that the plugin told for them; empty where it told none.
    pub nodes: NodeSet,
}

/// Asks kubelet who holds what.
#[derive(Debug)]
pub struct PodResources {
    socket: PathBuf,
    /// When the next call has its turn.
    next: Mutex<Instant>,
    list: Mutex<Option<(Instant, Arc<Vec<ContainerHoldings>>)>>,
}

impl PodResources {
    /// Will ask the kubelet whose folder this is. Nothing is opened yet.
    pub fn new(paths: &KubeletPaths) -> Self {
        Self { socket: paths.pod_resources(), next: Mutex::new(Instant::now()), list: Mutex::default() }
    }

    /// All containers, as they were at most `age` ago. Callers at the same time share one call.
    pub async fn containers(&self, age: Duration) -> Result<Arc<Vec<ContainerHoldings>>, PodResourcesError> {
        let mut list = self.list.lock().await;
        if let Some((since, known)) = &*list
            && since.elapsed() <= age
        {
            return Ok(Arc::clone(known));
        }
        let asked = Instant::now();
        let answer = self
            .call(|mut client| async move { client.list(wire::ListPodResourcesRequest {}).await })
            .await
            .map_err(PodResourcesError)?;
        let fresh = Arc::new(answer.pod_resources.into_iter().flat_map(containers_of).collect());
        *list = Some((asked, Arc::clone(&fresh)));
        Ok(fresh)
    }

    /// The containers of one pod, as they are now; empty where kubelet knows no such pod.
    pub async fn containers_of(&self, namespace: &str, pod: &str) -> Result<Vec<ContainerHoldings>, PodResourcesError> {
        let request = wire::GetPodResourcesRequest { pod_name: pod.to_owned(), pod_namespace: namespace.to_owned() };
        let get = |mut client: PodResourcesListerClient<Channel>| {
            let request = request.clone();
            async move { client.get(request).await }
        };
        match self.call(get).await {
            Ok(answer) => Ok(answer.pod_resources.into_iter().flat_map(containers_of).collect()),
            // A kubelet without this call, or one that says in words alone that there is no such pod.
            Err(CallError::Refused { status, .. })
                if matches!(status.code(), Code::Unimplemented | Code::Unknown | Code::NotFound) =>
            {
                let all = self.containers(Duration::ZERO).await?;
                let is_of_pod = |held: &&ContainerHoldings| held.namespace == namespace && held.pod == pod;
                Ok(all.iter().filter(is_of_pod).cloned().collect())
            }
            Err(error) => Err(PodResourcesError(error)),
        }
    }

    /// What kubelet could give away if nobody held any of it.
    pub async fn allocatable(&self) -> Result<Allocatable, PodResourcesError> {
        let ask = |mut client: PodResourcesListerClient<Channel>| async move {
            client.get_allocatable_resources(wire::AllocatableResourcesRequest {}).await
        };
        let answer = self.call(ask).await.map_err(PodResourcesError)?;
        Ok(Allocatable {
            devices: answer.devices.into_iter().map(held).collect(),
            cpus: cpus(answer.cpu_ids),
            memory: answer.memory.into_iter().map(memory).collect(),
        })
    }

    /// Makes a call when its turn has come, and again where kubelet says that there were too many. kubelet is dialled
    /// each time: it may have been restarted since.
    async fn call<T, Answer>(&self, ask: impl Fn(PodResourcesListerClient<Channel>) -> Answer) -> Result<T, CallError>
    where
        Answer: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut attempt = 1;
        loop {
            // A kubelet that is not there is nobody's to wait for.
            let channel = dial(&self.socket, ANSWER_WITHIN).await?;
            self.turn().await;
            let client = PodResourcesListerClient::new(channel).max_decoding_message_size(LARGEST_ANSWER);
            match ask(client).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) if status.code() == Code::ResourceExhausted && attempt < ATTEMPTS => {
                    attempt += 1;
                    sleep(BUDGET_REFILLS).await;
                }
                Err(status) => {
                    return Err(CallError::Refused { path: self.socket.clone(), status: Box::new(status) });
                }
            }
        }
    }

    /// Waits for the next turn. Turns that nobody took are kept, up to a burst.
    async fn turn(&self) {
        let turn = {
            let mut next = self.next.lock().await;
            let oldest = Instant::now().checked_sub(BETWEEN * (BURST - 1)).unwrap_or(*next);
            let turn = (*next).max(oldest);
            *next = turn + BETWEEN;
            turn
        };
        sleep_until(turn).await;
    }
}

fn held(devices: wire::ContainerDevices) -> HeldDevices {
    HeldDevices { resource: devices.resource_name, ids: devices.device_ids, nodes: nodes(devices.topology) }
}

fn memory(block: wire::ContainerMemory) -> Memory {
    Memory { kind: block.memory_type, bytes: block.size, nodes: nodes(block.topology) }
}

fn nodes(topology: Option<wire::TopologyInfo>) -> NodeSet {
    let nodes = topology.into_iter().flat_map(|topology| topology.nodes);
    nodes.filter_map(|node| u32::try_from(node.id).ok()).collect()
}

fn cpus(ids: Vec<i64>) -> CpuSet {
    ids.into_iter().filter_map(|id| u32::try_from(id).ok()).collect()
}

fn containers_of(pod: wire::PodResources) -> impl Iterator<Item = ContainerHoldings> {
    pod.containers.into_iter().map(move |container| ContainerHoldings {
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        container: container.name,
        devices: container.devices.into_iter().map(held).collect(),
        cpus: cpus(container.cpu_ids),
        memory: container.memory.into_iter().map(memory).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn where_no_kubelet_is_nobody_waits_for_a_turn() {
        let folder = tempfile::tempdir().unwrap();
        let kubelet = PodResources::new(&KubeletPaths::new(folder.path()));
        let since = Instant::now();
        for _ in 0..100 {
            kubelet.containers_of("default", "job").await.unwrap_err();
        }
        assert!(since.elapsed() < BETWEEN, "{:?}", since.elapsed());
    }
}
