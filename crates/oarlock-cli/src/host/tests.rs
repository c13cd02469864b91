use super::*;

fn membership(unified: Option<&str>, legacy: &[&str]) -> Membership {
    Membership {
        unified: unified.map(str::to_owned),
        legacy: legacy.iter().map(|path| (vec!["cpuset".to_owned()], (*path).to_owned())).collect(),
    }
}

fn container(cgroup: Option<&str>) -> Container {
    let entry = serde_json::json!({
        "id": "4e2f", "name": "trainer", "pod": {"namespace": "ml", "name": "job", "uid": "1"}, "boot": "x",
        "source": "nri", "cgroup": cgroup,
        "ranks": {"cpu_map": "auto", "mem_map": "none", "mem_policy": "bind", "ranks": []},
        "container": {"cpus": "", "mems": ""},
    });
    Container { entry: serde_json::from_value(entry).unwrap(), members: Vec::new() }
}

#[test]
fn a_process_is_of_the_container_whose_cgroup_it_is_in_or_below() {
    let known = container(Some("/pods/cri-4e2f.scope"));
    for (path, inside) in [
        ("/pods/cri-4e2f.scope", true),
        ("/pods/cri-4e2f.scope/oarlock-rank-3", true),
        ("/pods/cri-4e2f.scope2", false),
        ("/pods", false),
        ("/other/pods/cri-4e2f.scope", false),
    ] {
        assert_eq!(known.holds(&membership(Some(path), &["/"])), inside, "{path}");
        assert_eq!(known.holds(&membership(None, &["/", path])), inside, "{path} of cgroup v1");
    }
}

#[test]
fn a_container_whose_cgroup_is_not_known_is_found_by_its_id_in_the_path() {
    let unknown = container(None);
    for (path, inside) in [
        ("/kubepods/pod7/4e2f", true),
        ("/kubepods.slice/cri-containerd-4e2f.scope/container", true),
        ("/kubepods.slice/cri-containerd-94e2f.scope", false),
        ("/kubepods.slice/4e2f.scope.d", false),
        ("/", false),
    ] {
        assert_eq!(unknown.holds(&membership(Some(path), &[])), inside, "{path}");
    }
}

#[test]
fn the_cgroup_above_is_the_containers_where_it_has_its_name() {
    let one = container(None);
    let cgroups = |path| one.cgroups(path).collect::<Vec<_>>();
    assert_eq!(
        cgroups("/pods/crio-4e2f.scope/container"),
        ["/pods/crio-4e2f.scope/container", "/pods/crio-4e2f.scope"]
    );
    assert_eq!(cgroups("/pods/crio-4e2f.scope"), ["/pods/crio-4e2f.scope"]);
}

#[test]
fn a_pod_has_a_namespace_and_a_name() {
    let expected = Which::Pod { namespace: "ml".to_owned(), name: "job-0".to_owned() };
    assert_eq!(pod("ml/job-0"), Ok(expected));
    for wrong in ["", "job", "/job", "ml/", "a/b/c"] {
        assert_eq!(pod(wrong), Err("a pod is NAMESPACE/NAME".to_owned()), "{wrong}");
    }
}
