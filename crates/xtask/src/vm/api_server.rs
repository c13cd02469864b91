//! A Kubernetes API server and its store on this host. The tests of the chart take it, too.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

/// The network of the cluster's services.
pub(crate) const NETWORK: &str = "10.99.0.0/24";
/// Where nodes find this host.
pub(crate) const HOST: &str = "10.99.0.2";

/// Both, and what else of the cluster was started beside them, in a folder of their own; all end with this.
#[derive(Debug)]
pub(crate) struct ApiServer {
    folder: tempfile::TempDir,
    programs: PathBuf,
    running: Vec<(String, Child)>,
    /// Its port on this host.
    pub(crate) port: u16,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            // One that has ended by itself is no loss here.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl ApiServer {
    /// Starts them from a folder of programs, and waits for nothing. `admin` may do all, with its name for a token, and
    /// so do the `others`, lines of a token file, what they may.
    pub(crate) fn start(programs: &Path, others: &str) -> Result<Self> {
        let [store, peer, port] = [free_port()?, free_port()?, free_port()?];
        let folder = tempfile::tempdir().context("cannot make a folder for a cluster")?;
        let mut server = Self { folder, programs: programs.to_owned(), running: Vec::new(), port };
        let [store, peer] = [store, peer].map(|port| format!("http://127.0.0.1:{port}"));
        server.run(
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
        let key = Command::new("openssl").args(["genrsa", "-out"]).arg(server.path("key")).output();
        ensure!(key.context("cannot run openssl")?.status.success(), "openssl makes no key");
        server.write("tokens", &format!("admin,admin,admin,system:masters\n{others}"))?;
        server.write("kubeconfig", &kubeconfig(&format!("https://127.0.0.1:{port}"), "admin"))?;
        server.run(
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
        Ok(server)
    }

    /// A file of theirs. `kubeconfig` is the one of `admin`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts another program in their folder.
    pub(crate) fn run(&mut self, name: &str, flags: &[(&str, &str)]) -> Result<()> {
        let log = self.log(name);
        let log = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(self.programs.join(name));
        command.args(flags.iter().map(|(flag, value)| format!("--{flag}={value}"))).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot run {}", self.programs.join(name).display()))?;
        self.running.push((name.to_owned(), child));
        Ok(())
    }

    /// That all of it still runs; else, how what has ended ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        for place in 0..self.running.len() {
            let (name, child) = &mut self.running[place];
            let ended = child.try_wait().with_context(|| format!("cannot wait for {name}"))?;
            let name = name.clone();
            ensure!(ended.is_none(), "{name} has ended: {}", self.said(&name));
        }
        Ok(())
    }

    /// The end of what a program said.
    pub(crate) fn said(&self, name: &str) -> String {
        let text = fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.log"))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// A cluster of this address; users are their tokens.
pub(crate) fn kubeconfig(server: &str, user: &str) -> String {
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

pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("no port is free")?.local_addr()?.port())
}
