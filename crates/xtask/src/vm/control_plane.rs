//! A Kubernetes control plane on this host, whose one node is the guest: store, API server, controllers, scheduler. An
//! emulated CPU is too slow to be all of a cluster. The guest reaches the API server at [`ADDRESS`], which is also the
//! first address of the cluster's services, so that pods find it where Kubernetes tells them to.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::api_server::{ApiServer, kubeconfig};
use super::kubernetes;
use crate::tools;

/// The programs that it takes.
pub(crate) const PROGRAMS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];
/// The API server's address in the guest's network, port 443.
pub(crate) const ADDRESS: &str = "10.99.0.1";
/// Of a start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Starts it, and waits until the API server is ready. `node` is the guest's name.
pub(crate) fn start(node: &str) -> Result<ApiServer> {
    let mut server =
        ApiServer::start(&kubernetes::folder()?, &format!("{node},system:node:{node},node,system:nodes\n"))?;
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
    Ok(server)
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
