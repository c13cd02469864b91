//! What a real API server lets the agent of a host write, with the chart's rights and the token of a pod on that host; and
//! that the agent, as a process, writes just that.

use std::fs;
use std::process::{Child, Command, Stdio};

use escargot::CargoBuild;
use oarlock_testkit::kubelet::Kubelet;
use oarlock_testkit::{SysDevice, SysTree};
use serde_json::{Value, json};

use crate::helm::Helm;
use crate::server::{Server, commands};

/// The agent, which ends with it.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As much of the definition as says what the objects look like.
fn definition() -> Value {
    let quantity = json!({"x-kubernetes-int-or-string": true});
    let text = json!({"type": "string"});
    let list = |items: Value| json!({"type": "array", "items": items});
    let object = |properties: Value| json!({"type": "object", "properties": properties});
    let attributes = list(object(json!({"name": text, "value": text})));
    let resources =
        list(object(json!({"name": text, "capacity": quantity, "allocatable": quantity, "available": quantity})));
    let costs = list(object(json!({"name": text, "value": {"type": "integer", "format": "int64"}})));
    let zones = list(object(json!({"name": text, "type": text, "costs": costs, "resources": resources})));
    let schema = object(json!({"zones": zones, "attributes": attributes}));
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "noderesourcetopologies.topology.node.k8s.io",
            // The server asks for it where a group ends in k8s.io.
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes/enhancements/pull/1870"},
        },
        "spec": {
            "group": "topology.node.k8s.io",
            "scope": "Cluster",
            "names": {"plural": "noderesourcetopologies", "kind": "NodeResourceTopology"},
            "versions": [{
                "name": "v1alpha2", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
            }],
        },
    })
}

fn pod(name: &str, host: &str) -> Value {
    let spec = json!({
        "nodeName": host, "serviceAccountName": "oarlock", "containers": [{"name": "c", "image": "i"}],
    });
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "oarlock"}, "spec": spec})
}

impl Server {
    fn create(&self, objects: &[Value]) {
        let text: Vec<String> = objects.iter().map(ToString::to_string).collect();
        fs::write(self.path("objects"), text.join("\n---\n")).unwrap();
        self.done(&format!("kubectl create -f {}", self.path("objects").display()));
    }

    fn get(&self, what: &str) -> Value {
        serde_json::from_str(&self.done(&format!("kubectl get {what} --output json"))).unwrap()
    }

    /// Writes a kubeconfig file with the token that kubelet would give to a pod of the agent's.
    fn lend_token(&self, pod: &str) {
        let uid = self.get(&format!("pod {pod} --namespace oarlock"))["metadata"]["uid"].clone();
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid});
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound},
        });
        fs::write(self.path("request"), request.to_string()).unwrap();
        let path = "/api/v1/namespaces/oarlock/serviceaccounts/oarlock/token";
        let answer = self.done(&format!("kubectl create --raw {path} -f {}", self.path("request").display()));
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let mut config: Value = serde_json::from_slice(&fs::read(self.path("kubeconfig")).unwrap()).unwrap();
        config["users"][0]["user"]["token"] = answer["status"]["token"].clone();
        fs::write(self.path("agents"), config.to_string()).unwrap();
    }

    /// Why the agent may not do something; empty where it may.
    fn refusal(&self, words: &str) -> String {
        let output = self.call(&format!("kubectl --kubeconfig {} {words}", self.path("agents").display()));
        if output.status.success() { String::new() } else { String::from_utf8(output.stderr).unwrap() }
    }
}

/// What is written on one host, and who may: nothing is refused that the agent does, and all else is.
fn refuses_what_is_not_the_agents(server: &Server) {
    let own = "an agent of Oarlock writes of its own host alone";
    let spec = "an agent of Oarlock writes labels of its Node and an annotation of its pods alone";
    let labels = "an agent of Oarlock writes no labels but oarlock.dev/ of its Node";
    let annotation = "an agent of Oarlock writes no annotation but oarlock.dev/placement of its pods";
    let patch = |what: &str, patch: Value| format!("patch {what} --type merge --patch '{patch}'");
    let label = |key: &str, value: Value| json!({"metadata": {"labels": {key: value}}});
    let annotate = |key: &str| json!({"metadata": {"annotations": {key: "{}"}}});
    let (mine, yours) = ("pod mine --namespace oarlock", "pod yours --namespace oarlock");
    for (words, refusal) in [
        (patch("node gpu-7", label("oarlock.dev/gpus", json!("4"))), ""),
        (patch("node gpu-8", label("oarlock.dev/gpus", json!("4"))), own),
        (patch("node gpu-7", label("topology.kubernetes.io/zone", json!("a"))), labels),
        (patch("node gpu-7", label("pool", json!("b"))), labels),
        (patch("node gpu-7", label("pool", Value::Null)), labels),
        (patch("node gpu-7", annotate("oarlock.dev/placement")), annotation),
        (patch("node gpu-7", json!({"spec": {"unschedulable": true}})), spec),
        (patch("node gpu-7", json!({"metadata": {"finalizers": ["a.example/b"]}})), spec),
        (patch(mine, annotate("oarlock.dev/placement")), ""),
        (patch(yours, annotate("oarlock.dev/placement")), own),
        (patch(mine, annotate("oarlock.dev/cpu-map")), annotation),
        (patch(mine, label("oarlock.dev/gpus", json!("4"))), labels),
        (patch(mine, json!({"spec": {"containers": [{"name": "c", "image": "mine"}]}})), spec),
    ] {
        let said = server.refusal(&words);
        assert!(if refusal.is_empty() { said.is_empty() } else { said.contains(refusal) }, "{words}: {said}");
    }
    for (host, refusal) in [("gpu-7", ""), ("gpu-8", own)] {
        let object = json!({
            "apiVersion": "topology.node.k8s.io/v1alpha2", "kind": "NodeResourceTopology",
            "metadata": {"name": host}, "zones": [],
        });
        fs::write(server.path("zones"), object.to_string()).unwrap();
        let said = server.refusal(&format!("create -f {}", server.path("zones").display()));
        assert!(if refusal.is_empty() { said.is_empty() } else { said.contains(refusal) }, "{host}: {said}");
    }
}

#[test]
fn a_real_server_lets_the_agent_write_of_its_own_host_and_so_it_does() {
    let Some(helm) = Helm::get() else { return };
    let Some(server) = Server::start(&helm) else { return };
    let node =
        |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"pool": "a"}}});
    server.create(&[definition(), node("gpu-7"), node("gpu-8")]);
    server.done("helm install oarlock charts/oarlock --namespace oarlock --create-namespace");
    server.create(&[pod("mine", "gpu-7"), pod("yours", "gpu-8")]);
    // Not the agent but kubectl looks at what it patches.
    server.done("kubectl create role looks --verb get --resource pods --namespace oarlock");
    server.done("kubectl create rolebinding looks --role looks --serviceaccount oarlock:oarlock --namespace oarlock");
    server.lend_token("mine");
    let foreign =
        "patch node gpu-8 --type merge --patch '{\"metadata\":{\"labels\":{\"pool\":\"b\"}}}' --dry-run=server";
    server.until("the policy is in force", |server| server.refusal(foreign).contains("of its own host alone"));
    refuses_what_is_not_the_agents(&server);
    let verbs = ["create", "patch", "get", "update", "delete"];
    let answers = verbs.map(|verb| server.lets_agents(&format!("{verb} noderesourcetopologies.topology.node.k8s.io")));
    assert_eq!(answers, ["yes", "yes", "no", "no", "no"]);
    server.done("kubectl delete noderesourcetopology gpu-7");
    server.done("kubectl label node gpu-7 oarlock.dev/gpus=9 --overwrite");

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _within = runtime.enter();
    let tree = SysTree::new(2, 1, 1, 4, 2)
        .device(SysDevice::gpu("0000:10:00.0").numa_node(1))
        .device(SysDevice::gpu("0000:11:00.0").numa_node(1));
    tree.write(&server.path("host")).unwrap();
    let kubelet = Kubelet::start(&server.path("kubelet"));
    let settings = "metricsAddress: 127.0.0.1:0\nnri: { enabled: false }\n\
        kubernetes: { hostInterval: 1s, nodeResourceTopology: { topologyManagerPolicy: single-numa-node } }\n";
    fs::write(server.path("settings"), settings).unwrap();
    let program = CargoBuild::new().package("oarlock-agent").bin("oarlock-agent").run().unwrap();
    let mut agent = Command::new(program.path());
    for (flag, file) in [
        ("config", "settings"),
        ("kubelet-root", "kubelet"),
        ("run-dir", "run"),
        ("host-root", "host"),
        ("nvml-library", "libnvidia-ml.so.1"),
    ] {
        agent.arg(format!("--{flag}")).arg(server.path(file));
    }
    agent.env("KUBECONFIG", server.path("agents")).env("NODE_NAME", "gpu-7").stdin(Stdio::null());
    agent.stderr(fs::File::create(server.path("said")).unwrap());
    let agent = Agent(agent.spawn().unwrap());

    let topology = "noderesourcetopology gpu-7";
    server.until("the object is there", |server| server.call(&format!("kubectl get {topology}")).status.success());
    let (node, topology) = (server.get("node gpu-7"), server.get(topology));
    let label = |key: &str| node["metadata"]["labels"][key].as_str().unwrap();
    assert_eq!((label("oarlock.dev/numa-nodes"), label("oarlock.dev/gpus")), ("2", "2"));
    assert_eq!((label("oarlock.dev/gpus-per-numa-node"), label("pool")), ("0-2", "a"));
    assert_eq!(topology["metadata"]["ownerReferences"][0]["uid"], node["metadata"]["uid"]);
    assert_eq!(topology["attributes"], json!([{"name": "topologyManagerPolicy", "value": "single-numa-node"}]));
    let cpu = json!({"name": "cpu", "capacity": "8", "allocatable": "8", "available": "8"});
    assert!(topology["zones"][1]["resources"].as_array().unwrap().contains(&cpu), "{topology:#}");

    // Another writes the object, as NFD's topology updater does: it is left alone from then on.
    fs::write(server.path("zones"), r#"{"zones":[{"name":"node-0","type":"Node","resources":[]}]}"#).unwrap();
    server.done(&format!(
        "kubectl patch noderesourcetopology gpu-7 --type merge --patch-file {}",
        server.path("zones").display()
    ));
    runtime.block_on(kubelet.admit("job", "main", &[("oarlock.dev/numa-node", 1)], None)).unwrap();
    server.until("the agent has tried", |server| {
        fs::read_to_string(server.path("said")).unwrap_or_default().contains("is another's, and left alone")
    });
    assert_eq!(server.get("noderesourcetopology gpu-7")["zones"].as_array().unwrap().len(), 1);

    // What the document has for after the removal.
    drop(agent);
    let documented =
        commands("docs/operations.md", &["kubectl get nodes", "kubectl label nodes", "kubectl delete node"]);
    assert_eq!(documented.len(), 3, "{documented:?}");
    for command in documented {
        server.done(&command);
    }
    assert_eq!(server.get("node gpu-7")["metadata"]["labels"], json!({"pool": "a"}));
    assert_eq!(server.get("noderesourcetopologies")["items"], json!([]));
}
