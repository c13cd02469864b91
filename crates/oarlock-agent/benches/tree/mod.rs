//! Containers for benchmarks: cgroups with living processes, and what a runtime says of them.

#![allow(dead_code, reason = "each benchmark uses a part")]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use oarlock_nri::proto::{Container, LinuxContainer, PodSandbox};
use oarlock_testkit::runtime::NriRuntime;

/// What has not ended in this time never will.
const NEVER: Duration = Duration::from_secs(10);

/// A cgroup for containers. Dropping it ends what runs in it and takes it away.
pub(crate) struct Tree {
    root: PathBuf,
    name: String,
}

impl Tree {
    /// Takes root, and cgroup v2, alone or beside v1.
    pub(crate) fn new(name: &str) -> io::Result<Self> {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
        let root = roots.into_iter().find(|root| root.join("cgroup.controllers").exists());
        let root = root.ok_or_else(|| io::Error::other("this host has no cgroup v2"))?;
        let tree = Self { root, name: format!("oarlock-bench-{name}-{}", std::process::id()) };
        fs::create_dir(tree.path(""))?;
        // On a host of cgroup v1 that controller is elsewhere, and ranks are bound by affinity.
        for cgroup in [&tree.root, &tree.path("")] {
            drop(fs::write(cgroup.join("cgroup.subtree_control"), "+cpuset"));
        }
        Ok(tree)
    }

    /// Shows it, and this host's processes, to an agent whose host is in this folder.
    pub(crate) fn lend(&self, host: &Path) {
        symlink("/proc", host.join("proc")).unwrap();
        fs::create_dir_all(host.join("sys/fs")).unwrap();
        symlink(&self.root, host.join("sys/fs/cgroup")).unwrap();
    }

    /// Whether containers, and so their ranks, can have a cpuset.
    pub(crate) fn has_cpuset(&self) -> bool {
        let enabled = fs::read_to_string(self.path("").join("cgroup.subtree_control")).unwrap();
        enabled.split_whitespace().any(|controller| controller == "cpuset")
    }

    pub(crate) fn path(&self, container: &str) -> PathBuf {
        self.root.join(&self.name).join(container)
    }

    /// Runs this in a container's cgroup.
    pub(crate) fn command(&self, container: &str, program: &Path) -> Command {
        let cgroup = self.path(container);
        fs::create_dir_all(&cgroup).unwrap();
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", "echo $$ > \"$1\" && shift && exec \"$@\"", "sh"])
            .arg(cgroup.join("cgroup.procs"))
            .arg(program);
        shell
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let all = self.path("");
        let _ = fs::write(all.join("cgroup.kill"), "1");
        let until = Instant::now() + NEVER;
        while fs::read_to_string(all.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
            && Instant::now() < until
        {
            thread::sleep(Duration::from_millis(10));
        }
        remove(&all);
    }
}

/// Takes a cgroup away, with all below it.
pub(crate) fn remove(cgroup: &Path) {
    for below in fs::read_dir(cgroup).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove(&below.path());
    }
    let _ = fs::remove_dir(cgroup);
}

/// A pod with a container of eight ranks, for which the agent is to look in the tree.
pub(crate) async fn create(runtime: &NriRuntime, tree: &Tree, name: &str) {
    fs::create_dir_all(tree.path(name)).unwrap();
    let pod = PodSandbox {
        id: format!("sandbox-{name}"),
        name: name.to_owned(),
        uid: name.to_owned(),
        namespace: "default".to_owned(),
        annotations: [("oarlock.dev/cpu-map".to_owned(), "auto".to_owned())].into(),
        ..PodSandbox::default()
    };
    let gpus: Vec<String> = (0..8).map(|gpu| format!("GPU-{gpu}")).collect();
    let container = Container {
        id: format!("container-{name}"),
        pod_sandbox_id: pod.id.clone(),
        name: "main".to_owned(),
        env: vec![format!("NVIDIA_VISIBLE_DEVICES={}", gpus.join(","))],
        linux: Some(LinuxContainer { cgroups_path: format!("/{}/{name}", tree.name), ..LinuxContainer::default() }),
        ..Container::default()
    };
    runtime.run_pod(&pod).await.unwrap();
    runtime.create_container(&container).await.unwrap();
    runtime.start_container(&container.id).await.unwrap();
}
