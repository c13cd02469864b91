//! What the Kubernetes API is told: the agent as a process, before a fake runtime and a fake API server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod host;

use std::time::{Duration, Instant};

use host::{Agent, Host};
use oarlock_nri::proto::{Container, ContainerAdjustment, LinuxContainer, LinuxResources, PodSandbox};
use oarlock_testkit::api_server::{Answer, ApiServer, Asked};
use oarlock_testkit::runtime::{NriRuntime, RuntimeOptions};
use serde_json::{Value, json};

const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/ml/events";
const ASKS: (&str, &str) = ("oarlock.dev/cpu-map", "auto");
/// No number of ranks.
const WRONG: (&str, &str) = ("oarlock.dev/ranks", "0");
const REFUSE: (&str, &str) = ("oarlock.dev/on-failure", "refuse");

/// An agent that is connected to a runtime, and an API server.
struct Cluster {
    _host: Host,
    runtime: NriRuntime,
    agent: Agent,
    api: Option<ApiServer>,
}

impl Cluster {
    async fn start(api: Option<ApiServer>, settings: &str) -> Self {
        let host = Host::new();
        if let Some(api) = &api {
            api.write_kubeconfig(&host.kubeconfig());
        }
        std::os::unix::fs::symlink("/proc", host.path("host/proc")).unwrap();
        let socket = host.path("nri.sock");
        let runtime = NriRuntime::start(&socket, RuntimeOptions::default());
        // What is told of the host itself is another test's.
        let settings = format!("{{ nodeLabels: false, nodeResourceTopology: {{ enabled: false }}, {settings} }}");
        let agent = host.start_with(&format!("nri: {{ socket: {} }}\nkubernetes: {settings}\n", socket.display()));
        runtime.until_plugins(1).await;
        Self { _host: host, runtime, agent, api }
    }

    fn api(&self) -> &ApiServer {
        self.api.as_ref().unwrap()
    }

    /// Makes a container `main` of a pod that asks for a place and has these annotations too, next to this GPU.
    async fn create(&self, pod: &str, more: &[(&str, &str)], gpu: u32) -> Result<ContainerAdjustment, String> {
        let annotations = [ASKS].iter().chain(more);
        let pod = PodSandbox {
            id: format!("sandbox-{pod}"),
            name: pod.to_owned(),
            uid: format!("uid-{pod}"),
            namespace: "ml".to_owned(),
            annotations: annotations.map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
            ..PodSandbox::default()
        };
        self.runtime.run_pod(&pod).await.unwrap();
        let container = Container {
            id: format!("{}-{gpu}", pod.name),
            pod_sandbox_id: pod.id.clone(),
            name: "main".to_owned(),
            env: vec![format!("NVIDIA_VISIBLE_DEVICES=GPU-{gpu}")],
            linux: Some(LinuxContainer { resources: Some(LinuxResources::default()), ..LinuxContainer::default() }),
            ..Container::default()
        };
        Box::pin(self.runtime.create_container(&container)).await
    }

    /// What was asked once a new pod's annotation has come, which comes after all events that wait now.
    async fn until_annotated(&self, pod: &str) -> Vec<Asked> {
        self.create(pod, &[], 0).await.unwrap();
        self.api().until(|asked| asked.iter().any(|asked| asked.uri.contains(pod))).await
    }
}

fn events(asked: &[Asked]) -> Vec<&Asked> {
    asked.iter().filter(|asked| asked.method == "POST").collect()
}

/// The annotations of patches, each as JSON; `null` where it is taken away.
fn annotations(asked: &[Asked]) -> Vec<Value> {
    let patches = asked.iter().filter(|asked| asked.method == "PATCH");
    let values = patches.map(|asked| asked.body["metadata"]["annotations"]["oarlock.dev/placement"].clone());
    values.map(|value| value.as_str().map_or(Value::Null, |text| serde_json::from_str(text).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_an_event_on_its_pod() {
    let cluster = Cluster::start(Some(ApiServer::start().await), "").await;
    let error = cluster.create("job", &[WRONG, REFUSE], 0).await.unwrap_err();
    let asked = cluster.api().until(|asked| !asked.is_empty()).await;
    assert_eq!((asked[0].method.as_str(), asked[0].uri.as_str()), ("POST", format!("{EVENTS}?").as_str()));
    let event = &asked[0].body;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "namespace": "ml", "name": "job", "uid": "uid-job"});
    assert_eq!(event["regarding"], pod);
    assert_eq!((&event["reason"], &event["type"]), (&json!("BindingRefused"), &json!("Warning")));
    assert_eq!(event["reportingInstance"], "gpu-7");
    let words = event["note"].as_str().unwrap().strip_prefix("main: ").unwrap();
    assert!(words.contains("oarlock.dev/ranks \"0\"") && error.contains(words), "{words}\n{error}");
    cluster.agent.answers("/metrics", 200, "oarlock_told_total{what=\"event\",outcome=\"sent\"} 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_annotation_follows_the_places_of_a_pods_containers() {
    let cluster = Cluster::start(Some(ApiServer::start().await), "").await;
    cluster.create("job", &[], 0).await.unwrap();
    let asked = cluster.api().until(|asked| asked.len() == 1).await;
    assert!(asked[0].uri.starts_with("/api/v1/namespaces/ml/pods/job?"), "{}", asked[0].uri);
    assert!(asked[0].uri.contains("fieldManager=oarlock"), "{}", asked[0].uri);
    assert_eq!(asked[0].body["metadata"]["uid"], "uid-job", "no other pod of the name");
    // It starts again, next to a GPU of the other node; and it starts again, and asks for what it cannot have.
    cluster.runtime.remove_container("job-0").await.unwrap();
    cluster.create("job", &[], 5).await.unwrap();
    cluster.api().until(|asked| asked.len() == 2).await;
    cluster.runtime.remove_container("job-5").await.unwrap();
    cluster.create("job", &[WRONG], 6).await.unwrap();
    let asked = cluster.api().until(|asked| annotations(asked).len() == 3).await;
    let of = |cpus: &str, gpu: u32| json!({"main": [{"cpus": cpus, "mems": null, "gpus": [gpu]}]});
    assert_eq!(annotations(&asked), [of("4-7,12-15", 0), of("0-3,8-11", 5), Value::Null]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forbids_events_is_not_asked_again_and_the_missing_rule_is_named() {
    let api = ApiServer::start().await;
    api.answer("/events", Answer::Status(403));
    let cluster = Cluster::start(Some(api), "").await;
    cluster.create("first", &[WRONG, REFUSE], 0).await.unwrap_err();
    let line = cluster.agent.says("no events for pods");
    assert!(line.contains("apiGroups: [events.k8s.io], resources: [events], verbs: [create]"), "{line}");
    cluster.create("second", &[WRONG, REFUSE], 0).await.unwrap_err();
    let asked = cluster.until_annotated("third").await;
    assert_eq!(events(&asked).len(), 1, "{asked:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fails_is_asked_again_for_the_same_event_and_its_trouble_is_said_once() {
    for status in [429, 500] {
        let api = ApiServer::start().await;
        api.answer("/events", Answer::Status(status));
        let cluster = Cluster::start(Some(api), "").await;
        cluster.create("job", &[WRONG, REFUSE], 0).await.unwrap_err();
        cluster.api().until(|asked| events(asked).len() == 2).await;
        cluster.api().answer("/events", Answer::Take);
        let asked = cluster.api().until(|asked| events(asked).len() == 3).await;
        let names: Vec<&Value> = events(&asked).iter().map(|asked| &asked.body["metadata"]["name"]).collect();
        assert!(names[0].is_string() && names.iter().all(|name| *name == names[0]), "{names:?}");
        cluster.agent.says(&format!("cannot be told of pods: status {status}"));
        cluster.agent.says_without("answers again", "cannot be told");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_or_is_slow_delays_no_container() {
    for answer in [Answer::Hang, Answer::After(Duration::from_secs(5))] {
        let api = ApiServer::start().await;
        api.answer("/", answer);
        let cluster = Cluster::start(Some(api), "").await;
        cluster.create("refused", &[WRONG, REFUSE], 0).await.unwrap_err();
        cluster.api().until(|asked| asked.len() == 1).await;
        for number in 0..20 {
            let adjust = cluster.create(&format!("job-{number}"), &[], 0).await.unwrap();
            assert!(!adjust.env.is_empty(), "it has its place");
        }
        // The runtime hangs up on a plugin that takes more than two seconds.
        assert_eq!(cluster.runtime.view().closed, []);
        assert_eq!(cluster.api().asked().len(), 1, "one request at a time");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_refusals_of_a_pod_that_is_started_in_a_loop_are_one_event() {
    let cluster = Cluster::start(Some(ApiServer::start().await), "").await;
    let began = Instant::now();
    for _ in 0..1000 {
        cluster.create("job", &[WRONG, REFUSE], 0).await.unwrap_err();
    }
    let asked = cluster.until_annotated("last").await;
    let took = began.elapsed();
    assert_eq!(events(&asked).len(), 1, "{asked:#?}");
    cluster.agent.answers("/metrics", 200, "oarlock_told_total{what=\"event\",outcome=\"repeated\"} 999");
    // The same words come again every ten minutes at most, others of the pod up to fifteen times as often.
    println!("1000 refusals in {took:?}: {} requests; in an hour 6, of a hostile pod 96 at most", asked.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_switched_off_is_not_told() {
    let settings = "events: false";
    let cluster = Cluster::start(Some(ApiServer::start().await), settings).await;
    cluster.create("job", &[WRONG, REFUSE], 0).await.unwrap_err();
    let asked = cluster.until_annotated("last").await;
    assert_eq!(events(&asked).len(), 0, "{asked:#?}");
    drop(cluster);
    let settings = "placementAnnotation: false";
    let cluster = Cluster::start(Some(ApiServer::start().await), settings).await;
    cluster.create("placed", &[], 0).await.unwrap();
    cluster.create("job", &[WRONG, REFUSE], 0).await.unwrap_err();
    let asked = cluster.api().until(|asked| !asked.is_empty()).await;
    assert_eq!((asked.len(), events(&asked).len()), (1, 1), "{asked:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_there_is_no_server_containers_have_their_places() {
    let cluster = Cluster::start(None, "").await;
    let adjust = cluster.create("job", &[], 0).await.unwrap();
    assert!(!adjust.env.is_empty(), "it has its place");
    cluster.agent.says("pods get no events and no annotations");
    cluster.create("refused", &[WRONG, REFUSE], 0).await.unwrap_err();
    cluster.create("another", &[], 0).await.unwrap();
    cluster.runtime.remove_container("another-0").await.unwrap();
    cluster.agent.says_without("BindingRefused", "pods get no events");
    cluster.agent.answers("/metrics", 200, "oarlock_api_requests_total 0");
}
