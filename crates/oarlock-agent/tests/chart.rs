//! The chart's settings, before the agent that takes them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// What the chart decides by itself.
const OTHERWISE: [&str; 1] = ["/gpu/mode"];
/// What is no value of the chart.
const NO_VALUES: [&str; 3] = ["/hostRoot", "/kubernetes/hostName", "/metricsAddress"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn documents(path: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&fs::read_to_string(root().join(path)).unwrap()).unwrap()
}

/// The agent's settings in effect with a file.
fn settings(file: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    fs::write(&path, file).unwrap();
    let mut agent = assert_cmd::Command::cargo_bin("oarlock-agent").unwrap();
    agent.arg("--config").arg(&path).arg("--print-config").env_remove("NODE_NAME").env_remove("OARLOCK_NVML_LIBRARY");
    let output = agent.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_saphyr::from_str(&String::from_utf8(output.stdout).unwrap()).unwrap()
}

fn leaves(value: &Value, path: &str, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                leaves(value, &format!("{path}/{key}"), found);
            }
        }
        _ => found.push((path.to_owned(), value.clone())),
    }
}

#[test]
fn the_charts_settings_are_all_of_the_agents_and_its_defaults_but_for_who_gives_gpus() {
    let objects = documents("manifests/oarlock.yaml");
    let config = objects.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
    let charts = settings(config["data"]["config.yaml"].as_str().unwrap());
    let values = documents("charts/oarlock/values.yaml").remove(0);
    let mut all = Vec::new();
    leaves(&settings(""), "", &mut all);
    assert!(all.len() > 20, "{all:?}");
    for (path, default) in all {
        let set = charts.pointer(&path).unwrap();
        assert_eq!(*set == default, !OTHERWISE.contains(&path.as_str()), "{path} is {set}");
        assert_eq!(values["config"].pointer(&path).is_none(), NO_VALUES.contains(&path.as_str()), "{path}");
    }
}
