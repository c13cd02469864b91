//! Helm, and what it makes of the chart.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Capabilities of the cluster that the chart is rendered for.
const POLICY_API: &str = "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy";

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// A folder of the programs `helm` and `kubectl`.
pub(crate) struct Helm {
    pub(crate) programs: PathBuf,
}

impl Helm {
    /// Where the network gives no helm, there is nothing to test, and it is said.
    pub(crate) fn get() -> Option<Self> {
        let output = Command::new(env!("CARGO_BIN_EXE_xtask")).arg("tools").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        if output.status.success() {
            return Some(Self { programs: String::from_utf8(output.stdout).unwrap().trim().into() });
        }
        assert!(said.contains("helm and kubectl cannot be fetched"), "{said}");
        eprintln!("skipped: {said}");
        None
    }

    /// Helm, run in the repository's root.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        Command::new(self.programs.join("helm")).args(arguments).current_dir(root()).output().unwrap()
    }

    /// What the chart renders to with values in the form of `--set-json`, on a cluster of this version.
    pub(crate) fn render_for(&self, version: &str, values: &[&str]) -> Result<Vec<Value>, String> {
        let mut arguments = vec!["template", "oarlock", "charts/oarlock", "--namespace", "oarlock"];
        arguments.extend(["--kube-version", version]);
        // From 1.30 on.
        if !version.starts_with("1.2") {
            arguments.extend(["--api-versions", POLICY_API]);
        }
        for value in values {
            arguments.extend(["--set-json", value]);
        }
        let output = self.run(&arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        if !output.status.success() {
            return Err(said);
        }
        Ok(documents(&String::from_utf8(output.stdout).unwrap()))
    }

    /// The same on a cluster of today.
    pub(crate) fn render(&self, values: &[&str]) -> Result<Vec<Value>, String> {
        self.render_for("1.34.0", values)
    }
}

/// The documents of a text of YAML that say something.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// The one object of a kind.
pub(crate) fn the<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found: Vec<&Value> = objects.iter().filter(|object| object["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind} in {:?}", kinds(objects));
    found[0]
}

/// The object of a kind that has the chart's own name.
pub(crate) fn main<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == "oarlock").unwrap()
}

/// The kinds of objects, in order.
pub(crate) fn kinds(objects: &[Value]) -> Vec<&str> {
    objects.iter().map(|object| object["kind"].as_str().unwrap()).collect()
}

/// The specification of the agent's pods.
pub(crate) fn pod(objects: &[Value]) -> &Value {
    the(objects, "DaemonSet").pointer("/spec/template/spec").unwrap()
}
