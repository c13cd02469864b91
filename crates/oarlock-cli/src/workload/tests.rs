use super::*;
use oarlock_core::request::{CpuMap, MAX_RANKS, MemMap};

fn workload(yaml: &str) -> Workload {
    read("job.yaml", yaml.as_bytes()).unwrap_or_else(|error| panic!("{error:?}\n{yaml}"))
}

/// The one line that a person sees.
fn error(yaml: &str) -> String {
    match Failure::from(read("job.yaml", yaml.as_bytes()).expect_err(yaml)) {
        Failure::Failed(error) => format!("{error:#}"),
        Failure::Refused(refusal) => format!("refused: {refusal}"),
        other => panic!("{other:?}"),
    }
}

/// Source, container, replicas, ranks, GPUs: what differs between the kinds.
type Row = (String, String, Option<u32>, Option<u32>, u32);

/// The rows of a file, in order.
fn rows(yaml: &str) -> Vec<Row> {
    let row = |template: Template| {
        let gpus = match template.request.gpus {
            GpuChoice::Count(count) => count,
            GpuChoice::Some(none) if none.is_empty() => 0,
            other => panic!("{other:?}"),
        };
        (template.source, template.container, template.replicas, template.request.ranks, gpus)
    };
    workload(yaml).templates.into_iter().map(row).collect()
}

fn row(source: &str, container: &str, replicas: Option<u32>, ranks: Option<u32>, gpus: u32) -> Row {
    (source.to_owned(), container.to_owned(), replicas, ranks, gpus)
}

/// A pod template of one container, in flow style so that it fits any place.
const TEMPLATE: &str = "{metadata: {annotations: {oarlock.dev/cpu-map: auto, oarlock.dev/mem-map: auto}},
  spec: {containers: [{name: train, resources: {limits: {nvidia.com/gpu: 8, memory: 1Ti}}}]}}";

fn pod(annotations: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p, annotations: {{{annotations}}}}}\nspec: {{{spec}}}\n")
}

#[test]
fn a_pod_gives_its_annotations_its_gpus_and_its_memory_limit() {
    let workload = workload(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: train
  annotations:
    oarlock.dev/cpu-map: 0,0,1,1
    oarlock.dev/mem-map: numa
    oarlock.dev/ranks: "4"
    example.com/unrelated: anything
spec:
  containers:
  - name: main
    resources:
      limits: {nvidia.com/gpu: "4", memory: 1.5Gi, cpu: 64}
"#,
    );
    let [template] = workload.templates.as_slice() else { panic!("{workload:?}") };
    let expected = Request {
        cpu_map: CpuMap::parse("0,0,1,1").unwrap(),
        mem_map: MemMap::Numa,
        ranks: Some(4),
        gpus: GpuChoice::Count(4),
        memory_limit: Some(1_610_612_736),
        ..Request::default()
    };
    assert_eq!(template.request, expected);
    assert_eq!((template.source.as_str(), template.container.as_str()), ("Pod train", "main"));
    assert_eq!(template.place, "job.yaml, document 1 (line 2)");
    assert!(workload.left_alone.is_empty());
}

#[test]
fn every_kind_is_read_where_it_keeps_its_pod_template() {
    for (head, path, replicas) in [
        ("apiVersion: apps/v1\nkind: Deployment", "spec: {replicas: 3, template: HERE}", Some(3)),
        ("apiVersion: apps/v1\nkind: StatefulSet", "spec: {template: HERE}", Some(1)),
        ("apiVersion: apps/v1\nkind: ReplicaSet", "spec: {replicas: 0, template: HERE}", Some(0)),
        ("apiVersion: apps/v1\nkind: DaemonSet", "spec: {template: HERE}", None),
        ("apiVersion: batch/v1\nkind: Job", "spec: {parallelism: 4, completions: 9, template: HERE}", Some(4)),
        ("apiVersion: batch/v1\nkind: CronJob", "spec: {jobTemplate: {spec: {template: HERE}}}", Some(1)),
        ("apiVersion: v1\nkind: PodTemplate", "template: HERE", None),
    ] {
        let kind = head.rsplit(' ').next().unwrap();
        let yaml = format!("{head}\nmetadata: {{name: x}}\n{}\n", path.replace("HERE", TEMPLATE));
        assert_eq!(rows(&yaml), [row(&format!("{kind} x"), "train", replicas, None, 8)], "{yaml}");
    }
}

#[test]
fn a_job_set_multiplies_its_jobs_with_their_pods() {
    let yaml = format!(
        "apiVersion: jobset.x-k8s.io/v1alpha2\nkind: JobSet\nmetadata: {{name: js}}\nspec:\n  replicatedJobs:\n  \
         - {{name: driver, template: {{spec: {{template: {TEMPLATE}}}}}}}\n  \
         - {{name: workers, replicas: 2, template: {{spec: {{parallelism: 3, template: {TEMPLATE}}}}}}}\n"
    );
    assert_eq!(
        rows(&yaml),
        [row("JobSet js/driver", "train", Some(1), None, 8), row("JobSet js/workers", "train", Some(6), None, 8)]
    );
}

#[test]
fn a_pytorch_job_states_its_ranks_for_every_replica_and_beats_the_containers_own() {
    let template = TEMPLATE.replace("name: train,", "name: pytorch, env: [{name: PET_NPROC_PER_NODE, value: '2'}],");
    let yaml = |nproc: &str| {
        format!(
            "apiVersion: kubeflow.org/v1\nkind: PyTorchJob\nmetadata: {{name: train}}\nspec:\n  {nproc}\n  \
             pytorchReplicaSpecs:\n    Worker: {{replicas: 3, template: {template}}}\n    Master: {{template: {template}}}\n"
        )
    };
    for (nproc, ranks) in [
        ("nprocPerNode: \"4\"", 4),
        ("nprocPerNode: auto", 2),
        ("elasticPolicy: {nProcPerNode: 4}", 4),
        ("runPolicy: {}", 2),
    ] {
        assert_eq!(
            rows(&yaml(nproc)),
            [
                row("PyTorchJob train/Master", "pytorch", Some(1), Some(ranks), 8),
                row("PyTorchJob train/Worker", "pytorch", Some(3), Some(ranks), 8)
            ],
            "{nproc}"
        );
    }
    assert_eq!(
        error(&yaml("nprocPerNode: eight")),
        format!(
            "job.yaml, document 1 (line 1): spec.nprocPerNode: is the text \"eight\": auto, cpu, gpu, or a number from 1 to {MAX_RANKS}"
        )
    );
}

#[test]
fn a_train_job_is_read_through_its_trainer_and_the_patches_of_the_job_that_trains() {
    let asked = "{annotations: {oarlock.dev/cpu-map: exclusive}}";
    let other = "{annotations: {oarlock.dev/cpu-map: node}}";
    let overrides = format!(
        "podTemplateOverrides: [{{targetJobs: [{{name: node}}], metadata: {asked}}}, \
         {{targetJobs: [{{name: dataset-initializer}}], metadata: {other}}}]"
    );
    let patch = |name: &str, metadata: &str| {
        format!("{{name: {name}, template: {{spec: {{template: {{metadata: {metadata}}}}}}}}}")
    };
    let patches = format!(
        "runtimePatches: [{{manager: me, trainingRuntimeSpec: {{template: {{spec: {{replicatedJobs: [{}, {}]}}}}}}}}]",
        patch("node", asked),
        patch("model-initializer", other)
    );
    for road in [overrides, patches] {
        let yaml = format!(
            "apiVersion: trainer.kubeflow.org/v1alpha1\nkind: TrainJob\nmetadata: {{name: t}}\nspec:\n  {road}\n  trainer:\n    \
             numNodes: 2\n    numProcPerNode: 4\n    resourcesPerNode: {{limits: {{nvidia.com/gpu: 8}}}}\n    \
             env: [{{name: NPROC_PER_NODE, value: \"3\"}}]\n"
        );
        assert_eq!(rows(&yaml), [row("TrainJob t", "node", Some(2), Some(4), 8)], "{yaml}");
        assert_eq!(workload(&yaml).templates[0].request.cpu_map, CpuMap::Exclusive, "{yaml}");
        let auto = yaml.replace("numProcPerNode: 4", "numProcPerNode: auto");
        assert_eq!(rows(&auto), [row("TrainJob t", "node", Some(2), Some(3), 8)], "{auto}");
        let silent = workload(&yaml.replace("    resourcesPerNode: {limits: {nvidia.com/gpu: 8}}\n", ""));
        assert!(silent.templates[0].notes[0].contains("resourcesPerNode"), "{silent:?}");
    }
}

#[test]
fn lists_and_documents_are_read_in_order_and_what_makes_no_pods_is_left_alone() {
    let yaml = format!(
        "# first\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: s}}\n---\napiVersion: v1\nkind: List\nitems:\n\
         - {{apiVersion: batch/v1, kind: Job, metadata: {{name: a}}, spec: {{template: {TEMPLATE}}}}}\n\
         - {{apiVersion: batch/v1, kind: Job, metadata: {{generateName: b-}}, spec: {{template: {TEMPLATE}}}}}\n---\n"
    );
    let found = workload(&yaml);
    let sources: Vec<&str> = found.templates.iter().map(|template| template.source.as_str()).collect();
    assert_eq!(sources, ["Job a", "Job b-*"]);
    assert_eq!(found.templates[0].place, "job.yaml, document 2 (line 7)");
    assert_eq!(found.left_alone, [LeftAlone { source: "Service s".to_owned(), why: "it makes no pods".to_owned() }]);
}

#[test]
fn a_pod_that_asks_for_nothing_is_left_alone_with_the_reason() {
    let found = workload(&pod("oarlock.dev/ranks: '8'", "containers: [{name: a}]"));
    assert!(found.templates.is_empty());
    assert_eq!(found.left_alone[0].source, "Pod p");
    assert_eq!(found.left_alone[0].why, "neither oarlock.dev/cpu-map nor oarlock.dev/mem-map is asked for");

    let misplaced = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: j, annotations: {oarlock.dev/cpu-map: auto}}\n\
                     spec: {template: {spec: {containers: [{name: a}]}}}\n";
    let found = workload(misplaced);
    assert!(found.left_alone[0].why.contains("put it on the pod template"), "{found:?}");
}

#[test]
fn the_containers_meant_are_those_named_else_those_with_gpus_else_all_but_sidecars() {
    const GPU: &str = "resources: {limits: {amd.com/gpu: 2}}";
    let init = "initContainers: [{name: fetch, resources: {limits: {nvidia.com/gpu: 1}}}, {name: mesh, restartPolicy: Always}]";
    let names = |annotations: &str, containers: &str| -> Vec<String> {
        let yaml =
            pod(&format!("oarlock.dev/cpu-map: auto, {annotations}"), &format!("containers: [{containers}], {init}"));
        workload(&yaml).templates.into_iter().map(|template| template.container).collect()
    };
    assert_eq!(names("", &format!("{{name: a}}, {{name: b, {GPU}}}")), ["b"]);
    assert_eq!(names("", "{name: a}, {name: b}"), ["a", "b"]);
    assert_eq!(names("oarlock.dev/containers: 'mesh,fetch'", &format!("{{name: a, {GPU}}}")), ["mesh", "fetch"]);

    let sidecar = init.replace("restartPolicy: Always", &format!("restartPolicy: Always, {GPU}"));
    let yaml = pod("oarlock.dev/cpu-map: auto", &format!("containers: [{{name: a}}], {sidecar}"));
    assert_eq!(rows(&yaml), [row("Pod p", "mesh", Some(1), None, 2)]);
}

#[test]
fn gpus_of_all_three_resources_count_and_none_is_a_choice_of_none() {
    let gpus = |limits: &str| {
        rows(&pod("oarlock.dev/cpu-map: numa", &format!("containers: [{{name: a, resources: {{limits: {limits}}}}}]")))
            [0]
        .4
    };
    assert_eq!(gpus("{nvidia.com/gpu: 1, oarlock.dev/gpu: '2', amd.com/gpu: 4000m}"), 7);
    assert_eq!(gpus("{nvidia.com/gpu: 0, nvidia.com/mig-1g.5gb: 3, gpu.intel.com/i915: 1}"), 0);
    assert_eq!(gpus("{}"), 0);
    assert_eq!(gpus(""), 0);
}

#[test]
fn ranks_come_from_the_annotation_before_the_environment() {
    let ranks = |annotations: &str, env: &str| {
        let spec = format!("containers: [{{name: a, env: [{env}]}}]");
        rows(&pod(&format!("oarlock.dev/cpu-map: numa, {annotations}"), &spec))[0].3
    };
    let pet = "{name: PET_NPROC_PER_NODE, value: '3'}";
    let plain = "{name: NPROC_PER_NODE, value: '5'}";
    assert_eq!(ranks("oarlock.dev/ranks: '2'", pet), Some(2));
    assert_eq!(ranks("", &format!("{plain}, {pet}")), Some(3));
    assert_eq!(ranks("", &format!("{{name: PET_NPROC_PER_NODE, value: auto}}, {plain}")), Some(5));
    assert_eq!(ranks("", &format!("{pet}, {{name: PET_NPROC_PER_NODE, value: '7'}}")), Some(7), "the last one counts");
    assert_eq!(ranks("", "{name: PET_NPROC_PER_NODE, valueFrom: {fieldRef: {}}}, {name: OTHER, value: 1}"), None);
}

#[test]
fn a_refused_annotation_says_where_in_the_file_it_stands() {
    let first = pod("oarlock.dev/cpu-map: auto", "containers: [{name: a}]");
    let template = TEMPLATE.replace("cpu-map: auto", "cpu-map: '0,,1'");
    let yaml = format!(
        "{first}---\napiVersion: kubeflow.org/v1\nkind: PyTorchJob\nmetadata: {{name: t}}\nspec: {{pytorchReplicaSpecs: {{Worker: {{template: {template}}}}}}}\n"
    );
    let message = error(&yaml);
    let place = "job.yaml, document 2 (line 6): spec.pytorchReplicaSpecs.Worker.template.metadata.annotations";
    assert!(message.starts_with("refused: oarlock.dev/cpu-map \"0,,1\": "), "{message}");
    assert!(message.contains(&format!("{place}: entry 2 (rank 1) is empty")), "{message}");

    let unknown =
        error(&pod("oarlock.dev/cpu-map: auto, oarlock.dev/containers: b", "containers: [{name: a}, {name: c}]"));
    assert!(unknown.contains("there is no container \"b\": the pod has a, c"), "{unknown}");
}

#[test]
fn what_is_wrong_in_a_file_is_named_with_document_path_and_rule() {
    let asking = "oarlock.dev/cpu-map: auto";
    for (yaml, message) in [
        (
            pod("oarlock.dev/cpu-map: auto, oarlock.dev/ranks: 8", "containers: [{name: a}]"),
            r#"metadata.annotations["oarlock.dev/ranks"]: is the number 8: annotations are texts, so put it in quotes: "8""#,
        ),
        (
            pod("x: yes", "containers: [{name: a}]"),
            "metadata.annotations.x: is the truth value true: annotations are texts",
        ),
        (pod("x: [a]", "containers: [{name: a}]"), "metadata.annotations.x: is a list: annotations are texts"),
        (pod(asking, ""), "spec.containers: has no container: a pod has at least one"),
        (pod(asking, "containers: {name: a}"), "spec.containers: is a mapping: a list is needed"),
        (pod(asking, "containers: [a]"), r#"spec.containers[0]: is the text "a": a mapping is needed"#),
        (pod(asking, "containers: [{image: x}]"), "spec.containers[0].name: is absent: every container has a name"),
        (
            pod(asking, "containers: [{name: a}, {name: b, resources: {limits: {nvidia.com/gpu: eight}}}]"),
            r#"spec.containers[1].resources.limits["nvidia.com/gpu"]: "eight" is not a quantity"#,
        ),
        (
            pod(asking, "containers: [{name: a, resources: {limits: {nvidia.com/gpu: 1.5}}}]"),
            r#"limits["nvidia.com/gpu"]: is the number 1.5: GPUs are whole, and at most 8192"#,
        ),
        (
            pod(asking, "containers: [{name: a, resources: {limits: {nvidia.com/gpu: 1M}}}]"),
            r#"limits["nvidia.com/gpu"]: is the text "1M": GPUs are whole, and at most 8192"#,
        ),
        (
            pod(asking, "containers: [{name: a, resources: {limits: {memory: [1]}}}]"),
            "limits.memory: is a list: a quantity like 8, 512Mi or 1.5Gi is needed",
        ),
        (
            pod(asking, "containers: [{name: a, env: [{name: NPROC_PER_NODE, value: 8}]}]"),
            "env[0].value: is the number 8: a text is needed, so put it in quotes",
        ),
        ("kind: Pod".to_owned(), "apiVersion: is absent: every object of Kubernetes states it"),
        ("apiVersion: v1\nkind: [Pod]".to_owned(), "kind: is a list: a text is needed"),
        ("- a\n- b".to_owned(), "job.yaml, document 1 (line 1): is a list: an object of Kubernetes is a mapping"),
        ("just words".to_owned(), r#"is the text "just words": an object of Kubernetes is a mapping"#),
        (
            "apiVersion: apps/v1\nkind: Deployment\nspec: {replicas: two, template: {spec: {containers: [{name: a}]}}}"
                .to_owned(),
            r#"spec.replicas: is the text "two": a whole number from 0 to 2147483647 is needed"#,
        ),
    ] {
        let error = error(&yaml);
        assert!(error.starts_with("job.yaml, document 1 (line 1): "), "{error}");
        assert!(error.contains(message), "{error}\nshould hold\n{message}");
    }
}

#[test]
fn a_kind_that_is_not_known_is_named_with_those_that_are() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n";
    let message = error(service);
    assert!(message.contains(r#"kind "Service" of "v1" is not one that is known"#), "{message}");
    assert!(message.contains("PyTorchJob (kubeflow.org)") && message.contains("Pod,"), "{message}");

    // Beside a known one, an object that makes pods in a way unknown here must not pass in silence.
    let known = pod("oarlock.dev/cpu-map: auto", "containers: [{name: a}]");
    let volcano =
        format!("apiVersion: batch.volcano.sh/v1alpha1\nkind: Job\nspec: {{tasks: [{{template: {TEMPLATE}}}]}}\n");
    let message = error(&format!("{known}---\n{volcano}"));
    assert!(
        message.starts_with("job.yaml, document 2 (line 6): kind \"Job\" of \"batch.volcano.sh/v1alpha1\""),
        "{message}"
    );
}

#[test]
fn yaml_that_kubernetes_would_not_take_is_refused_with_its_line() {
    let deep = format!("a: {}", "[".repeat(100_000));
    let many = "---\na: 1\n".repeat(MOST_DOCUMENTS + 1);
    let bomb = "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n";
    for (yaml, message) in [
        ("a: 1\nb: &x 2\nc: *x\n", "an alias at line 3, column 4: aliases are not taken"),
        (bomb, "an alias at line 2, column 8: aliases are not taken"),
        ("a: 1\nb: {c: 1, c: 2}\n", "the key \"c\" at line 2, column 11 is there twice in one mapping"),
        ("a:\n\tb: 1\n", "tabs disallowed"),
        ("a: [1, 2\n", "line 1"),
        ("a: b: c\n", "line 1"),
        (&deep, "line 1"),
        (&many, "more than 1000 documents"),
    ] {
        let error = error(yaml);
        assert!(error.starts_with("job.yaml: is not the YAML of Kubernetes objects: "), "{error}");
        assert!(error.contains(message) && !error.contains('\n') && error.len() < 300, "{error}");
    }
}

#[test]
fn a_file_with_nothing_in_it_or_far_too_much_is_refused() {
    for yaml in ["", "\n\n", "# nothing\n", "---\n---\n"] {
        assert_eq!(error(yaml), "job.yaml: holds no document", "{yaml:?}");
    }
    let endless = io::repeat(b'#');
    let error = read("endless.yaml", endless).unwrap_err();
    assert!(error.to_string().starts_with("endless.yaml: is larger than 4 MiB"), "{error}");
    let latin = read("latin.yaml", &b"a: \xe9"[..]).unwrap_err();
    assert!(matches!(latin, Error::Read { .. }), "{latin}");
}

#[test]
fn json_is_yaml_too() {
    let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","annotations":{"oarlock.dev/mem-map":"0,1"}},
        "spec":{"containers":[{"name":"a","resources":{"limits":{"nvidia.com/gpu":"2"}}}]}}"#;
    assert_eq!(rows(json), [row("Pod p", "a", Some(1), None, 2)]);
}
