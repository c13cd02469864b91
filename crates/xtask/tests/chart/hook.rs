//! The init container that puts the OCI hook on a host.

use serde_json::{Value, json};

use crate::helm::{Helm, pod};

const VALUES: [&str; 3] = ["hook.enabled=true", "hook.binDir=\"/opt/bin\"", "hook.hooksDir=\"/etc/hooks.d\""];

/// The init container with these values, and more.
fn installer(helm: &Helm, more: &[&str]) -> (Value, Value) {
    let objects = helm.render(&[&VALUES[..], more].concat()).unwrap();
    let pod = pod(&objects);
    assert_eq!(pod["initContainers"].as_array().unwrap().len(), 1);
    (pod["initContainers"][0].clone(), pod["volumes"].clone())
}

/// Host folders by where the container has them, with how.
fn mounted(container: &Value, volumes: &Value) -> Value {
    let folder = |mount: &Value| {
        let volume = volumes.as_array().unwrap().iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        (mount["mountPath"].as_str().unwrap().to_owned(), volume["hostPath"].clone())
    };
    container["volumeMounts"].as_array().unwrap().iter().map(folder).collect::<serde_json::Map<_, _>>().into()
}

#[test]
fn crio_gets_hook_files_that_name_the_program_and_the_agents_folder() {
    let Some(helm) = Helm::get() else { return };
    let (container, volumes) = installer(&helm, &["hook.runtime=\"crio\"", "config.runDir=\"/run/numa\""]);
    assert_eq!(container["command"], json!(["oarlock-hook"]));
    let arguments = [
        "install",
        "--runtime=crio",
        "--root=/host",
        "--copy-to=/opt/bin",
        "--bin-dir=/opt/bin",
        "--hooks-dir=/etc/hooks.d",
        "--run-dir=/run/numa",
    ];
    assert_eq!(container["args"], json!(arguments));
    let expected = json!({
        "/host/opt/bin": {"path": "/opt/bin", "type": "DirectoryOrCreate"},
        "/host/etc/hooks.d": {"path": "/etc/hooks.d", "type": "DirectoryOrCreate"},
    });
    assert_eq!(mounted(&container, &volumes), expected);
}

#[test]
fn containerd_gets_a_runtime_and_no_hook_files() {
    let Some(helm) = Helm::get() else { return };
    let (container, volumes) = installer(&helm, &[]);
    let arguments = ["install", "--runtime=containerd", "--root=/host", "--copy-to=/opt/bin", "--bin-dir=/opt/bin"];
    assert_eq!(container["args"], json!(arguments));
    let expected = json!({"/host/opt/bin": {"path": "/opt/bin", "type": "DirectoryOrCreate"}});
    assert_eq!(mounted(&container, &volumes), expected);
    assert!(!volumes.to_string().contains("hooks.d"), "{volumes}");
}

#[test]
fn it_is_root_without_a_capability_and_the_agent_sees_nothing_of_its_folders() {
    let Some(helm) = Helm::get() else { return };
    let (container, _) = installer(&helm, &[]);
    let context = &container["securityContext"];
    assert_eq!(context["runAsUser"], 0);
    assert_eq!(context["privileged"], false);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    let (with, without) = (helm.render(&VALUES).unwrap(), helm.render(&[]).unwrap());
    assert_eq!(pod(&with)["containers"], pod(&without)["containers"]);
    assert_eq!(pod(&without).get("initContainers"), None);
    assert!(!pod(&without)["volumes"].to_string().contains("hook"), "{}", pod(&without)["volumes"]);
}
