//! Values that are refused, and how.

use crate::helm::Helm;

#[test]
fn values_of_the_wrong_type_and_misspelt_keys_are_refused_by_their_name() {
    let Some(helm) = Helm::get() else { return };
    for (value, words) in [
        ("imagee.tag=\"1\"", "'imagee' not allowed"),
        ("config.gpu.moode=\"own\"", "'moode' not allowed"),
        ("config.gpu.mode=\"ours\"", "at '/config/gpu/mode': value must be one of 'observe', 'own', 'auto'"),
        ("config.hostRoot=\"/host\"", "'hostRoot' not allowed"),
        ("config.kubeletRoot=\"var/lib/kubelet\"", "at '/config/kubeletRoot'"),
        ("config.kubeletRoot=\"/var/lib/kubelet/\"", "at '/config/kubeletRoot'"),
        ("config.nri.socket=\"/nri.sock\"", "at '/config/nri/socket'"),
        ("config.nri.index=\"9\"", "at '/config/nri/index'"),
        ("config.nri.index=90", "at '/config/nri/index': got number, want string"),
        ("config.reservedCpus=\"0-\"", "at '/config/reservedCpus'"),
        ("config.numaNode.slotsPerNode=0", "at '/config/numaNode/slotsPerNode': minimum: got 0, want 1"),
        ("config.health.ignoredXids=[\"79\"]", "at '/config/health/ignoredXids/0'"),
        ("config.gpu.deviceListStrategy=[]", "at '/config/gpu/deviceListStrategy'"),
        ("config.gpu.numaNodes={\"0000:07:00.0\":\"1\"}", "at '/config/gpu/numaNodes"),
        (
            "config.kubernetes.nodeResourceTopology.topologyManagerPolicy=\"strict\"",
            "/topologyManagerPolicy': value must be one of",
        ),
        ("execEvents=\"yes\"", "at '/execEvents': got string, want boolean"),
        ("metrics.port=70000", "at '/metrics/port'"),
        ("image.digest=\"sha256:12\"", "at '/image/digest'"),
        ("admissionPolicy.actions=[\"Refuse\"]", "at '/admissionPolicy/actions/0'"),
        ("updateStrategy.maxUnavailable=\"a few\"", "at '/updateStrategy/maxUnavailable'"),
        ("hook.runtime=\"podman\"", "at '/hook/runtime': value must be one of 'crio', 'containerd'"),
        ("hook.binDir=\"bin\"", "at '/hook/binDir'"),
        ("hook.hooksDir=\"/\"", "at '/hook/hooksDir'"),
        ("tolerations=\"all\"", "at '/tolerations': got string, want array"),
    ] {
        let refusal = helm.render(&[value]).expect_err(value);
        assert!(refusal.contains(words), "{value}: {refusal}");
    }
}

#[test]
fn values_that_do_not_go_together_are_refused_with_the_way_out() {
    let Some(helm) = Helm::get() else { return };
    let policy = "networkPolicy.enabled=true";
    let monitor = "podMonitor.enabled=true";
    let hook = "hook.enabled=true";
    for (values, words) in [
        (&[policy][..], "networkPolicy.enabled is true beside execEvents"),
        (&[monitor, "metrics.address=\"127.0.0.1\""], "metrics.address is 127.0.0.1 beside podMonitor.enabled"),
        (&["runtimeClass.enabled=true", "runtimeClassName=\"oarlock\""], "runtimeClassName is oarlock, the name of"),
        (&[hook, "config.runDir=\"/run/numa\""], "config.runDir is /run/numa beside hook.runtime containerd"),
    ] {
        let refusal = helm.render(values).expect_err(words);
        assert!(refusal.contains(words), "{refusal}");
    }
    for values in [
        &[policy, "execEvents=false"][..],
        &[monitor],
        &[monitor, "metrics.address=\"::\""],
        &["runtimeClass.enabled=true", "runtimeClassName=\"nvidia\""],
        &[hook, "hook.runtime=\"crio\"", "config.runDir=\"/run/numa\""],
        &["config.runDir=\"/run/numa\""],
    ] {
        helm.render(values).unwrap();
    }
}

#[test]
fn a_cluster_older_than_nri_is_refused() {
    let Some(helm) = Helm::get() else { return };
    let refusal = helm.render_for("1.25.0", &[]).unwrap_err();
    assert!(refusal.contains(">=1.26.0-0") && refusal.contains("1.25.0"), "{refusal}");
}

#[test]
fn the_chart_is_clean_and_makes_a_package() {
    let Some(helm) = Helm::get() else { return };
    let output = helm.run(&["lint", "--strict", "charts/oarlock"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let folder = tempfile::tempdir().unwrap();
    let output = helm.run(&["package", "charts/oarlock", "--destination", folder.path().to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(folder.path().join(format!("oarlock-{}.tgz", env!("CARGO_PKG_VERSION"))).is_file());
}
