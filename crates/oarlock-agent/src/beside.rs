//! Whether another plugin on the host gives GPUs to pods.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

use oarlock_device_plugin::ResourceName;

/// How the sockets of GPU plugins are named: NVIDIA's and those made from it, AMD's, Intel's.
const SOCKETS: [&str; 4] = ["nvidia", "amd.com_gpu", "gpu.intel.com", "habana"];

/// The domains whose resources are GPUs.
const DOMAINS: [&str; 4] = ["nvidia.com", "amd.com", "gpu.intel.com", "habana.ai"];

/// The socket in kubelet's folder behind which another plugin for GPUs listens. One that nobody listens at is left over,
/// and does not count.
pub(crate) fn socket_of_another(device_plugins: &Path) -> Option<String> {
    let entries = fs::read_dir(device_plugins).ok()?.flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names.into_iter().find(|name| is_gpu_socket(name) && UnixStream::connect(device_plugins.join(name)).is_ok())
}

/// Whether a resource is one of GPUs that is not ours.
pub(crate) fn is_gpu_resource(resource: &str, own: &ResourceName) -> bool {
    resource != own.as_str()
        && resource.split_once('/').is_some_and(|(domain, name)| {
            DOMAINS.contains(&domain) && !name.contains("fabric") && !name.contains("memory")
        })
}

fn is_gpu_socket(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with(".sock") && SOCKETS.iter().any(|start| name.starts_with(start))
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
            let name = if name.ends_with("gpu") { "amd.com_gpu.sock" } else { name };
            let listener = bind(name);
            assert_eq!(socket_of_another(folder.path()).as_deref(), Some(name));
            drop(listener);
            assert_eq!(socket_of_another(folder.path()), None, "{name} is left over");
        }
        assert_eq!(socket_of_another(Path::new("/nonexistent")), None);
    }

    #[test]
    fn vendors_resources_of_gpus_are_told_from_ours_and_from_others() {
        let own = "nvidia.com/gpu.oarlock".parse().unwrap();
        for resource in
            ["nvidia.com/gpu", "nvidia.com/mig-1g.10gb", "nvidia.com/gpu.shared", "amd.com/gpu", "gpu.intel.com/xe"]
        {
            assert!(is_gpu_resource(resource, &own), "{resource}");
        }
        for resource in ["nvidia.com/gpu.oarlock", "oarlock.dev/numa-node", "rdma/hca", "example.com/gpu", "gpu"] {
            assert!(!is_gpu_resource(resource, &own), "{resource}");
        }
    }
}
