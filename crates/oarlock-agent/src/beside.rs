//! What happens on the host beside the agent: whether another plugin gives GPUs to pods, and who holds which.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oarlock_device_plugin::pod_resources::{Allocatable, ContainerHoldings, PodResources};
use oarlock_device_plugin::{KubeletPaths, ResourceName};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::metrics::{Held, Metrics};

/// How often is looked.
const SWEEP: Duration = Duration::from_secs(5);

/// How the sockets of GPU plugins are named: NVIDIA's and those made from it, AMD's, Intel's.
const SOCKETS: [&str; 4] = ["nvidia", "amd.com_gpu", "gpu.intel.com", "habana"];

/// The domains whose resources are GPUs.
const DOMAINS: [&str; 4] = ["nvidia.com", "amd.com", "gpu.intel.com", "habana.ai"];

/// What kubelet says at a time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Says {
    /// What it could give away.
    pub(crate) allocatable: Allocatable,
    /// What containers hold.
    pub(crate) containers: Arc<Vec<ContainerHoldings>>,
}

/// Looks, for as long as it is listened to: keeps the metric of who holds GPUs and what kubelet says, and says what shows
/// that another plugin gives GPUs to pods.
pub(crate) async fn watch(
    paths: KubeletPaths,
    kubelet: Arc<PodResources>,
    own: ResourceName,
    own_mig: String,
    metrics: Arc<Metrics>,
    another: mpsc::Sender<String>,
    says: watch::Sender<Option<Arc<Says>>>,
) {
    while !another.is_closed() {
        if let Some(socket) = socket_of_another(&paths.device_plugins()) {
            let _ = another.send(format!("it listens at {socket}")).await;
        }
        let is_other = |resource: &str| is_gpu_resource(resource, own.as_str());
        let is_any = |resource: &str| resource == own.as_str() || resource.starts_with(&own_mig) || is_other(resource);
        // Without kubelet there is nothing to learn, and without this interface of kubelet's neither.
        let allocatable = kubelet.allocatable().await.ok();
        let mut devices = allocatable.iter().flat_map(|allocatable| &allocatable.devices);
        if let Some(other) = devices.find(|devices| is_other(&devices.resource)) {
            let _ = another.send(format!("kubelet has {} of {}", other.ids.len(), other.resource)).await;
        }
        if let Ok(containers) = kubelet.containers(Duration::ZERO).await {
            let mut held = Held::new();
            for container in containers.iter() {
                for devices in container.devices.iter().filter(|devices| is_any(&devices.resource)) {
                    let of = [&container.namespace, &container.pod, &container.container, &devices.resource];
                    *held.entry(of.map(Clone::clone)).or_default() += devices.ids.len();
                }
            }
            metrics.held(&held);
            if let Some(allocatable) = allocatable {
                let now = Says { allocatable, containers };
                says.send_if_modified(|said| {
                    let is_news = said.as_deref() != Some(&now);
                    if is_news {
                        *said = Some(Arc::new(now));
                    }
                    is_news
                });
            }
        }
        sleep(SWEEP).await;
    }
}

/// The socket in kubelet's folder behind which another plugin for GPUs listens. One that nobody listens at is left over,
/// and does not count.
pub(crate) fn socket_of_another(device_plugins: &Path) -> Option<String> {
    let entries = fs::read_dir(device_plugins).ok()?.flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names.into_iter().find(|name| is_gpu_socket(name) && UnixStream::connect(device_plugins.join(name)).is_ok())
}

/// Whether a resource is one of GPUs that is not the one of this name, ours.
pub(crate) fn is_gpu_resource(resource: &str, own: &str) -> bool {
    resource != own
        && resource.split_once('/').is_some_and(|(domain, name)| {
            DOMAINS.contains(&domain) && !name.contains("fabric") && !name.contains("memory")
        })
}

fn is_gpu_socket(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SOCKETS.iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_socket_of_a_vendors_plugin_counts_while_somebody_listens() {
        let folder = tempfile::tempdir().unwrap();
        let bind = |name: &str| UnixListener::bind(folder.path().join(name)).unwrap();
        let _others = [bind("kubelet.sock"), bind("rdma.sock"), bind("oarlock.dev_gpu.sock")];
        assert_eq!(socket_of_another(folder.path()), None);
        for name in
            ["nvidia-gpu.sock", "nvidia.sock", "nvidiaGPU-1700000000.sock", "amd.com_gpu", "gpu.intel.com-xe.sock"]
        {
            let listener = bind(name);
            assert_eq!(socket_of_another(folder.path()).as_deref(), Some(name));
            drop(listener);
            assert_eq!(socket_of_another(folder.path()), None, "{name} is left over");
        }
        assert_eq!(socket_of_another(Path::new("/nonexistent")), None);
    }

    #[test]
    fn vendors_resources_of_gpus_are_told_from_ours_and_from_others() {
        let own = "nvidia.com/gpu.oarlock";
        for resource in
            ["nvidia.com/gpu", "nvidia.com/mig-1g.10gb", "nvidia.com/gpu.shared", "amd.com/gpu", "gpu.intel.com/xe"]
        {
            assert!(is_gpu_resource(resource, own), "{resource}");
        }
        for resource in ["nvidia.com/gpu.oarlock", "oarlock.dev/numa-node", "rdma/hca", "example.com/gpu", "gpu"] {
            assert!(!is_gpu_resource(resource, own), "{resource}");
        }
    }
}
