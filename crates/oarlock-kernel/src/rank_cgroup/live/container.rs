//! A cgroup that stands for a container, and processes in it.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use oarlock_core::{CpuSet, NodeSet};

use super::super::{Held, RankCgroups, Wall};
use super::{PATIENCE, ROOT};
use crate::affinity;
use crate::cgroup::{Hierarchy, Membership};
use crate::proc::{Live, Proc, Process};

/// A node of this machine that has CPUs and memory.
pub(super) struct Node {
    pub(super) id: u32,
    pub(super) cpus: CpuSet,
}

/// A cgroup of this test, removed with it.
pub(super) struct Container {
    pub(super) hierarchy: Hierarchy,
    pub(super) proc: Proc,
    pub(super) path: String,
    pub(super) folder: PathBuf,
}

impl Container {
    /// An empty one; `None`, said in words, where no cgroups may be made.
    pub(super) fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let Some(place) = std::env::var_os("OARLOCK_CGROUP_TESTS").map(PathBuf::from) else {
            println!("not run: $OARLOCK_CGROUP_TESTS names no cgroup v2 folder for these tests");
            return None;
        };
        if !fs::read_to_string(place.join("cgroup.controllers")).unwrap().contains("cpuset") {
            println!("not run: {} has no controller cpuset", place.display());
            return None;
        }
        let name = format!("test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = place.join(&name);
        fs::create_dir(&folder).unwrap();
        Some(Self {
            hierarchy: Hierarchy::open(ROOT.as_ref()).unwrap().unwrap(),
            proc: Proc::open("/proc".as_ref()).unwrap(),
            path: format!("/{}", folder.strip_prefix(ROOT).unwrap().display()),
            folder,
        })
    }

    pub(super) fn ranks(&self) -> RankCgroups<'_> {
        self.hierarchy.ranks_of(&self.path).unwrap().unwrap()
    }

    pub(super) fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder.join(file)).unwrap().trim_end().to_owned()
    }

    pub(super) fn write(&self, file: &str, value: &str) {
        fs::write(self.folder.join(file), value).unwrap();
    }

    pub(super) fn set(&self, cpus: &CpuSet, mems: &NodeSet) {
        let ranks = self.ranks();
        assert_eq!(self.hierarchy.set_cpus(ranks.container(), cpus).unwrap(), Live::Here(()));
        assert_eq!(self.hierarchy.set_mems(ranks.container(), mems).unwrap(), Live::Here(()));
    }

    pub(super) fn held(&self, rank: u32, wall: &Wall) -> Held {
        self.ranks().hold(rank, wall).unwrap().here().unwrap()
    }

    pub(super) fn take(&self, rank: u32, member: &Member) -> Live<()> {
        self.ranks().take(rank, &self.process(member), &self.proc).unwrap()
    }

    pub(super) fn process(&self, member: &Member) -> Process {
        self.proc.process(member.pid()).unwrap().unwrap()
    }

    /// Where the process is.
    pub(super) fn place(&self, pid: u32) -> String {
        let Membership { unified, .. } =
            self.proc.process(pid).unwrap().unwrap().cgroup().unwrap().here().unwrap().unwrap();
        unified.unwrap()
    }

    pub(super) fn is_as_it_was(&self) {
        assert_eq!((self.read("cgroup.type"), self.read("cgroup.subtree_control")), ("domain".into(), String::new()));
        assert_eq!(self.ranks().ranks().unwrap(), [0_u32; 0]);
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(fs::write(self.folder.join("cgroup.kill"), "1"));
        let deadline = Instant::now() + PATIENCE;
        loop {
            for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
                drop(fs::remove_dir(entry.path()));
            }
            if fs::remove_dir(&self.folder).is_ok() || Instant::now() > deadline || !self.folder.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A process with two threads that has touched memory, and stays until it is dropped.
pub(super) struct Member {
    pub(super) child: Child,
    stdin: ChildStdin,
    out: BufReader<ChildStdout>,
}

pub(super) const MIB: u64 = 24;

impl Member {
    pub(super) fn of(container: &Container) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["rank_cgroup::live::container::member", "--exact", "--ignored", "--nocapture"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let stdin = child.stdin.take().unwrap();
        container.write("cgroup.procs", &child.id().to_string());
        let mut member = Self { child, stdin, out };
        member.asked("touch", "touched");
        member
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn asked(&mut self, to: &str, answer: &str) -> String {
        writeln!(self.stdin, "{to}").unwrap();
        let mut line = String::new();
        while !line.contains(answer) {
            line.clear();
            assert!(self.out.read_line(&mut line).unwrap() > 0, "the member ended before it said {answer}");
        }
        line.trim_end().to_owned()
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
#[ignore = "run by other tests, as a process of a container"]
fn member() {
    let (mut memory, mut children) = (Vec::new(), Vec::<Child>::new());
    for line in std::io::stdin().lines() {
        match line.unwrap().as_str() {
            "touch" => {
                memory = vec![0xa5_u8; (MIB as usize) << 20];
                std::thread::spawn(std::thread::park);
                println!("touched");
            }
            "widen" => {
                let all = (0..512).collect::<CpuSet>();
                let widened = affinity::set_thread(0, &all);
                println!("widened: {}", affinity::of_thread(0).unwrap().here().unwrap());
                drop(widened);
            }
            "child" => {
                children.push(Command::new("sleep").arg("600").spawn().unwrap());
                println!("child {}", children.last().unwrap().id());
            }
            other => panic!("{other}"),
        }
        std::hint::black_box(&memory);
    }
    for mut child in children {
        child.wait().unwrap();
    }
}

/// Two nodes with CPUs and memory; `None`, said in words, on a machine that has not got them.
pub(super) fn two_nodes() -> Option<[Node; 2]> {
    let mut nodes = Vec::new();
    let memory: NodeSet = fs::read_to_string("/sys/devices/system/node/has_memory").ok()?.trim().parse().unwrap();
    for id in memory.iter() {
        let cpus = fs::read_to_string(format!("/sys/devices/system/node/node{id}/cpulist")).unwrap();
        let cpus: CpuSet = cpus.trim().parse().unwrap();
        if !cpus.is_empty() {
            nodes.push(Node { id, cpus });
        }
    }
    nodes.reverse();
    nodes.truncate(2);
    let two = nodes.try_into().ok();
    if two.is_none() {
        println!("not run: this takes two nodes with CPUs and memory");
    }
    two
}

pub(super) fn wall(node: &Node) -> Wall {
    Wall { cpus: Some(node.cpus.clone()), mems: Some(NodeSet::of(node.id)) }
}

/// What every thread of the process is allowed: CPUs and nodes, each once.
pub(super) fn allowed(container: &Container, pid: u32) -> Vec<(String, String)> {
    let process = container.proc.process(pid).unwrap().unwrap();
    let mut all: Vec<_> = process
        .threads()
        .unwrap()
        .here()
        .unwrap()
        .into_iter()
        .map(|tid| {
            let status = process.thread(tid).unwrap().here().unwrap();
            (status.cpus_allowed.unwrap().to_string(), status.mems_allowed.unwrap().to_string())
        })
        .collect();
    all.dedup();
    all
}

/// KiB of anonymous memory on each node.
pub(super) fn anonymous(container: &Container, pid: u32) -> Vec<(u32, u64)> {
    let maps = container.proc.process(pid).unwrap().unwrap().numa_maps().unwrap().here().unwrap().unwrap();
    maps.anonymous.iter().map(|(&node, pages)| (node, pages.kib)).collect()
}

pub(super) fn only_on(container: &Container, pid: u32, node: u32) {
    let pages = anonymous(container, pid);
    assert!(
        matches!(pages[..], [(on, kib)] if on == node && kib >= MIB << 10),
        "{pages:?} and not on node {node} alone"
    );
}
