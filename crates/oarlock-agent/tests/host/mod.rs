//! A host for the agent: two nodes, eight GPUs behind the stand-in for NVML, kubelet's folder, and the agent as a process.

#![allow(dead_code, reason = "each test file uses a part")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use oarlock_testkit::nvml::{Stub, library};
use oarlock_testkit::{SysDevice, SysTree};
use serde_json::json;
use tempfile::TempDir;

pub(crate) const GPU: &str = "oarlock.dev/gpu";
pub(crate) const NODE: &str = "oarlock.dev/numa-node";

/// Quick enough for a test, and slow enough for a busy machine.
const SETTINGS: &str = "
metricsAddress: 127.0.0.1:0
health: { probeInterval: 100ms, driverGrace: 500ms, recoverProbes: 2, recoverAfter: 300ms }
";

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// All that an agent has around it.
pub(crate) struct Host {
    folder: TempDir,
    pub(crate) nvml: Stub,
}

/// A running agent. Dropping it kills it.
pub(crate) struct Agent {
    child: Child,
    lines: Receiver<String>,
    pub(crate) address: String,
}

/// GPU i is at bus 0x10 + i, the first four on node 1.
pub(crate) fn address(gpu: u32) -> String {
    format!("0000:{:02x}:00.0", 0x10 + gpu)
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::with_gpus(|_| None)
    }

    /// A host some of whose GPUs are cut into MIG devices of these profiles.
    pub(crate) fn with_gpus(mig: impl Fn(u32) -> Option<Vec<&'static str>>) -> Self {
        Self::of(SysTree::new(2, 1, 1, 4, 2), ["0-3,8-11", "4-7,12-15"], mig)
    }

    /// A host of no more CPUs than any real machine has on which something is to be bound.
    pub(crate) fn of_two_cpus() -> Self {
        Self::of(SysTree::new(2, 1, 1, 1, 1), ["0", "1"], |_| None)
    }

    fn of(mut tree: SysTree, cpus: [&str; 2], mig: impl Fn(u32) -> Option<Vec<&'static str>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node_of = |gpu: u32| i64::from(gpu < 4);
        for gpu in 0..8 {
            tree = tree.device(SysDevice::gpu(&address(gpu)).driver("nvidia").numa_node(node_of(gpu)));
        }
        tree.write(&folder.path().join("host")).unwrap();
        let gpus: Vec<_> = (0..8)
            .map(|gpu| {
                let mut value = json!({
                    "index": gpu, "pci": address(gpu), "numa_node": node_of(gpu), "uuid": format!("GPU-{gpu}"),
                });
                if let Some(profiles) = mig(gpu) {
                    value["mig"] = profiles.into();
                }
                value
            })
            .collect();
        let machine = json!({
            "name": "two-nodes",
            "nodes": [
                {"id": 0, "cpulist": cpus[0], "memory_mb": 16384},
                {"id": 1, "cpulist": cpus[1], "memory_mb": 16384},
            ],
            "gpus": gpus,
        });
        let nvml = folder.path().join("nvml");
        fs::create_dir(&nvml).unwrap();
        let nvml = Stub::new(&nvml, &machine.to_string());
        let host = Self { folder, nvml };
        fs::create_dir_all(host.plugins()).unwrap();
        host
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn kubelet_root(&self) -> PathBuf {
        self.path("kubelet")
    }

    pub(crate) fn plugins(&self) -> PathBuf {
        self.kubelet_root().join("device-plugins")
    }

    /// Where an agent on this host looks for an API server.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// The call of an agent on this host, with more settings.
    pub(crate) fn command(&self, settings: &str) -> Command {
        self.command_with(settings, library())
    }

    /// The same with another NVML library.
    pub(crate) fn command_with(&self, settings: &str, library: &Path) -> Command {
        let config = self.path("config.yaml");
        fs::write(&config, format!("{SETTINGS}{settings}")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock-agent"));
        command.arg("--config").arg(&config);
        command.arg("--kubelet-root").arg(self.kubelet_root());
        command.arg("--run-dir").arg(self.path("run"));
        command.arg("--host-root").arg(self.path("host"));
        command.arg("--nvml-library").arg(library).envs(self.nvml.env());
        // No other API server than a test's own is told anything.
        command.env("KUBECONFIG", self.kubeconfig()).env_remove("KUBERNETES_SERVICE_HOST").env("NODE_NAME", "gpu-7");
        command
    }

    pub(crate) fn start(&self) -> Agent {
        self.start_with("")
    }

    pub(crate) fn start_with(&self, settings: &str) -> Agent {
        Agent::start(self.command(settings))
    }

    /// The sockets in kubelet's folder that are not kubelet's.
    pub(crate) fn sockets(&self) -> Vec<String> {
        let names = fs::read_dir(self.plugins()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.retain(|name| Path::new(name).extension().is_some_and(|end| end == "sock") && name != "kubelet.sock");
        names.sort_unstable();
        names
    }
}

impl Agent {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let errors = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                eprintln!("agent: {line}");
                let _ = sender.send(line);
            }
        });
        let mut agent = Self { child, lines, address: String::new() };
        let line = agent.says("answering /metrics");
        line.rsplit_once("address=").unwrap().1.clone_into(&mut agent.address);
        agent
    }

    /// Waits for a line of the log that holds these words.
    pub(crate) fn says(&self, words: &str) -> String {
        self.says_after(words, |_| {})
    }

    /// The same, where no line before it holds these.
    pub(crate) fn says_without(&self, words: &str, never: &str) {
        self.says_after(words, |line| assert!(!line.contains(never), "{line}"));
    }

    fn says_after(&self, words: &str, passed: impl Fn(&str)) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("the agent never said {words:?}"));
            if line.contains(words) {
                return line;
            }
            passed(&line);
        }
    }

    /// Status and body of an answer.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Waits for an answer with this status that holds these words.
    pub(crate) fn answers(&self, path: &str, status: u16, words: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let (got, body) = self.get(path);
            if got == status && body.contains(words) {
                return body;
            }
            assert!(Instant::now() < until, "{path} never answered {status} {words:?}: {got} {body}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the agent never ended");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
