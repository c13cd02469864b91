//! How soon the agent is registered, how soon it answers a container runtime, and what it holds in memory. Prints a line for
//! each, in three columns: what, goal, measured.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

#[path = "../tests/host/mod.rs"]
mod host;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use host::{Agent, GPU, Host, NODE};
use oarlock_device_plugin::proto::v1beta1::device_plugin_client::DevicePluginClient;
use oarlock_device_plugin::proto::v1beta1::{AllocateRequest, ContainerAllocateRequest};
use oarlock_nri::proto::{Container, LinuxContainer, LinuxResources, PodSandbox};
use oarlock_testkit::kubelet::Kubelet;
use oarlock_testkit::runtime::{NriRuntime, RuntimeOptions};
use tonic::transport::Endpoint;

/// Starts of the agent: enough for a median that stays.
const STARTS: usize = 21;
/// Containers that are made: enough for a 99th percentile.
const CREATIONS: usize = 1000;

#[tokio::main]
async fn main() {
    let host = Host::new();
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let kubelet = Kubelet::start(&host.kubelet_root());
        let since = Instant::now();
        let agent = host.start();
        kubelet.wait_for_allocatable(NODE, 2).await;
        kubelet.wait_for_allocatable(GPU, 8).await;
        times.push(since.elapsed());
        drop(agent);
        kubelet.kill().await;
    }
    times.sort_unstable();
    let median: Duration = times[STARTS / 2];
    let milliseconds = median.as_secs_f64() * 1e3;
    println!("process start → 8 GPUs and 2 nodes registered with kubelet\t≤ 1 s\t{milliseconds:.1} ms");

    let kubelet = Kubelet::start(&host.kubelet_root());
    let agent = host.start();
    kubelet.wait_for_allocatable(GPU, 8).await;
    let socket = host.plugins().join("oarlock.dev_gpu.sock");
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
    let mut client = DevicePluginClient::new(endpoint.connect().await.unwrap());
    let mut done = 0;
    for calls in [1_000, 100_000] {
        while done < calls {
            let devices_ids = (0..=done % 8).map(|gpu| format!("GPU-{gpu}")).collect();
            let container_requests = vec![ContainerAllocateRequest { devices_ids }];
            client.allocate(AllocateRequest { container_requests }).await.unwrap();
            done += 1;
        }
        println!("agent, resident after {calls} `Allocate` calls\tno growth\t{:.1} MiB", resident(&agent));
    }
    drop(agent);
    kubelet.kill().await;
    Box::pin(containers()).await;
}

/// The agent's resident memory in MiB.
fn resident(agent: &Agent) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: f64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    kib / 1024.0
}

/// A pod with a container of 8 ranks, annotated or not, without the time that its pod takes.
async fn create(runtime: &NriRuntime, name: &str, annotated: bool) -> Duration {
    let annotations = ["cpu-map", "mem-map"].map(|key| (format!("oarlock.dev/{key}"), "auto".to_owned()));
    let pod = PodSandbox {
        id: format!("sandbox-{name}"),
        name: name.to_owned(),
        uid: name.to_owned(),
        namespace: "default".to_owned(),
        annotations: if annotated { annotations.into_iter().collect() } else { BTreeMap::new() },
        ..PodSandbox::default()
    };
    let gpus: Vec<String> = (0..8).map(|gpu| format!("GPU-{gpu}")).collect();
    // As many variables as a container in a namespace with some services has.
    let mut env: Vec<String> =
        (0..40).map(|number| format!("SERVICE_{number}_PORT=tcp://10.0.0.{number}:443")).collect();
    env.push(format!("NVIDIA_VISIBLE_DEVICES={}", gpus.join(",")));
    let container = Container {
        id: format!("container-{name}"),
        pod_sandbox_id: pod.id.clone(),
        name: "main".to_owned(),
        env,
        linux: Some(LinuxContainer { resources: Some(LinuxResources::default()), ..LinuxContainer::default() }),
        ..Container::default()
    };
    runtime.run_pod(&pod).await.unwrap();
    let since = Instant::now();
    let adjust = runtime.create_container(&container).await.unwrap();
    let took = since.elapsed();
    assert_eq!(adjust.env.is_empty(), !annotated);
    runtime.start_container(&container.id).await.unwrap();
    took
}

async fn containers() {
    let host = Host::new();
    std::os::unix::fs::symlink("/proc", host.path("host/proc")).unwrap();
    let socket = host.path("nri.sock");
    let runtime = NriRuntime::start(&socket, RuntimeOptions::default());
    let agent = host.start_with(&format!("nri: {{ socket: {} }}\n", socket.display()));
    runtime.until_plugins(1).await;
    for (annotated, what) in [(true, "8 ranks"), (false, "not annotated")] {
        let mut times = Vec::new();
        for number in 0..CREATIONS {
            let name = format!("{annotated}-{number}");
            times.push(Box::pin(create(&runtime, &name, annotated)).await);
            runtime.remove_pod(&format!("sandbox-{name}")).await.unwrap();
        }
        times.sort_unstable();
        let [half, most] = [CREATIONS / 2, CREATIONS * 99 / 100].map(|at| times[at].as_secs_f64() * 1e3);
        println!("NRI `CreateContainer` over the socket, {what}: p50, p99\t≤ 2 ms\t{half:.2}, {most:.2} ms");
    }
    for number in 0..100 {
        Box::pin(create(&runtime, &format!("stays-{number}"), true)).await;
    }
    println!("agent, resident with 100 containers of 8 ranks\t≤ 15 MiB\t{:.1} MiB", resident(&agent));
}
