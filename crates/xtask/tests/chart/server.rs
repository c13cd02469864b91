//! The chart before a real API server, where `$OARLOCK_K8S_BIN` names a folder with `kube-apiserver` and `etcd`. There is
//! no kubelet and no controller: what is tried is what the server itself decides.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use oarlock_core::Request;
use serde_json::json;

use crate::api_server::ApiServer;
use crate::helm::{Helm, root};

/// An API server, and what speaks to it.
pub(crate) struct Server {
    server: ApiServer,
    programs: PathBuf,
}

impl Server {
    /// Where there is none to be started, it is said.
    pub(crate) fn start(helm: &Helm) -> Option<Self> {
        let Some(binaries) = env::var_os("OARLOCK_K8S_BIN").map(PathBuf::from) else {
            eprintln!("skipped: $OARLOCK_K8S_BIN names no folder with a kube-apiserver and an etcd");
            return None;
        };
        for program in ["kube-apiserver", "etcd"] {
            if !binaries.join(program).is_file() {
                eprintln!("skipped: $OARLOCK_K8S_BIN holds no {program}");
                return None;
            }
        }
        let server = Self { server: ApiServer::start(&binaries, "").unwrap(), programs: helm.programs.clone() };
        server.until("the server is ready", |server| server.call("kubectl get --raw /readyz").status.success());
        // The controller that makes it is not there.
        let account = server.call("kubectl create serviceaccount default --namespace default");
        assert!(account.status.success(), "{account:?}");
        Some(server)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.server.path(name)
    }

    /// Waits until something is so, which takes a busy machine a while.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is_so(self) {
            let logs = ["etcd", "kube-apiserver"].map(|name| self.server.said(name));
            assert!(began.elapsed() < Duration::from_secs(180), "{what}: not within 3 minutes\n{}", logs.join("\n"));
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Runs a command as a shell would in the repository's root, with helm, kubectl and this cluster.
    pub(crate) fn call(&self, words: &str) -> Output {
        let path = format!("{}:{}", self.programs.display(), env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell.args(["-c", words]).current_dir(root()).env("PATH", path).env("KUBECONFIG", self.path("kubeconfig"));
        // What helm and kubectl keep for themselves.
        shell.env("HOME", self.path("")).output().unwrap()
    }

    /// The same, where it has to succeed.
    pub(crate) fn done(&self, words: &str) -> String {
        let output = self.call(words);
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Whether an agent may do something, anywhere: `yes` or `no`.
    pub(crate) fn lets_agents(&self, what: &str) -> String {
        let who = "--as system:serviceaccount:oarlock:oarlock --all-namespaces";
        String::from_utf8(self.call(&format!("kubectl auth can-i {what} {who}")).stdout).unwrap().trim().to_owned()
    }

    /// Submits a pod with these annotations, as a trial, and gives what the server has against it.
    fn submit(&self, annotations: &[(&str, &str)]) -> Option<String> {
        let annotations: serde_json::Map<_, _> =
            annotations.iter().map(|(key, value)| (format!("oarlock.dev/{key}"), json!(value))).collect();
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p", "namespace": "default", "annotations": annotations},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        });
        fs::write(self.path("pod.json"), pod.to_string()).unwrap();
        let output = self.call(&format!("kubectl create --dry-run=server -f {}", self.path("pod.json").display()));
        let said = String::from_utf8(output.stderr).unwrap();
        (!output.status.success()).then_some(said)
    }
}

/// The commands of a document's consoles that begin with one of these programs.
pub(crate) fn commands(document: &str, programs: &[&str]) -> Vec<String> {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("$ "));
    lines.filter(|line| programs.iter().any(|program| line.starts_with(program))).map(str::to_owned).collect()
}

#[test]
fn a_real_server_takes_the_chart_and_refuses_with_the_planners_words() {
    let Some(helm) = Helm::get() else { return };
    let Some(server) = Server::start(&helm) else { return };
    // What a newcomer does, as the document has it. Without hosts there is nothing to wait for and nothing
    // to look into: those the scenario `cluster` does.
    let documented = commands("docs/operations.md", &["helm ", "kubectl "]);
    let (run, left): (Vec<_>, Vec<_>) = documented
        .iter()
        .partition(|command| !["rollout", " exec ", " logs "].iter().any(|words| command.contains(words)));
    assert!(run.len() >= 6 && left.len() >= 3, "{documented:?}");
    let has = |program: &str, verb: &str| run.iter().any(|command| command.starts_with(&format!("{program} {verb}")));
    assert!(has("helm", "install") && has("helm", "upgrade") && has("helm", "uninstall"), "{run:?}");

    server.done(run[0]);
    server.until("the policy is in force", |server| server.submit(&[("cpu-map", "nonsense")]).is_some());
    for (key, value) in crate::admission::BAD {
        let refusal = Request::from_annotations([(&*format!("oarlock.dev/{key}"), value)]).unwrap_err().to_string();
        let said = server.submit(&[("cpu-map", "auto"), ("mem-map", "auto"), ("ranks", "8"), (key, value)]);
        assert!(said.as_ref().is_some_and(|said| said.contains(&refusal)), "{refusal}\n{said:?}");
    }
    for annotations in crate::admission::GOOD {
        assert_eq!(server.submit(annotations), None, "{annotations:?}");
    }
    for name in ["oarlock", "oarlock-own-host"] {
        let words =
            format!("kubectl get validatingadmissionpolicy {name} --output jsonpath='{{.status.typeChecking}}'");
        let policy = server.done(&words);
        assert!(!policy.contains("warning"), "{policy}");
    }
    for (verb, answer) in [
        ("create events.events.k8s.io", "yes"),
        ("patch pods", "yes"),
        ("update pods", "no"),
        ("get pods", "no"),
        ("delete pods", "no"),
        ("get secrets", "no"),
        ("get nodes", "yes"),
        ("patch nodes", "yes"),
        ("create nodes", "no"),
        ("list nodes", "no"),
        ("delete nodes", "no"),
        ("patch nodes --subresource status", "no"),
        ("patch pods --subresource ephemeralcontainers", "no"),
    ] {
        assert_eq!(server.lets_agents(verb), answer, "{verb}");
    }
    for command in
        run.iter().filter(|command| command.starts_with("helm upgrade") || command.starts_with("helm uninstall"))
    {
        // No controller is there to wait for.
        server.done(command.trim_end_matches(" --wait"));
    }
    let left = server
        .done("kubectl get daemonset,configmap,clusterrole,validatingadmissionpolicy --all-namespaces --output name");
    assert!(!left.lines().any(|name| name.ends_with("/oarlock")), "{left}");

    // The same without helm, in a namespace of the same name that is there already.
    server.done("kubectl delete namespace oarlock --wait=false");
    server.done("kubectl create namespace elsewhere");
    server.done(
        "sed 's/namespace: oarlock$/namespace: elsewhere/' manifests/oarlock.yaml | kubectl apply --server-side -f -",
    );
    server.done("kubectl label namespace elsewhere pod-security.kubernetes.io/enforce=restricted");
    let refused = server.call("helm install again charts/oarlock --namespace elsewhere");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && said.contains("namespace elsewhere enforces Pod Security \"restricted\""),
        "{said}"
    );
}
