//! What the Kubernetes API is told of the host itself: the agent as a process, before a fake kubelet and a fake API server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod host;

use host::{Agent, GPU, Host, NODE};
use oarlock_testkit::api_server::{Answer, ApiServer, Asked};
use oarlock_testkit::kubelet::Kubelet;
use serde_json::{Value, json};

/// Quick enough for a test.
const SETTINGS: &str = "hostInterval: 100ms";
const TOPOLOGY: &str = "/apis/topology.node.k8s.io/v1alpha2";

/// A host whose kubelet knows all that its agent offers, and an API server.
struct Cluster {
    host: Host,
    kubelet: Kubelet,
    api: ApiServer,
}

impl Cluster {
    async fn new() -> Self {
        let host = Host::new();
        let (kubelet, api) = (Kubelet::start(&host.kubelet_root()), ApiServer::start().await);
        api.write_kubeconfig(&host.kubeconfig());
        Self { host, kubelet, api }
    }

    async fn agent(&self, settings: &str) -> Agent {
        let agent = self.host.start_with(&format!("kubernetes: {{ {SETTINGS}, {settings} }}\n"));
        self.kubelet.wait_for_allocatable(GPU, 8).await;
        agent
    }

    /// Waits until objects of the host were written as often as this, and gives all.
    async fn until_topologies(&self, count: usize) -> Vec<Value> {
        let asked = self.api.until(|asked| topologies(asked).len() >= count).await;
        topologies(&asked).into_iter().map(|asked| asked.body.clone()).collect()
    }

    /// Gives a GPU to a pod, and waits until the agent knows.
    async fn admit(&self, agent: &Agent, pod: &str) {
        self.kubelet.admit(pod, "main", &[(GPU, 1)], None).await.unwrap();
        agent.answers("/metrics", 200, &format!("pod=\"{pod}\",container=\"main\",resource=\"{GPU}\"}} 1"));
    }
}

fn with<'a>(asked: &'a [Asked], method: &str, path: &str) -> Vec<&'a Asked> {
    asked.iter().filter(|asked| asked.method == method && asked.uri.starts_with(path)).collect()
}

fn topologies(asked: &[Asked]) -> Vec<&Asked> {
    with(asked, "PATCH", TOPOLOGY)
}

/// What a zone has of a resource: capacity, allocatable, available. Nothing where kubelet did not know it yet.
fn amounts<'a>(object: &'a Value, zone: usize, resource: &str) -> [&'a str; 3] {
    let resources = object["zones"][zone]["resources"].as_array().unwrap();
    let found = resources.iter().find(|known| known["name"] == resource);
    ["capacity", "allocatable", "available"].map(|key| found.map_or("", |found| found[key].as_str().unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_labelled_by_an_apply_that_makes_no_node_and_only_where_it_is_not_yet() {
    let cluster = Cluster::new().await;
    let agent = cluster.agent("").await;
    let asked = cluster.api.until(|asked| !with(asked, "PATCH", "/api/v1/nodes/").is_empty()).await;
    let patch = with(&asked, "PATCH", "/api/v1/nodes/gpu-7?")[0];
    assert!(patch.uri.contains("fieldManager=oarlock") && patch.uri.contains("force=true"), "{}", patch.uri);
    let labels = json!({
        "oarlock.dev/numa-nodes": "2", "oarlock.dev/gpus": "8", "oarlock.dev/gpus-per-numa-node": "4-4",
    });
    let metadata = json!({ "name": "gpu-7", "uid": "uid-of-gpu-7", "labels": labels });
    assert_eq!(patch.body, json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata }));
    agent.answers("/metrics", 200, "oarlock_told_total{what=\"labels\",outcome=\"sent\"} 1");
    cluster.until_topologies(1).await;
    drop(agent);
    // The next agent finds them. What comes after them is written as before.
    cluster.kubelet.wait_for_allocatable(GPU, 0).await;
    let _agent = cluster.agent("").await;
    cluster.until_topologies(2).await;
    let asked = cluster.api.asked();
    assert_eq!(with(&asked, "GET", "/api/v1/nodes/gpu-7").len(), 2, "{asked:#?}");
    assert_eq!(with(&asked, "PATCH", "/api/v1/nodes/").len(), 1, "{asked:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_each_node_has_and_has_left_is_written_as_often_as_it_changes() {
    let cluster = Cluster::new().await;
    let policy = "nodeResourceTopology: { topologyManagerPolicy: single-numa-node, topologyManagerScope: pod }";
    let agent = cluster.agent(policy).await;
    let first = cluster.until_topologies(1).await.remove(0);
    let uri = &topologies(&cluster.api.asked())[0].uri.clone();
    assert!(uri.starts_with(&format!("{TOPOLOGY}/noderesourcetopologies/gpu-7?")), "{uri}");
    assert!(uri.contains("fieldManager=oarlock") && !uri.contains("force=true"), "{uri}");
    assert_eq!((&first["kind"], &first["apiVersion"]), (&json!("NodeResourceTopology"), &json!(&TOPOLOGY[6..])));
    let owner = json!([{ "apiVersion": "v1", "kind": "Node", "name": "gpu-7", "uid": "uid-of-gpu-7" }]);
    let labels = json!({ "app.kubernetes.io/managed-by": "oarlock" });
    assert_eq!(first["metadata"], json!({ "name": "gpu-7", "labels": labels, "ownerReferences": owner }));
    let attributes = json!([
        { "name": "topologyManagerPolicy", "value": "single-numa-node" },
        { "name": "topologyManagerScope", "value": "pod" },
    ]);
    assert_eq!(first["attributes"], attributes);
    let names: Vec<_> = first["zones"].as_array().unwrap().iter().map(|zone| (&zone["name"], &zone["type"])).collect();
    let names: Vec<_> = names.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    assert_eq!(names, ["\"node-0\" \"Node\"", "\"node-1\" \"Node\""]);
    for zone in [0, 1] {
        assert_eq!(amounts(&first, zone, "cpu"), ["8", "8", "8"]);
    }

    // Three GPUs of node 1, and node 0 as a whole.
    let near = "1".parse().unwrap();
    cluster.kubelet.admit("job", "main", &[(GPU, 3)], Some(&near)).await.unwrap();
    let near = "0".parse().unwrap();
    cluster.kubelet.admit("whole", "main", &[(NODE, 1)], Some(&near)).await.unwrap();
    let is_last = |asked: &[Asked]| {
        let last = topologies(asked).last().unwrap().body.clone();
        amounts(&last, 0, NODE)[2] == "0" && amounts(&last, 1, GPU)[2] == "1"
    };
    let asked = cluster.api.until(is_last).await;
    let last = &topologies(&asked).last().unwrap().body;
    assert_eq!([0, 1].map(|zone| amounts(last, zone, GPU)), [["4", "4", "4"], ["4", "4", "1"]]);
    assert_eq!([0, 1].map(|zone| amounts(last, zone, NODE)), [["1", "1", "0"], ["1", "1", "1"]]);
    assert_eq!(
        [0, 1].map(|zone| amounts(last, zone, "cpu")),
        [["8", "8", "0"], ["8", "8", "8"]],
        "others are kept off"
    );
    agent.answers("/metrics", 200, "oarlock_told_total{what=\"topology\",outcome=\"sent\"}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_another_writes_is_left_to_it_and_that_is_said_once() {
    let cluster = Cluster::new().await;
    cluster.api.answer("/noderesourcetopologies/", Answer::Status(409));
    let agent = cluster.agent("").await;
    agent.says("NodeResourceTopology gpu-7 is another's, and left alone");
    cluster.admit(&agent, "job").await;
    cluster.admit(&agent, "other").await;
    assert_eq!(topologies(&cluster.api.asked()).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_such_objects_is_asked_for_them_once() {
    let cluster = Cluster::new().await;
    cluster.api.answer(TOPOLOGY, Answer::Status(404));
    let agent = cluster.agent("").await;
    cluster.api.until(|asked| !with(asked, "GET", TOPOLOGY).is_empty()).await;
    cluster.admit(&agent, "job").await;
    cluster.admit(&agent, "other").await;
    let asked = cluster.api.asked();
    assert_eq!((with(&asked, "GET", TOPOLOGY).len(), topologies(&asked).len()), (1, 0), "{asked:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_are_missing_are_named_and_not_asked_for_again() {
    let cluster = Cluster::new().await;
    cluster.api.answer("/nodes/", Answer::Status(403));
    cluster.api.answer("/noderesourcetopologies/", Answer::Status(403));
    let agent = cluster.agent("").await;
    let line = agent.says("no labels for Node gpu-7");
    assert!(line.contains("apiGroups: [\"\"], resources: [nodes], verbs: [get]"), "{line}");
    let line = agent.says("no NodeResourceTopology gpu-7");
    let rule = "apiGroups: [topology.node.k8s.io], resources: [noderesourcetopologies], verbs: [create, patch]";
    assert!(line.contains(rule), "{line}");
    cluster.admit(&agent, "job").await;
    cluster.admit(&agent, "other").await;
    let asked = cluster.api.asked();
    assert_eq!((with(&asked, "GET", "/api/v1/nodes/").len(), topologies(&asked).len()), (1, 1), "{asked:#?}");
    let metadata = &topologies(&asked)[0].body["metadata"];
    assert!(
        metadata["name"] == "gpu-7" && metadata["ownerReferences"].is_null(),
        "of which Node was not to be learned"
    );
    assert_eq!(cluster.kubelet.view().resource(GPU).allocatable(), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fails_is_asked_again_and_its_trouble_is_said_once() {
    for status in [429, 500] {
        let cluster = Cluster::new().await;
        cluster.api.answer("/", Answer::Status(status));
        let agent = cluster.agent("").await;
        agent.says(&format!("the API server cannot be told of host gpu-7: status {status}"));
        cluster.api.until(|asked| asked.len() == 3).await;
        cluster.api.answer("/", Answer::Take);
        agent.says_without("the API server answers again", "cannot be told");
        cluster.api.until(|asked| !topologies(asked).is_empty()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_no_node_is_not_told_of() {
    let cluster = Cluster::new().await;
    cluster.api.answer("/nodes/", Answer::Status(404));
    let agent = cluster.agent("").await;
    agent.says("there is no Node gpu-7");
    cluster.admit(&agent, "job").await;
    let asked = cluster.api.asked();
    assert_eq!(asked.len(), 1, "{asked:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_switched_off_is_not_asked_for() {
    let cluster = Cluster::new().await;
    let agent = cluster.agent("nodeResourceTopology: { enabled: false }").await;
    agent.answers("/metrics", 200, "oarlock_told_total{what=\"labels\",outcome=\"sent\"} 1");
    cluster.admit(&agent, "job").await;
    assert_eq!(with(&cluster.api.asked(), "GET", TOPOLOGY), Vec::<&Asked>::new());
    drop(agent);
    let cluster = Cluster::new().await;
    let agent = cluster.agent("nodeLabels: false").await;
    agent.answers("/metrics", 200, "oarlock_told_total{what=\"topology\",outcome=\"sent\"} 1");
    assert_eq!(with(&cluster.api.asked(), "PATCH", "/api/v1/nodes/"), Vec::<&Asked>::new());
    drop(agent);
    let cluster = Cluster::new().await;
    let agent = cluster.agent("enabled: false").await;
    cluster.admit(&agent, "job").await;
    assert_eq!(cluster.api.asked(), []);
}
