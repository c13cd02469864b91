//! The agent as a container runtime meets it: a process of its own, a fake runtime and a fake kubelet.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod host;

use std::os::unix::net::UnixListener;
use std::sync::Arc;

use host::{Agent, GPU, Host, NODE};
use oarlock_nri::proto::{
    Container, ContainerAdjustment, ContainerState, CreateContainerResponse, Event, LinuxContainer,
    LinuxContainerAdjustment, LinuxCpu, LinuxPodSandbox, LinuxResources, PodSandbox,
};
use oarlock_nri::{Events, HandlerError, Identity, Plugin, Settings};
use oarlock_testkit::kubelet::Kubelet;
use oarlock_testkit::runtime::{NriRuntime, RuntimeOptions};
use tokio_util::sync::CancellationToken;

const AUTO: [(&str, &str); 2] = [("oarlock.dev/cpu-map", "auto"), ("oarlock.dev/mem-map", "auto")];
/// The CPUs of nodes 0 and 1 of the host.
const CPUS: [&str; 2] = ["0-3,8-11", "4-7,12-15"];

fn pod(name: &str, annotations: &[(&str, &str)]) -> PodSandbox {
    PodSandbox {
        id: format!("sandbox-{name}"),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        namespace: "default".to_owned(),
        annotations: annotations.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
        linux: Some(LinuxPodSandbox::default()),
        ..PodSandbox::default()
    }
}

fn container(pod: &PodSandbox, id: &str, env: &[&str]) -> Container {
    Container {
        id: id.to_owned(),
        pod_sandbox_id: pod.id.clone(),
        name: "main".to_owned(),
        env: env.iter().map(|&entry| entry.to_owned()).collect(),
        linux: Some(LinuxContainer { resources: Some(LinuxResources::default()), ..LinuxContainer::default() }),
        ..Container::default()
    }
}

/// CPUs and memory nodes, empty where they are left alone.
fn cpuset(adjust: &ContainerAdjustment) -> (String, String) {
    let resources = adjust.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let cpu = resources.and_then(|resources| resources.cpu.clone()).unwrap_or_default();
    (cpu.cpus, cpu.mems)
}

fn variable<'a>(adjust: &'a ContainerAdjustment, name: &str) -> Option<&'a str> {
    adjust.env.iter().find(|entry| entry.key == name).map(|entry| entry.value.as_str())
}

/// The plugin of an agent whose host has the kernel's own `/proc`.
fn start(host: &Host) -> Agent {
    let proc = host.path("host/proc");
    if !proc.exists() {
        std::os::unix::fs::symlink("/proc", &proc).unwrap();
    }
    host.start_with(&format!("nri: {{ socket: {} }}\n", host.path("nri.sock").display()))
}

fn runtime(host: &Host, options: RuntimeOptions) -> NriRuntime {
    NriRuntime::start(&host.path("nri.sock"), options)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_is_placed_by_kubelets_word_whatever_its_environment_says() {
    let host = Host::new();
    let kubelet = Kubelet::start(&host.kubelet_root());
    let runtime = runtime(&host, RuntimeOptions::default());
    let agent = start(&host);
    kubelet.wait_for_allocatable(GPU, 8).await;
    runtime.until_plugins(1).await;
    kubelet.admit("job", "main", &[(GPU, 2)], Some(&"1".parse().unwrap())).await.unwrap();

    let job = pod("job", &AUTO);
    runtime.run_pod(&job).await.unwrap();
    let adjust = runtime.create_container(&container(&job, "c1", &["NVIDIA_VISIBLE_DEVICES=all"])).await.unwrap();
    assert_eq!(cpuset(&adjust), (CPUS[1].to_owned(), "1".to_owned()));
    assert_eq!(variable(&adjust, "OARLOCK_RANK_CPUS"), Some(format!("{0};{0}", CPUS[1]).as_str()));
    assert!(host.path("run/ledger/c1.json").exists());

    let plain = pod("plain", &[]);
    runtime.run_pod(&plain).await.unwrap();
    let untouched = runtime.create_container(&container(&plain, "c2", &["NVIDIA_VISIBLE_DEVICES=all"])).await.unwrap();
    assert_eq!(untouched, ContainerAdjustment::default());

    let refused = pod("refused", &[AUTO[0], ("oarlock.dev/ranks", "0"), ("oarlock.dev/on-failure", "refuse")]);
    runtime.run_pod(&refused).await.unwrap();
    let error = runtime.create_container(&container(&refused, "c3", &[])).await.unwrap_err();
    assert!(error.contains("oarlock.dev/ranks \"0\""), "{error}");
    assert_eq!(runtime.view().closed, [], "a refusal is an answer");

    // What is told is counted by who tells it, after the answer.
    for line in [
        "oarlock_runtime_up 1",
        "oarlock_create_container_duration_seconds_count{kind=\"Managed\"} 2",
        "oarlock_create_container_duration_seconds_count{kind=\"Unmanaged\"} 1",
        "oarlock_notices_total{reason=\"BindingRefused\"} 1",
    ] {
        agent.answers("/metrics", 200, line);
    }
    runtime.remove_pod("sandbox-job").await.unwrap();
    assert!(!host.path("run/ledger/c1.json").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_holds_a_node_has_it_alone() {
    let host = Host::new();
    let kubelet = Kubelet::start(&host.kubelet_root());
    let runtime = runtime(&host, RuntimeOptions::default());
    let _agent = start(&host);
    kubelet.wait_for_allocatable(NODE, 2).await;
    runtime.until_plugins(1).await;
    let plain = pod("plain", &[]);
    runtime.run_pod(&plain).await.unwrap();
    runtime.create_container(&container(&plain, "other", &[])).await.unwrap();

    let admission = kubelet.admit("alone", "main", &[(NODE, 1)], Some(&"0".parse().unwrap())).await.unwrap();
    let env: Vec<String> = admission.response.envs.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let env: Vec<&str> = env.iter().map(String::as_str).collect();
    let alone = pod("alone", &[]);
    runtime.run_pod(&alone).await.unwrap();
    let adjust = runtime.create_container(&container(&alone, "holder", &env)).await.unwrap();
    assert_eq!(cpuset(&adjust), (CPUS[0].to_owned(), "0".to_owned()));
    let cpus = async |id: &str| {
        let linux = runtime.container(id).await.unwrap().linux.unwrap();
        linux.resources.unwrap().cpu.unwrap_or_default().cpus
    };
    assert_eq!(cpus("other").await, CPUS[1]);
    runtime.remove_container("holder").await.unwrap();
    assert_eq!(cpus("other").await, "0-15");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_made_while_nobody_was_connected_is_given_its_place_and_one_with_a_place_keeps_it() {
    let host = Host::new();
    let first = runtime(&host, RuntimeOptions::default());
    let _agent = start(&host);
    first.until_plugins(1).await;
    let job = pod("job", &AUTO);
    first.run_pod(&job).await.unwrap();
    let placed = container(&job, "placed", &["NVIDIA_VISIBLE_DEVICES=GPU-0"]);
    let adjust = first.create_container(&placed).await.unwrap();
    assert_eq!(cpuset(&adjust).1, "1");
    drop(first);

    let mut missed = container(&job, "missed", &["NVIDIA_VISIBLE_DEVICES=GPU-5"]);
    let mut placed = placed;
    for container in [&mut missed, &mut placed] {
        container.set_state(ContainerState::ContainerRunning);
    }
    let options = RuntimeOptions { pods: vec![job], containers: vec![placed, missed], ..RuntimeOptions::default() };
    let second = runtime(&host, options);
    let view = second.until(|view| !view.unsolicited.is_empty()).await;
    let ids: Vec<&str> = view.unsolicited.iter().map(|update| update.container_id.as_str()).collect();
    assert_eq!(ids, ["missed"]);
    let missed = second.container("missed").await.unwrap().linux.unwrap().resources.unwrap().cpu.unwrap();
    assert_eq!((missed.cpus.as_str(), missed.mems.as_str()), (CPUS[0], "0"));
    assert!(host.path("run/ledger/missed.json").exists() && host.path("run/ledger/placed.json").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubelet_that_says_nothing_delays_no_container_and_its_place_is_made_up_for() {
    let host = Host::new();
    let folder = host.kubelet_root().join("pod-resources");
    std::fs::create_dir_all(&folder).unwrap();
    let _silent = UnixListener::bind(folder.join("kubelet.sock")).unwrap();
    let runtime = runtime(&host, RuntimeOptions::default());
    let agent = start(&host);
    runtime.until_plugins(1).await;
    let job = pod("job", &AUTO);
    runtime.run_pod(&job).await.unwrap();
    let adjust = runtime.create_container(&container(&job, "c1", &["NVIDIA_VISIBLE_DEVICES=GPU-1"])).await.unwrap();
    assert_eq!(adjust, ContainerAdjustment::default());
    assert_eq!(runtime.view().closed, []);
    // kubelet's answer is given up at last, and the environment is all there is.
    let view = runtime.until(|view| !view.unsolicited.is_empty()).await;
    assert_eq!(view.unsolicited[0].container_id, "c1");
    agent.answers("/metrics", 200, "oarlock_create_container_duration_seconds_count{kind=\"Late\"} 1");
}

/// Another plugin, which sets the CPUs of every container.
struct Owner;

impl Plugin for Owner {
    fn events(&self) -> Events {
        Events::from([Event::CreateContainer])
    }

    async fn create_container(
        &self,
        _pod: PodSandbox,
        _container: Container,
    ) -> Result<CreateContainerResponse, HandlerError> {
        let cpu = LinuxCpu { cpus: "2-6".to_owned(), ..LinuxCpu::default() };
        let resources = LinuxResources { cpu: Some(cpu), ..LinuxResources::default() };
        let linux = LinuxContainerAdjustment { resources: Some(resources), ..LinuxContainerAdjustment::default() };
        let adjust = ContainerAdjustment { linux: Some(linux), ..ContainerAdjustment::default() };
        Ok(CreateContainerResponse { adjust: Some(adjust), ..CreateContainerResponse::default() })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_plugin_that_owns_cpusets_a_container_is_made_at_its_second_try() {
    let host = Host::new();
    let runtime = runtime(&host, RuntimeOptions::default());
    let _agent = start(&host);
    let end = CancellationToken::new();
    let settings = Settings { socket: host.path("nri.sock"), ..Settings::new(Identity::new("10", "owner").unwrap()) };
    tokio::spawn({
        let end = end.clone();
        async move { oarlock_nri::run(&settings, Arc::new(Owner), &end).await }
    });
    runtime.until_plugins(2).await;
    let job = pod("job", &AUTO);
    runtime.run_pod(&job).await.unwrap();
    let env = ["NVIDIA_VISIBLE_DEVICES=GPU-0"];
    let error = runtime.create_container(&container(&job, "first", &env)).await.unwrap_err();
    assert!(error.contains("10-owner") || error.contains("90-oarlock"), "{error}");
    let adjust = runtime.create_container(&container(&job, "second", &env)).await.unwrap();
    assert_eq!(cpuset(&adjust), ("2-6".to_owned(), String::new()));
    assert_eq!(variable(&adjust, "OARLOCK_RANK_CPUS"), Some("4-6"), "inside what the other gave");
    end.cancel();
}
