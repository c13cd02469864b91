//! The bill of materials, in the form of `CycloneDX` 1.5: every crate that is linked into the programs, with its checksum.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::build::cargo;
use crate::{command, workspace};

/// The bill of what these packages link.
pub(super) fn of(packages: &[&str]) -> Result<String> {
    let printed = command::capture(cargo().args(["metadata", "--format-version=1", "--locked", "--offline"]))?;
    let metadata: Value = serde_json::from_str(&printed).context("cargo metadata printed no JSON")?;
    let lock = fs::read_to_string(workspace().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let lock: toml::Value = toml::from_str(&lock).context("Cargo.lock is no TOML")?;
    bill(packages, &metadata, &checksums(&lock)).map(|bill| format!("{bill:#}\n"))
}

/// The checksums in a lock file, by name and version.
fn checksums(lock: &toml::Value) -> BTreeMap<(String, String), String> {
    let text = |package: &toml::Value, key: &str| package.get(key)?.as_str().map(str::to_owned);
    let packages = lock.get("package").and_then(toml::Value::as_array).into_iter().flatten();
    packages
        .filter_map(|package| Some(((text(package, "name")?, text(package, "version")?), text(package, "checksum")?)))
        .collect()
}

fn bill(packages: &[&str], metadata: &Value, checksums: &BTreeMap<(String, String), String>) -> Result<Value> {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let all = list(metadata, "packages");
    let by_id: BTreeMap<String, &Value> = all.iter().map(|package| (text(package, "id"), package)).collect();
    let nodes = list(&metadata["resolve"], "nodes");
    let nodes: BTreeMap<String, &Value> = nodes.iter().map(|node| (text(node, "id"), node)).collect();
    let mut waiting: Vec<String> = all
        .iter()
        .filter(|package| package["source"].is_null() && packages.contains(&&*text(package, "name")))
        .map(|package| text(package, "id"))
        .collect();
    anyhow::ensure!(waiting.len() == packages.len(), "cargo metadata does not list all of {}", packages.join(", "));
    let mut linked = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !linked.insert(id.clone()) {
            continue;
        }
        for dependency in nodes.get(&id).map(|node| list(node, "deps")).unwrap_or_default() {
            // What only builds and tests take is not given away.
            if list(&dependency, "dep_kinds").iter().any(|kind| kind["kind"].is_null()) {
                waiting.push(text(&dependency, "pkg"));
            }
        }
    }
    let components: Vec<Value> = linked
        .iter()
        .filter_map(|id| by_id.get(id))
        .map(|package| {
            let (name, version) = (text(package, "name"), text(package, "version"));
            let mut component = json!({
                "type": "library",
                "bom-ref": format!("pkg:cargo/{name}@{version}"),
                "purl": format!("pkg:cargo/{name}@{version}"),
                "name": name,
                "version": version,
                "licenses": [{"expression": text(package, "license").replace('/', " OR ")}],
            });
            if let Some(checksum) = checksums.get(&(name, version)) {
                component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
            }
            component
        })
        .collect();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "oarlock", "version": env!("CARGO_PKG_VERSION")}},
        "components": components,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_listed_with_its_checksum_and_what_only_builds_is_not() {
        let package = |name: &str, source: Value| json!({"id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0", "source": source});
        let dep = |name: &str, kind: Value| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [
                package("ours", json!(null)),
                package("linked", json!("registry")),
                package("below", json!("registry")),
                package("tests", json!("registry")),
                package("builds", json!("registry")),
            ],
            "resolve": {"nodes": [
                {"id": "ours", "deps": [dep("linked", json!(null)), dep("tests", json!("dev")), dep("builds", json!("build"))]},
                {"id": "linked", "deps": [dep("below", json!(null)), dep("ours", json!("dev"))]},
                {"id": "below", "deps": []},
                {"id": "tests", "deps": []},
                {"id": "builds", "deps": []},
            ]},
        });
        let checksums = BTreeMap::from([(("below".to_owned(), "1.0.0".to_owned()), "0f".repeat(32))]);
        let bill = bill(&["ours"], &metadata, &checksums).unwrap();
        let names: Vec<&Value> = bill["components"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
        assert_eq!(names, ["below", "linked", "ours"]);
        assert_eq!(bill["components"][0]["hashes"][0]["content"], "0f".repeat(32));
        assert_eq!(bill["components"][0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert!(super::bill(&["nobody"], &metadata, &checksums).is_err());
    }
}
