//! How many requests hosts send to the Kubernetes API: one on which nothing happens, one that runs a hundred pods an hour, and
//! one that does so before a server that fails. Each agent has the settings that it has where nobody sets any. Prints a line
//! for each, in three columns: what, goal, measured. Takes root and a cgroup v2 tree, as the agent does, and the time that
//! `OARLOCK_LOAD_MINUTES` says, an hour without it.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

#[path = "../tests/host/mod.rs"]
mod host;
mod tree;

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use host::{Agent, GPU, Host};
use oarlock_testkit::api_server::{Answer, ApiServer};
use oarlock_testkit::kubelet::Kubelet;
use oarlock_testkit::runtime::{NriRuntime, RuntimeOptions};
use tokio::time::{Instant, sleep_until};
use tree::{Tree, create, remove};

/// A hundred pods an hour, one after the other.
const BETWEEN_PODS: Duration = Duration::from_secs(36);
/// So long each of them lives.
const POD_LIVES: Duration = Duration::from_secs(24);

#[tokio::main]
async fn main() {
    let minutes = env::var("OARLOCK_LOAD_MINUTES").map_or(60, |minutes| minutes.parse().unwrap());
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    let (idle, busy, failing) = tokio::join!(
        Box::pin(requests("idle", Answer::Take, false, until)),
        Box::pin(requests("busy", Answer::Take, true, until)),
        Box::pin(requests("failing", Answer::Status(500), true, until)),
    );
    for (what, asked) in [
        ("a host on which nothing happens", idle),
        ("a host that runs 100 pods of 8 ranks an hour", busy),
        ("the same before a server that answers 500", failing),
    ] {
        let total: usize = asked.values().sum();
        let kinds: Vec<String> = asked.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        println!("requests in {minutes} minutes of {what}\t–\t{total}: {}", kinds.join(", "));
    }
}

/// The requests of a host until then, by what they are.
async fn requests(name: &str, answer: Answer, has_pods: bool, until: Instant) -> BTreeMap<String, usize> {
    let tree = Tree::new(name).unwrap();
    let host = Host::of_two_cpus();
    tree.lend(&host.path("host"));
    let (kubelet, api) = (Kubelet::start(&host.kubelet_root()), ApiServer::start().await);
    api.write_kubeconfig(&host.kubeconfig());
    api.answer("/", answer);
    let socket = host.path("nri.sock");
    let runtime = NriRuntime::start(&socket, RuntimeOptions::default());
    let _agent: Agent = host.start_with(&format!("nri: {{ socket: {} }}\n", socket.display()));
    runtime.until_plugins(1).await;
    kubelet.wait_for_allocatable(GPU, 8).await;
    let mut number = 0;
    while has_pods && Instant::now() + BETWEEN_PODS <= until {
        let began = Instant::now();
        let pod = format!("{name}-{number}");
        kubelet.admit(&pod, "main", &[(GPU, 8)], None).await.unwrap();
        Box::pin(create(&runtime, &tree, &pod)).await;
        let ranks: Vec<Child> = (0..8)
            .map(|rank: u32| {
                let mut sleep = tree.command(&pod, Path::new("/bin/sleep"));
                sleep.arg("1000").env("LOCAL_RANK", rank.to_string()).spawn().unwrap()
            })
            .collect();
        sleep_until(began + POD_LIVES).await;
        for mut rank in ranks {
            rank.kill().unwrap();
            rank.wait().unwrap();
        }
        runtime.remove_container(&format!("container-{pod}")).await.unwrap();
        runtime.remove_pod(&format!("sandbox-{pod}")).await.unwrap();
        kubelet.remove_pod(&pod);
        remove(&tree.path(&pod));
        number += 1;
        sleep_until(began + BETWEEN_PODS).await;
    }
    sleep_until(until).await;
    let mut counts = BTreeMap::new();
    for asked in api.asked() {
        let path = asked.uri.split('?').next().unwrap();
        let what = ["nodes", "events", "pods", "noderesourcetopologies", "topology.node.k8s.io"];
        let what = what.into_iter().find(|what| path.contains(&format!("/{what}"))).unwrap();
        *counts.entry(format!("{} {what}", asked.method)).or_default() += 1;
    }
    counts
}
