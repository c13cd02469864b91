//! Where kubelet keeps its sockets.

use std::path::{Path, PathBuf};

/// kubelet's folder, from which every path of its protocols follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeletPaths {
    root: PathBuf,
}

impl KubeletPaths {
    /// The paths below kubelet's root folder, usually `/var/lib/kubelet`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// kubelet's root folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of the plugins' sockets.
    pub fn device_plugins(&self) -> PathBuf {
        self.root.join("device-plugins")
    }

    /// The socket that takes registrations.
    pub fn registration(&self) -> PathBuf {
        self.device_plugins().join("kubelet.sock")
    }

    /// The socket of the pod-resources API.
    pub fn pod_resources(&self) -> PathBuf {
        self.root.join("pod-resources").join("kubelet.sock")
    }
}
