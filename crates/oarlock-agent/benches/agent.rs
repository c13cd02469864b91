//! How soon the agent is registered, and what it holds in memory after many allocations. Prints a line for each, in three
//! columns: what, goal, measured.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

#[path = "../tests/host/mod.rs"]
mod host;

use std::fs;
use std::time::{Duration, Instant};

use host::{GPU, Host, NODE};
use oarlock_device_plugin::proto::v1beta1::device_plugin_client::DevicePluginClient;
use oarlock_device_plugin::proto::v1beta1::{AllocateRequest, ContainerAllocateRequest};
use oarlock_testkit::kubelet::Kubelet;
use tonic::transport::Endpoint;

/// Starts of the agent: enough for a median that stays.
const STARTS: usize = 21;

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
        let status = fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: f64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
        println!("agent, resident after {calls} `Allocate` calls\tno growth\t{:.1} MiB", kib / 1024.0);
    }
}
