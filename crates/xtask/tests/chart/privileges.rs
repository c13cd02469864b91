//! What the agent's pods may do on a host, and in the cluster.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::helm::{Helm, pod, root, the};

fn names<'a>(list: &'a Value, key: &str) -> BTreeSet<&'a str> {
    list.as_array().unwrap().iter().map(|item| item[key].as_str().unwrap()).collect()
}

#[test]
fn a_pod_is_not_privileged_writes_no_file_of_its_own_and_has_the_fewest_capabilities() {
    let Some(helm) = Helm::get() else { return };
    for (values, capabilities, network) in [
        (&[][..], json!(["DAC_READ_SEARCH", "SYS_PTRACE", "SYS_NICE", "NET_ADMIN"]), json!(true)),
        (&["execEvents=false"], json!(["DAC_READ_SEARCH", "SYS_PTRACE", "SYS_NICE"]), json!(null)),
    ] {
        let objects = helm.render(values).unwrap();
        let pod = pod(&objects);
        let context = &pod["containers"][0]["securityContext"];
        assert_eq!(context["privileged"], false);
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"], json!({"drop": ["ALL"], "add": capabilities}));
        assert_eq!(pod["hostNetwork"], network);
        assert_eq!(pod["hostPID"], true);
        assert_eq!(pod["hostIPC"], Value::Null);
    }
}

#[test]
fn every_privilege_says_which_system_call_takes_it() {
    let text = std::fs::read_to_string(root().join("charts/oarlock/templates/daemonset.yaml")).unwrap();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    for privilege in [
        "- DAC_READ_SEARCH",
        "- SYS_PTRACE",
        "- SYS_NICE",
        "- NET_ADMIN",
        "hostNetwork: true",
        "seccompProfile:",
        "appArmorProfile:",
    ] {
        let at = lines.iter().position(|line| *line == privilege).unwrap();
        let comment: String = lines[..at].iter().rev().take_while(|line| line.starts_with('#')).copied().collect();
        assert!(comment.contains("(2)"), "{privilege}: {comment:?}");
    }
}

#[test]
fn what_is_mounted_is_what_the_settings_name() {
    let Some(helm) = Helm::get() else { return };
    let objects = helm
        .render(&[
            "config.kubeletRoot=\"/data/kubelet\"",
            "config.runDir=\"/run/numa\"",
            "config.nri.socket=\"/run/other/nri.sock\"",
        ])
        .unwrap();
    let (pod, config) = (pod(&objects), &the(&objects, "ConfigMap")["data"]["config.yaml"]);
    let config: Value = serde_saphyr::from_str(config.as_str().unwrap()).unwrap();
    let text = |pointer: &str| config.pointer(pointer).unwrap().as_str().unwrap().to_owned();
    let socket = text("/nri/socket");
    let expected = BTreeSet::from([
        format!("{}/device-plugins", text("/kubeletRoot")),
        format!("{}/pod-resources", text("/kubeletRoot")),
        text("/runDir"),
        socket.rsplit_once('/').unwrap().0.to_owned(),
        "/sys/fs/cgroup".to_owned(),
    ]);
    let mounts = &pod["containers"][0]["volumeMounts"];
    let mut seen = BTreeSet::new();
    for volume in pod["volumes"].as_array().unwrap() {
        let Some(path) = volume.pointer("/hostPath/path").and_then(Value::as_str) else { continue };
        assert!(volume["hostPath"]["type"].is_string(), "{volume}");
        let mount = mounts.as_array().unwrap().iter().find(|mount| mount["name"] == volume["name"]).unwrap();
        assert_eq!(mount["mountPath"], path);
        seen.insert(path.to_owned());
    }
    assert_eq!(seen, expected);
    assert_eq!(names(mounts, "name"), names(&pod["volumes"], "name"));
}

#[test]
fn only_what_is_written_to_is_mounted_to_be_written() {
    let Some(helm) = Helm::get() else { return };
    let objects = helm.render(&[]).unwrap();
    let mounts = pod(&objects)["containers"][0]["volumeMounts"].as_array().unwrap();
    let written: Vec<&Value> =
        mounts.iter().filter(|mount| mount["readOnly"] != true).map(|mount| &mount["mountPath"]).collect();
    assert_eq!(written, ["/var/lib/kubelet/device-plugins", "/run/oarlock", "/sys/fs/cgroup"]);
}

#[test]
fn without_nri_its_folder_is_not_mounted() {
    let Some(helm) = Helm::get() else { return };
    let objects = helm.render(&["config.nri.enabled=false"]).unwrap();
    assert!(!pod(&objects).to_string().contains("/var/run/nri"));
}

#[test]
fn rights_in_the_cluster_are_those_that_the_settings_take_and_no_others() {
    let Some(helm) = Helm::get() else { return };
    let events = json!({"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]});
    let pods = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]});
    let nodes = |verbs: Value| json!({"apiGroups": [""], "resources": ["nodes"], "verbs": verbs});
    let labels = nodes(json!(["get", "patch"]));
    let topology = json!({
        "apiGroups": ["topology.node.k8s.io"], "resources": ["noderesourcetopologies"], "verbs": ["create", "patch"],
    });
    for (value, rules) in [
        ("logLevel=\"info\"", json!([events, pods, labels, topology])),
        ("config.kubernetes.events=false", json!([pods, labels, topology])),
        ("config.kubernetes.placementAnnotation=false", json!([events, labels, topology])),
        ("config.kubernetes.nodeLabels=false", json!([events, pods, nodes(json!(["get"])), topology])),
        ("config.kubernetes.nodeResourceTopology.enabled=false", json!([events, pods, labels])),
    ] {
        assert_eq!(the(&helm.render(&[value]).unwrap(), "ClusterRole")["rules"], rules, "{value}");
    }
    // Where no policy holds an agent to its own host.
    for (value, verbs) in
        [("rbac.ownHostOnly=true", json!(["get"])), ("rbac.ownHostOnly=false", json!(["get", "patch"]))]
    {
        let objects = helm.render_for("1.29.9", &[value]).unwrap();
        assert_eq!(the(&objects, "ClusterRole")["rules"][2], nodes(verbs), "{value}");
    }
    let none = ["events", "placementAnnotation", "nodeLabels", "nodeResourceTopology.enabled"];
    let none = none.map(|key| format!("config.kubernetes.{key}=false"));
    let objects = helm.render(&none.each_ref().map(String::as_str)).unwrap();
    assert!(!objects.iter().any(|object| object["kind"] == "ClusterRole"), "a role without rights");
    for (value, token) in [("logLevel=\"info\"", true), ("config.kubernetes.enabled=false", false)] {
        assert_eq!(pod(&helm.render(&[value]).unwrap())["automountServiceAccountToken"], token, "{value}");
    }
}
