//! A Kubernetes control plane on this host, whose one node is the guest: store, API server, controllers, scheduler. An
//! emulated CPU is too slow to be all of a cluster. The guest reaches the API server at [`ADDRESS`], which is also the
//! first address of the cluster's services, so that pods find it where Kubernetes tells them to. It
//! reaches the guest's kubelet at a port of this host, which is where a node called [`NODE`] is to it.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::api_server::{ApiServer, free_port, kubeconfig};
use super::kubernetes;
use crate::tools;

/// The programs that it takes.
pub(crate) const PROGRAMS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];
/// The API server's address in the guest's network, port 443.
pub(crate) const ADDRESS: &str = "10.99.0.1";
/// The guest's address in its network.
pub(crate) const GUEST: &str = "10.99.0.15";
/// The name of the one node.
pub(crate) const NODE: &str = "localhost";
/// Of a start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Where both reach each other, on this host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    /// The API server.
    pub(crate) api_server: u16,
    /// The guest's kubelet, which has the same port there.
    pub(crate) kubelet: u16,
}

/// Starts it, and waits until the API server is ready.
pub(crate) fn start() -> Result<(ApiServer, Ports)> {
    let mut server =
        ApiServer::start(&kubernetes::folder()?, &format!("{NODE},system:node:{NODE},node,system:nodes\n"))?;
    wait_until_ready(&server)?;
    server.run(
        "kube-controller-manager",
        &[
            ("kubeconfig", "kubeconfig"),
            ("leader-elect", "false"),
            ("secure-port", "0"),
            ("service-account-private-key-file", "key"),
            ("root-ca-file", "certificates/apiserver.crt"),
        ],
    )?;
    server.run("kube-scheduler", &[("kubeconfig", "kubeconfig"), ("leader-elect", "false"), ("secure-port", "0")])?;
    let ports = Ports { api_server: server.port, kubelet: free_port()? };
    Ok((server, ports))
}

fn wait_until_ready(server: &ApiServer) -> Result<()> {
    let began = Instant::now();
    let mut kubectl = Command::new(tools::folder()?.join("kubectl"));
    kubectl.args(["get", "--raw", "/readyz"]).env("KUBECONFIG", server.path("kubeconfig"));
    // What kubectl keeps for itself.
    kubectl.env("HOME", server.path(""));
    while !kubectl.output().context("cannot run kubectl")?.status.success() {
        if began.elapsed() > PATIENCE {
            bail!("the API server is not ready: {}", server.said("kube-apiserver"));
        }
        thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// How the guest reaches the API server as this user.
pub(crate) fn guests_kubeconfig(user: &str) -> String {
    kubeconfig(&format!("https://{ADDRESS}"), user)
}
