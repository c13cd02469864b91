//! The objects that the chart makes, and those that it makes only where it is told to.

use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::helm::{Helm, kinds, pod, the};

/// What the defaults make.
const DEFAULTS: [&str; 9] = [
    "ClusterRole",
    "ClusterRoleBinding",
    "ConfigMap",
    "DaemonSet",
    "ServiceAccount",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingAdmissionPolicyBinding",
];

fn sorted(objects: &[Value]) -> Vec<&str> {
    let mut kinds = kinds(objects);
    kinds.sort_unstable();
    kinds
}

/// What Kubernetes' own type keeps of an object.
fn kept<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
    let typed: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error} in {object:#}"));
    serde_json::to_value(typed).unwrap()
}

/// The places in `all` that `kept` lacks or has otherwise.
fn lost(all: &Value, kept: &Value, path: &str) -> Vec<String> {
    match (all, kept) {
        (Value::Object(all), Value::Object(kept)) => all
            .iter()
            .flat_map(|(key, value)| lost(value, kept.get(key).unwrap_or(&Value::Null), &format!("{path}/{key}")))
            .collect(),
        (Value::Array(all), Value::Array(kept)) if all.len() == kept.len() => {
            all.iter().zip(kept).enumerate().flat_map(|(i, (a, k))| lost(a, k, &format!("{path}/{i}"))).collect()
        }
        // An empty list is as good as none.
        (Value::Array(all), Value::Null) if all.is_empty() => vec![],
        _ if all == kept => vec![],
        _ => vec![path.to_owned()],
    }
}

#[test]
fn every_field_is_one_that_kubernetes_knows() {
    let Some(helm) = Helm::get() else { return };
    for values in [
        &[][..],
        &["networkPolicy.enabled=true", "execEvents=false", "networkPolicy.from=[{\"podSelector\":{}}]"],
        &["runtimeClass.enabled=true", "image.pullSecrets=[\"one\"]", "affinity={\"nodeAffinity\":{}}"],
        &["hook.enabled=true", "hook.runtime=\"crio\""],
        &["retire=true", "hook.enabled=true"],
        &["runtimeClassName=\"nvidia\"", "podLabels={\"a\":\"b\"}", "podAnnotations={\"a\":\"b\"}"],
        &["serviceAccount.annotations={\"a\":\"b\"}", "updateStrategy.maxUnavailable=\"10%\""],
    ] {
        for object in helm.render(values).unwrap() {
            let kept = match object["kind"].as_str().unwrap() {
                "ClusterRole" => kept::<ClusterRole>(&object),
                "ClusterRoleBinding" => kept::<ClusterRoleBinding>(&object),
                "ConfigMap" => kept::<ConfigMap>(&object),
                "DaemonSet" => kept::<DaemonSet>(&object),
                "NetworkPolicy" => kept::<NetworkPolicy>(&object),
                "RuntimeClass" => kept::<RuntimeClass>(&object),
                "ServiceAccount" => kept::<ServiceAccount>(&object),
                "ValidatingAdmissionPolicy" => kept::<ValidatingAdmissionPolicy>(&object),
                "ValidatingAdmissionPolicyBinding" => kept::<ValidatingAdmissionPolicyBinding>(&object),
                kind => panic!("{kind} is compared with nothing"),
            };
            assert_eq!(lost(&object, &kept, ""), Vec::<String>::new(), "{}", object["kind"]);
        }
    }
}

#[test]
fn a_field_that_kubernetes_does_not_know_is_found_to_be_lost() {
    let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a", "lables": {}}});
    assert_eq!(lost(&object, &kept::<ServiceAccount>(&object), ""), ["/metadata/lables"]);
}

#[test]
fn what_is_off_is_not_there_and_what_is_on_is() {
    let Some(helm) = Helm::get() else { return };
    assert_eq!(sorted(&helm.render(&[]).unwrap()), DEFAULTS);
    let policy = ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"];
    let rights = ["ClusterRole", "ClusterRoleBinding", policy[0], policy[1]];
    for (value, gone) in [
        ("rbac.create=false", &rights[..]),
        ("config.kubernetes.enabled=false", &rights),
        ("rbac.ownHostOnly=false", &policy),
        ("serviceAccount.create=false", &["ServiceAccount"]),
        ("admissionPolicy.enabled=false", &policy),
    ] {
        let objects = helm.render(&[value]).unwrap();
        let mut expected = DEFAULTS.to_vec();
        for kind in gone {
            expected.remove(expected.iter().position(|left| left == kind).unwrap());
        }
        assert_eq!(sorted(&objects), expected, "{value}");
    }
    for (values, more) in [
        (&["runtimeClass.enabled=true"][..], "RuntimeClass"),
        (&["podMonitor.enabled=true"], "PodMonitor"),
        (&["networkPolicy.enabled=true", "execEvents=false"], "NetworkPolicy"),
    ] {
        let objects = helm.render(values).unwrap();
        let mut expected = [&DEFAULTS[..], &[more]].concat();
        expected.sort_unstable();
        assert_eq!(sorted(&objects), expected);
    }
}

#[test]
fn names_of_accounts_are_those_that_are_asked_for() {
    let Some(helm) = Helm::get() else { return };
    for (values, name) in [
        (&[][..], "oarlock"),
        (&["serviceAccount.name=\"mine\""], "mine"),
        (&["serviceAccount.name=\"mine\"", "serviceAccount.create=false"], "mine"),
        (&["serviceAccount.create=false"], "default"),
        (&["fullnameOverride=\"numa\""], "numa"),
        (&["nameOverride=\"numa\""], "oarlock-numa"),
    ] {
        let objects = helm.render(values).unwrap();
        assert_eq!(pod(&objects)["serviceAccountName"], name, "{values:?}");
        assert_eq!(the(&objects, "ClusterRoleBinding")["subjects"][0]["name"], name, "{values:?}");
    }
}

#[test]
fn an_image_is_named_by_its_digest_before_its_tag_and_by_the_charts_version_without_either() {
    let Some(helm) = Helm::get() else { return };
    let digest = format!("sha256:{}", "0f".repeat(32));
    let by_digest = format!("image.digest={}", json!(digest));
    for (values, image) in [
        (vec![], format!("oarlock/oarlock:{}", env!("CARGO_PKG_VERSION"))),
        (vec!["image.repository=\"r.example/o\"", "image.tag=\"7\""], "r.example/o:7".to_owned()),
        (vec!["image.tag=\"7\"", by_digest.as_str()], format!("oarlock/oarlock@{digest}")),
    ] {
        assert_eq!(pod(&helm.render(&values).unwrap())["containers"][0]["image"], image);
    }
}

#[test]
fn a_new_chart_alone_restarts_no_agent_and_a_new_setting_does() {
    let Some(helm) = Helm::get() else { return };
    let template = |values: &[&str]| the(&helm.render(values).unwrap(), "DaemonSet")["spec"]["template"].clone();
    let text = template(&[]).to_string();
    assert!(!text.contains("helm.sh/chart") && !text.contains("app.kubernetes.io/version"), "{text}");
    assert_eq!(template(&[]), template(&["admissionPolicy.enabled=false"]));
    for value in ["config.nri.index=\"10\"", "config.gpu.mode=\"own\"", "podMonitor.enabled=true"] {
        assert_ne!(template(&[])["metadata"]["annotations"], template(&[value])["metadata"]["annotations"], "{value}");
    }
}

#[test]
fn agents_that_retire_unpin_everything_with_an_agents_rights_and_place_nothing_on_all_hosts_at_once() {
    let Some(helm) = Helm::get() else { return };
    let objects = helm.render(&["retire=true", "hook.enabled=true"]).unwrap();
    let rolling = the(&objects, "DaemonSet").pointer("/spec/updateStrategy/rollingUpdate/maxUnavailable").unwrap();
    assert_eq!(rolling, "100%");
    let pod = pod(&objects);
    let [first] = &pod["initContainers"].as_array().unwrap()[..] else { panic!("{:#}", pod["initContainers"]) };
    assert_eq!(first["command"], json!(["oarlock", "unpin", "--all", "--run-dir=/run/oarlock"]));
    let agent = &pod["containers"][0];
    for same in ["image", "securityContext", "volumeMounts"] {
        assert_eq!(first[same], agent[same], "{same}");
    }
    let settings: Value =
        serde_saphyr::from_str(the(&objects, "ConfigMap")["data"]["config.yaml"].as_str().unwrap()).unwrap();
    assert_eq!(settings["nri"]["enabled"], false);
    assert_eq!(settings["nri"]["index"], "90", "what else is set stays so");
}

#[test]
fn on_clusters_older_than_app_armors_field_it_is_left_out() {
    let Some(helm) = Helm::get() else { return };
    for (version, there) in [("1.29.9", false), ("1.30.0", true), ("1.34.2-eks-1", true)] {
        let objects = helm.render_for(version, &[]).unwrap();
        let context = &pod(&objects)["containers"][0]["securityContext"];
        assert_eq!(context.get("appArmorProfile").is_some(), there, "{version}");
    }
}

#[test]
fn metrics_are_the_hosts_own_until_somebody_is_to_scrape_them() {
    let Some(helm) = Helm::get() else { return };
    for (values, address, probed) in [
        (&[][..], "127.0.0.1:9837", json!("127.0.0.1")),
        (&["podMonitor.enabled=true"], "0.0.0.0:9837", json!(null)),
        (&["execEvents=false"], "0.0.0.0:9837", json!(null)),
        (&["metrics.address=\"10.0.0.7\"", "metrics.port=80"], "10.0.0.7:80", json!("10.0.0.7")),
        (&["metrics.address=\"::\""], "[::]:9837", json!(null)),
        (&["metrics.address=\"::1\""], "[::1]:9837", json!("::1")),
    ] {
        let objects = helm.render(values).unwrap();
        let config = the(&objects, "ConfigMap")["data"]["config.yaml"].as_str().unwrap();
        assert!(
            config.contains(&format!("metricsAddress: {address}")) || config.contains(&format!("'{address}'")),
            "{config}"
        );
        let agent = &pod(&objects)["containers"][0];
        for probe in ["livenessProbe", "readinessProbe"] {
            assert_eq!(agent[probe]["httpGet"]["host"], probed, "{values:?}");
            assert_eq!(agent[probe]["httpGet"]["port"], "metrics");
        }
        assert_eq!(agent["ports"][0]["containerPort"].to_string(), address.rsplit(':').next().unwrap());
    }
}
