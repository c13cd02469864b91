//! A Kubernetes control plane on this host, whose one node is the guest: store, API server, controllers, scheduler. An
//! emulated CPU is too slow to be all of a cluster. The guest reaches the API server at [`ADDRESS`], which is also the
//! first address of the cluster's services, so that pods find it where Kubernetes tells them to.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use super::kubernetes;
use crate::{command, tools};

/// The programs that it takes.
pub(crate) const PROGRAMS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];
/// The guest's network, and the cluster's services'.
pub(crate) const NETWORK: &str = "10.99.0.0/24";
/// The API server's in it, port 443.
pub(crate) const ADDRESS: &str = "10.99.0.1";
/// This host's.
pub(crate) const HOST: &str = "10.99.0.2";
/// Of a start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// What runs, in a folder of its own; it ends with this.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    folder: tempfile::TempDir,
    running: Vec<Child>,
    /// The API server's port on this host.
    pub(crate) port: u16,
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        for child in &mut self.running {
            // One that has ended by itself is no loss here.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl ControlPlane {
    /// Starts it, and waits until the API server is ready. `node` is the guest's name.
    pub(crate) fn start(node: &str) -> Result<Self> {
        let [store, peer, port] = [free_port()?, free_port()?, free_port()?];
        let mut plane = Self { folder: tempfile::tempdir()?, running: Vec::new(), port };
        let [store, peer] = [store, peer].map(|port| format!("http://127.0.0.1:{port}"));
        plane.run(
            "etcd",
            &[
                ("data-dir", "store"),
                ("listen-client-urls", &store),
                ("advertise-client-urls", &store),
                ("listen-peer-urls", &peer),
                ("initial-advertise-peer-urls", &peer),
                ("initial-cluster", &format!("default={peer}")),
            ],
        )?;
        command::capture(Command::new("openssl").args(["genrsa", "-out"]).arg(plane.path("key")))?;
        plane.write(
            "tokens",
            &format!("admin,admin,admin,system:masters\n{node},system:node:{node},node,system:nodes\n"),
        )?;
        plane.run(
            "kube-apiserver",
            &[
                ("etcd-servers", &store),
                ("cert-dir", "certificates"),
                ("secure-port", &port.to_string()),
                ("bind-address", "127.0.0.1"),
                ("advertise-address", HOST),
                ("service-account-issuer", "https://oarlock.test"),
                ("service-account-key-file", "key"),
                ("service-account-signing-key-file", "key"),
                ("token-auth-file", "tokens"),
                ("authorization-mode", "Node,RBAC"),
                ("enable-admission-plugins", "NodeRestriction"),
                ("service-cluster-ip-range", NETWORK),
            ],
        )?;
        plane.write("kubeconfig", &kubeconfig(&format!("https://127.0.0.1:{port}"), "admin"))?;
        plane.wait_until_ready()?;
        plane.run(
            "kube-controller-manager",
            &[
                ("kubeconfig", "kubeconfig"),
                ("leader-elect", "false"),
                ("secure-port", "0"),
                ("service-account-private-key-file", "key"),
                ("root-ca-file", "certificates/apiserver.crt"),
            ],
        )?;
        plane
            .run("kube-scheduler", &[("kubeconfig", "kubeconfig"), ("leader-elect", "false"), ("secure-port", "0")])?;
        Ok(plane)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn run(&mut self, name: &str, flags: &[(&str, &str)]) -> Result<()> {
        let log = self.path(&format!("{name}.log"));
        let log = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(kubernetes::program(name)?);
        command.args(flags.iter().map(|(flag, value)| format!("--{flag}={value}"))).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.running.push(command.spawn().with_context(|| format!("cannot run {name}"))?);
        Ok(())
    }

    fn wait_until_ready(&self) -> Result<()> {
        let began = Instant::now();
        let mut kubectl = Command::new(tools::folder()?.join("kubectl"));
        kubectl.args(["get", "--raw", "/readyz"]).env("KUBECONFIG", self.path("kubeconfig"));
        // What kubectl keeps for itself.
        kubectl.env("HOME", self.folder.path());
        while !kubectl.output().context("cannot run kubectl")?.status.success() {
            if began.elapsed() > PATIENCE {
                bail!("the API server is not ready: {}", self.said("kube-apiserver"));
            }
            thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    /// The end of what a program said.
    fn said(&self, name: &str) -> String {
        let text = fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// That all of it still runs.
    pub(crate) fn check(&mut self) -> Result<()> {
        for (place, name) in PROGRAMS.iter().enumerate() {
            let ended = self.running[place].try_wait().with_context(|| format!("cannot wait for {name}"))?;
            ensure!(ended.is_none(), "{name} has ended: {}", self.said(name));
        }
        Ok(())
    }
}

/// How the guest reaches the API server as this user.
pub(crate) fn guests_kubeconfig(user: &str) -> String {
    kubeconfig(&format!("https://{ADDRESS}"), user)
}

/// A cluster of this address; users are their tokens.
fn kubeconfig(server: &str, user: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server, "insecure-skip-tls-verify": true}}],
        "users": [{"name": "u", "user": {"token": user}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    })
    .to_string()
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("no port is free")?.local_addr()?.port())
}
