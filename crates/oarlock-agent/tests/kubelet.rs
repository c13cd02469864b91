//! The agent as kubelet meets it: a process of its own, a fake kubelet, and the real NVML wrapper over its stand-in.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod host;

use std::collections::BTreeSet;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use host::{GPU, Host, NODE};
use oarlock_testkit::kubelet::{Kubelet, View};
use rustix::process::Signal;
use serde_json::Value;

fn healthy(view: &View, resource: &str) -> Vec<String> {
    let devices = view.resource(resource).devices;
    devices.into_iter().filter(|device| device.health == "Healthy").map(|device| device.id).collect()
}

fn nodes(view: &View, resource: &str) -> Vec<(String, Vec<i64>)> {
    let nodes = |device: oarlock_device_plugin::proto::v1beta1::Device| {
        let nodes = device.topology.iter().flat_map(|topology| &topology.nodes).map(|node| node.id).collect();
        (device.id, nodes)
    };
    view.resource(resource).devices.into_iter().map(nodes).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_gpus_on_two_nodes_and_the_nodes_themselves_are_offered_and_given() {
    let host = Host::new();
    let kubelet = Kubelet::start(&host.kubelet_root());
    let since = Instant::now();
    let agent = host.start();
    kubelet.wait_for_allocatable(GPU, 8).await;
    println!("from the start to eight allocatable gpus: {} ms", since.elapsed().as_millis());
    let view = kubelet.wait_for_allocatable(NODE, 2).await;
    let gpus: Vec<_> = (0..8).map(|gpu| (format!("GPU-{gpu}"), vec![i64::from(gpu < 4)])).collect();
    assert_eq!(nodes(&view, GPU), gpus);
    assert_eq!(nodes(&view, NODE), [("node-0".to_owned(), vec![0]), ("node-1".to_owned(), vec![1])]);

    let on_node_1 = "1".parse().unwrap();
    let admission = kubelet.admit("job", "main", &[(GPU, 3), (NODE, 1)], Some(&on_node_1)).await.unwrap();
    let given: BTreeSet<&str> = admission.response.envs["OARLOCK_GPUS"].split(',').collect();
    assert_eq!(given.len(), 3);
    assert!(given.iter().all(|gpu| ["GPU-0", "GPU-1", "GPU-2", "GPU-3"].contains(gpu)), "{given:?}");
    assert_eq!(admission.response.envs["NVIDIA_VISIBLE_DEVICES"], admission.response.envs["OARLOCK_GPUS"]);
    assert_eq!(admission.response.envs["OARLOCK_NUMA_NODES"], "1");
    let second = kubelet.admit("other", "main", &[(GPU, 4)], None).await.unwrap();
    assert_eq!(second.devices[GPU], ["GPU-4", "GPU-5", "GPU-6", "GPU-7"], "a whole node is left for a job of four");

    agent.answers("/readyz", 200, "ready");
    assert_eq!(agent.get("/healthz"), (200, "alive\n".to_owned()));
    assert_eq!(agent.get("/nothing").0, 404);
    let metrics = agent.answers("/metrics", 200, "oarlock_nvml_up 1");
    for line in [
        format!("oarlock_devices{{resource=\"{GPU}\",health=\"healthy\",reason=\"\"}} 8"),
        format!("oarlock_allocations_total{{resource=\"{GPU}\",outcome=\"Given\"}} 2"),
        format!("oarlock_preferred_duration_seconds_count{{resource=\"{GPU}\"}} 2"),
        format!("oarlock_registrations_total{{resource=\"{NODE}\"}} 1"),
        format!("oarlock_registered{{resource=\"{NODE}\"}} 1"),
        format!("oarlock_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    let held =
        format!("oarlock_held_gpus{{namespace=\"default\",pod=\"job\",container=\"main\",resource=\"{GPU}\"}} 3");
    agent.answers("/metrics", 200, &held);
    let machine: Value = serde_json::from_slice(&std::fs::read(host.path("run/machine.json")).unwrap()).unwrap();
    assert_eq!(machine["gpus"][5]["uuid"], "GPU-5");
    assert_eq!(std::fs::read_dir(host.path("run")).unwrap().count(), 1, "no half-written file stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubelet_that_restarts_finds_all_again_and_replays_what_was_given() {
    let host = Host::new();
    let kubelet = Kubelet::start(&host.kubelet_root());
    let agent = host.start();
    kubelet.wait_for_allocatable(GPU, 8).await;
    let given = kubelet.admit("job", "main", &[(GPU, 4)], None).await.unwrap();
    kubelet.kill().await;
    agent.answers("/readyz", 503, GPU);
    let kubelet = Kubelet::start(&host.kubelet_root());
    kubelet.wait_for_allocatable(GPU, 8).await;
    kubelet.wait_for_allocatable(NODE, 2).await;
    assert_eq!(kubelet.start_container("job", "main"), given);
    let other = kubelet.admit("other", "main", &[(GPU, 4)], None).await.unwrap();
    assert!(other.devices[GPU].iter().all(|id| !given.devices[GPU].contains(id)), "{other:?}");
    agent.answers("/readyz", 200, "ready");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpu_that_fails_is_unhealthy_with_its_reason_and_healthy_again_after_a_while() {
    let host = Host::new();
    let kubelet = Kubelet::start(&host.kubelet_root());
    let agent = host.start();
    kubelet.wait_for_allocatable(GPU, 8).await;
    // Events are heard once the GPUs are watched.
    agent.answers("/metrics", 200, "oarlock_nvml_up 1");
    tokio::time::sleep(Duration::from_millis(500)).await;

    host.nvml.order("xid 3 94");
    let view = kubelet.wait_for_allocatable(GPU, 7).await;
    assert!(!healthy(&view, GPU).contains(&"GPU-3".to_owned()), "{view:?}");
    assert_eq!(view.resource(GPU).capacity(), 8);
    let said = agent.says("unhealthy");
    assert!(said.contains("GPU-3") && said.contains("XID 94"), "{said}");
    kubelet.wait_for_allocatable(GPU, 8).await;
    assert!(agent.says("healthy again").contains("GPU-3"));
    let metrics = agent.get("/metrics").1;
    assert!(metrics.contains("oarlock_xid_events_total{gpu=\"GPU-3\",xid=\"94\"} 1"), "{metrics}");

    host.nvml.order("lost 5");
    let view = kubelet.wait_for_allocatable(GPU, 7).await;
    assert!(!healthy(&view, GPU).contains(&"GPU-5".to_owned()));
    let line = format!("oarlock_devices{{resource=\"{GPU}\",health=\"unhealthy\",reason=\"lost\"}} 1");
    agent.answers("/metrics", 200, &line);
    // The others are given as before.
    assert_eq!(kubelet.admit("job", "main", &[(GPU, 7)], None).await.unwrap().devices[GPU].len(), 7);
    host.nvml.order("back 5");
    kubelet.wait_for_allocatable(GPU, 8).await;
    assert_eq!(agent.get("/metrics").1.matches("unhealthy").count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpu_that_has_to_be_reset_stays_unhealthy_until_it_was_away_and_came_back() {
    let host = Host::new();
    let kubelet = Kubelet::start(&host.kubelet_root());
    let agent = host.start();
    kubelet.wait_for_allocatable(GPU, 8).await;
    agent.answers("/metrics", 200, "oarlock_nvml_up 1");
    tokio::time::sleep(Duration::from_millis(500)).await;

    host.nvml.order("xid 6 79");
    kubelet.wait_for_allocatable(GPU, 7).await;
    assert!(agent.says("unhealthy").contains("it reported XID 79, and has to be reset"));
    // Another GPU with an error of a lesser kind is healthy again after as many good probes.
    host.nvml.order("xid 2 94");
    kubelet.wait_for_allocatable(GPU, 6).await;
    let view = kubelet.wait_for_allocatable(GPU, 7).await;
    assert!(!healthy(&view, GPU).contains(&"GPU-6".to_owned()), "{view:?}");
    host.nvml.order("lost 6");
    agent.says("the gpu is lost");
    host.nvml.order("back 6");
    kubelet.wait_for_allocatable(GPU, 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_error_of_a_program_and_a_hiccup_of_the_library_take_no_gpu() {
    let host = Host::new();
    let kubelet = Kubelet::start(&host.kubelet_root());
    let agent = host.start();
    let before = kubelet.wait_for_allocatable(GPU, 8).await.resource(GPU).lists;
    agent.answers("/metrics", 200, "oarlock_nvml_up 1");
    tokio::time::sleep(Duration::from_millis(500)).await;
    host.nvml.order("xid 2 31");
    host.nvml.order("hiccup 2");
    agent.answers("/metrics", 200, "oarlock_xid_events_total{gpu=\"GPU-2\",xid=\"31\"} 1");
    host.nvml.order("hiccup 40");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let view = kubelet.view();
    assert_eq!((view.resource(GPU).allocatable(), view.resource(GPU).lists), (8, before), "no list was sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_killed_is_replaced_without_a_trace_of_the_first() {
    let host = Host::new();
    let kubelet = Kubelet::start(&host.kubelet_root());
    for round in 1..=3 {
        let mut agent = host.start();
        kubelet.wait_for_allocatable(GPU, 8).await;
        let pod = format!("job-{round}");
        kubelet.admit(&pod, "main", &[(GPU, 2)], None).await.unwrap();
        assert_eq!(host.sockets(), ["oarlock.dev_gpu.sock", "oarlock.dev_numa-node.sock"]);
        agent.signal(Signal::KILL);
        agent.wait();
        // Its sockets are left over, and nobody answers there.
        kubelet.wait_for_allocatable(GPU, 0).await;
        assert!(kubelet.admit("late", "main", &[(GPU, 1)], None).await.is_err());
        assert_eq!(host.sockets().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_it_removes_its_sockets_and_ends_well() {
    let host = Host::new();
    let kubelet = Kubelet::start(&host.kubelet_root());
    let mut agent = host.start();
    kubelet.wait_for_allocatable(GPU, 8).await;
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait().code(), Some(0));
    assert_eq!(host.sockets(), Vec::<String>::new());
    kubelet.wait_for_allocatable(GPU, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_another_plugin_for_gpus_only_nodes_are_offered_unless_it_is_told_to_own_them() {
    let host = Host::new();
    let kubelet = Kubelet::start(&host.kubelet_root());
    let other = UnixListener::bind(host.plugins().join("nvidia-gpu.sock")).unwrap();
    let agent = host.start();
    agent.says("another plugin gives GPUs to pods");
    let view = kubelet.wait_for_allocatable(NODE, 2).await;
    assert_eq!(view.registrations.len(), 1);
    agent.answers("/readyz", 200, "ready");
    drop(agent);
    let _owner = host.start_with("gpu: { mode: own }\n");
    kubelet.wait_for_allocatable(GPU, 8).await;
    drop(other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_are_renamed_switched_off_and_cut_into_slots() {
    let host = Host::new();
    let kubelet = Kubelet::start(&host.kubelet_root());
    let agent = host.start_with(
        "gpu: { resource: example.com/accelerator }\nnumaNode: { slotsPerNode: 3, resource: example.com/slot }\n",
    );
    kubelet.wait_for_allocatable("example.com/accelerator", 8).await;
    let view = kubelet.wait_for_allocatable("example.com/slot", 6).await;
    assert_eq!(view.resources.len(), 2);
    let given = kubelet.admit("job", "main", &[("example.com/slot", 2)], None).await.unwrap();
    assert_eq!(given.response.envs["OARLOCK_NUMA_SLOTS"], "node-0-slot-0,node-0-slot-1");
    drop(agent);
    let kubelet = Kubelet::start(&host.kubelet_root());
    let agent = host.start_with("gpu: { mode: observe }\nnumaNode: { enabled: false }\n");
    agent.answers("/readyz", 200, "ready");
    assert!(kubelet.view().registrations.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mig_devices_are_resources_by_profile_on_the_node_of_their_gpu_and_share_its_fate() {
    let host = Host::with_gpus(|gpu| (gpu == 2).then(|| vec!["3g.40gb", "1g.10gb+me", "3g.40gb"]));
    let kubelet = Kubelet::start(&host.kubelet_root());
    let agent = host.start_with("gpu: { migStrategy: mixed }\n");
    kubelet.wait_for_allocatable(GPU, 7).await;
    let view = kubelet.wait_for_allocatable("oarlock.dev/mig-3g.40gb", 2).await;
    assert!(nodes(&view, "oarlock.dev/mig-3g.40gb").iter().all(|(id, nodes)| id.starts_with("MIG-") && *nodes == [1]));
    kubelet.wait_for_allocatable("oarlock.dev/mig-1g.10gb.me", 1).await;
    agent.answers("/metrics", 200, "oarlock_nvml_up 1");
    tokio::time::sleep(Duration::from_millis(500)).await;
    host.nvml.order("xid 2 94");
    kubelet.wait_for_allocatable("oarlock.dev/mig-3g.40gb", 0).await;
    kubelet.wait_for_allocatable("oarlock.dev/mig-1g.10gb.me", 0).await;
    assert_eq!(kubelet.view().resource(GPU).allocatable(), 7);
    kubelet.wait_for_allocatable("oarlock.dev/mig-3g.40gb", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_nvml_gpus_are_known_by_address() {
    let host = Host::new();
    let kubelet = Kubelet::start(&host.kubelet_root());
    let _agent = host::Agent::start(host.command_with("", Path::new("/nonexistent/libnvidia-ml.so.1")));
    let view = kubelet.wait_for_allocatable(GPU, 8).await;
    assert_eq!(healthy(&view, GPU)[7], host::address(7));
}
