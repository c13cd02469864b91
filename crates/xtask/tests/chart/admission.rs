//! The admission policy, evaluated on good and bad annotations, beside the planner's own word about them.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use cel::common::types::{CelInt, DYN_TYPE, LIST_TYPE};
use cel::common::value::CowVal;
use cel::{Context, Env, ExecutionError, Value as Cel, extensions};
use oarlock_core::Request;
use serde_json::{Value, json};

use crate::helm::{Helm, documents, main, root};

/// Good ones: keys and values.
pub(crate) const GOOD: [&[(&str, &str)]; 12] = [
    &[("cpu-map", "auto"), ("mem-map", "auto")],
    &[("cpu-map", " core-complex "), ("mem-map", "none")],
    &[("cpu-map", "0,0+1,1023,007"), ("mem-map", "0, 1")],
    &[("cpu-map", "cpus:0-11,48-59;12-23,60-71")],
    &[("cpu-map", "cpus:0;8191")],
    &[("mem-map", "numa"), ("mem-policy", "preferred"), ("smt", "one"), ("on-failure", "refuse")],
    &[("ranks", "8192"), ("omp-threads", "auto")],
    &[("ranks", "0008"), ("omp-threads", "16")],
    &[("rank-gpus", "0,1; 2,3"), ("containers", "trainer, side-car-2")],
    &[("placement", "{\"trainer\":[]}")],
    &[("cpu-map", "exclusive"), ("omp-threads", "none")],
    &[],
];

/// Bad ones: a key and a value.
pub(crate) const BAD: [(&str, &str); 40] = [
    ("cpu-map", ""),
    ("cpu-map", "foo"),
    ("cpu-map", "Auto"),
    ("cpu-map", "cpus"),
    ("cpu-map", ",0"),
    ("cpu-map", "0,1,,2"),
    ("cpu-map", "0,1,"),
    ("cpu-map", "0,x"),
    ("cpu-map", "-1"),
    ("cpu-map", "0+,1"),
    ("cpu-map", "0;1"),
    ("cpu-map", "0,1024"),
    ("cpu-map", "0,99999999999999999999"),
    ("cpu-map", "0,0+1+1"),
    ("cpu-map", "cpus:"),
    ("cpu-map", "cpus:0-3;"),
    ("cpu-map", "cpus:0-3;;4-7"),
    ("cpu-map", "cpus:0-3;4-"),
    ("cpu-map", "cpus:0-3;a"),
    ("cpu-map", "cpus:0-3;4,,5"),
    ("cpu-map", "cpus:,1"),
    ("cpu-map", "cpus:1,"),
    ("cpu-map", "cpus:10,1x"),
    ("cpu-map", "cpus:0-8192"),
    ("mem-map", "exclusive"),
    ("mem-map", "cpus:0-3"),
    ("mem-map", "0,1024"),
    ("mem-policy", "wall"),
    ("ranks", "0"),
    ("ranks", "8193"),
    ("ranks", "-1"),
    ("rank-gpus", "0,1;"),
    ("rank-gpus", "0,1;x"),
    ("rank-gpus", "0,1;1,1"),
    ("rank-gpus", "8192"),
    ("smt", "two"),
    ("omp-threads", "many"),
    ("on-failure", "panic"),
    ("containers", "trainer,Side_car"),
    ("cpumap", "auto"),
];

/// The policy, as the API server evaluates it.
struct Policy {
    spec: Value,
    env: Arc<Env>,
}

impl Policy {
    fn of(objects: &[Value]) -> Self {
        let mut env = Env::stdlib();
        env.add_extension(extensions::strings).unwrap();
        // Kubernetes' own addition to CEL.
        env.add_member_overload("indexOf", "list.indexOf(dyn)", LIST_TYPE, vec![DYN_TYPE], index_of).unwrap();
        Self { spec: main(objects, "ValidatingAdmissionPolicy")["spec"].clone(), env: Arc::new(env) }
    }

    fn evaluate(&self, expression: &Value, object: &Value, variables: &HashMap<String, Cel>) -> Cel {
        let program = self.env.compile(expression.as_str().unwrap()).unwrap();
        let mut context = Context::with_env(self.env.clone());
        context.add_variable("object", object).unwrap();
        context.add_variable_from_value("variables", variables.clone());
        program.execute(&context).unwrap_or_else(|error| panic!("{error} in {expression}"))
    }

    /// Whether the policy looks at an object at all.
    fn looks_at(&self, object: &Value) -> bool {
        let conditions = self.spec["matchConditions"].as_array().unwrap();
        conditions.iter().all(|one| self.evaluate(&one["expression"], object, &HashMap::new()) == Cel::Bool(true))
    }

    /// What it says of an object that it refuses: the first of its validations that fails.
    fn refusal(&self, object: &Value) -> Option<String> {
        let mut variables = HashMap::new();
        for variable in self.spec["variables"].as_array().unwrap() {
            let value = self.evaluate(&variable["expression"], object, &variables);
            variables.insert(variable["name"].as_str().unwrap().to_owned(), value);
        }
        let validations = self.spec["validations"].as_array().unwrap();
        let failed = validations.iter().find(|one| match self.evaluate(&one["expression"], object, &variables) {
            Cel::Bool(holds) => !holds,
            other => panic!("{other:?} of {one}"),
        })?;
        match self.evaluate(&failed["messageExpression"], object, &variables) {
            Cel::String(words) => Some(words.to_string()),
            other => panic!("{other:?} of {failed}"),
        }
    }
}

#[expect(clippy::needless_pass_by_value, clippy::unnecessary_wraps, reason = "the form of a function of CEL")]
fn index_of<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let wanted = arguments[1].as_ref();
    let mut items = arguments[0].as_ref().as_iterable().unwrap().iter();
    let mut index = 0;
    while let Some(item) = items.next() {
        if item.equals(wanted) {
            return Ok(CowVal::owned(CelInt::from(index)));
        }
        index += 1;
    }
    Ok(CowVal::owned(CelInt::from(-1)))
}

fn annotations(pairs: &[(&str, &str)]) -> Value {
    pairs
        .iter()
        .map(|(key, value)| (format!("oarlock.dev/{key}"), json!(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn pod(annotations: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "annotations": annotations}})
}

#[test]
fn the_policy_and_the_planner_let_the_same_annotations_in() {
    let Some(helm) = Helm::get() else { return };
    let policy = Policy::of(&helm.render(&[]).unwrap());
    for pairs in GOOD {
        let keys: Vec<String> = pairs.iter().map(|(key, _)| format!("oarlock.dev/{key}")).collect();
        Request::from_annotations(keys.iter().map(String::as_str).zip(pairs.iter().map(|pair| pair.1))).unwrap();
        assert_eq!(policy.refusal(&pod(&annotations(pairs))), None, "{pairs:?}");
    }
}

#[test]
fn the_policy_refuses_with_the_planners_words() {
    let Some(helm) = Helm::get() else { return };
    let policy = Policy::of(&helm.render(&[]).unwrap());
    let long = "x".repeat(200);
    let many = vec!["0"; 8193].join(",");
    let more = [("cpu-map", &*long), ("cpumap", &long), ("containers", &long), ("mem-map", &many)];
    for (key, value) in BAD.into_iter().chain(more) {
        let refusal = Request::from_annotations([(&*format!("oarlock.dev/{key}"), value)]).unwrap_err().to_string();
        let pod = pod(&annotations(&[("cpu-map", "auto"), ("mem-map", "auto"), ("ranks", "8"), (key, value)]));
        assert!(policy.looks_at(&pod));
        assert_eq!(policy.refusal(&pod), Some(refusal), "{key} {value:.99}");
    }
}

#[test]
fn pods_without_our_annotations_are_not_looked_at() {
    let Some(helm) = Helm::get() else { return };
    let policy = Policy::of(&helm.render(&[]).unwrap());
    for (object, looked) in [
        (json!({"kind": "Pod", "metadata": {"name": "p"}}), false),
        (pod(&json!({"example.com/cpu-map": "x"})), false),
        (pod(&json!({"oarlock.dev/smt": "one"})), true),
    ] {
        assert_eq!(policy.looks_at(&object), looked, "{object}");
    }
}

#[test]
fn whatever_makes_pods_is_refused_by_its_templates() {
    let Some(helm) = Helm::get() else { return };
    let policy = Policy::of(&helm.render(&[]).unwrap());
    let template = |map: &str| json!({"metadata": {"annotations": {"oarlock.dev/cpu-map": map}}, "spec": {}});
    let plain = json!({"spec": {}});
    let of = |kind: &str, spec: Value| json!({"kind": kind, "metadata": {"name": "o"}, "spec": spec});
    for map in ["auto", "0,x"] {
        let refusal =
            Request::from_annotations([("oarlock.dev/cpu-map", map)]).err().map(|refusal| refusal.to_string());
        for object in [
            pod(&json!({"oarlock.dev/cpu-map": map})),
            json!({"kind": "PodTemplate", "metadata": {}, "template": template(map)}),
            of("Deployment", json!({"template": template(map)})),
            of("Job", json!({"template": template(map)})),
            of("CronJob", json!({"jobTemplate": {"spec": {"template": template(map)}}})),
            of(
                "JobSet",
                json!({"replicatedJobs": [
                    {"template": {"spec": {"template": plain}}},
                    {"template": {"spec": {"template": template(map)}}},
                ]}),
            ),
            of(
                "PyTorchJob",
                json!({"pytorchReplicaSpecs": {
                    "Master": {"template": plain},
                    "Worker": {"template": template(map)},
                }}),
            ),
        ] {
            assert!(policy.looks_at(&object), "{object}");
            assert_eq!(policy.refusal(&object), refusal, "{object}");
        }
    }
    // Annotations of the job itself reach no pod.
    let mut job = of("Job", json!({"template": plain}));
    job["metadata"]["annotations"] = json!({"oarlock.dev/cpu-map": "0,x"});
    assert_eq!(policy.refusal(&job), None);
}

#[test]
fn the_examples_are_let_in() {
    let Some(helm) = Helm::get() else { return };
    let policy = Policy::of(&helm.render(&[]).unwrap());
    let examples = root().join("manifests/examples");
    let mut seen = 0;
    for entry in fs::read_dir(examples).unwrap() {
        for object in documents(&fs::read_to_string(entry.unwrap().path()).unwrap()) {
            assert!(policy.looks_at(&object));
            assert_eq!(policy.refusal(&object), None, "{object}");
            seen += 1;
        }
    }
    assert!(seen >= 7, "{seen}");
}

#[test]
fn what_becomes_of_bad_annotations_is_said_in_the_values() {
    let Some(helm) = Helm::get() else { return };
    let objects =
        helm.render(&["admissionPolicy.actions=[\"Warn\",\"Audit\"]", "admissionPolicy.failurePolicy=\"Fail\""]);
    let objects = objects.unwrap();
    let binding = main(&objects, "ValidatingAdmissionPolicyBinding");
    assert_eq!(binding["spec"]["validationActions"], json!(["Warn", "Audit"]));
    let policy = main(&objects, "ValidatingAdmissionPolicy");
    assert_eq!(policy["spec"]["failurePolicy"], "Fail");
    assert_eq!(policy["metadata"]["name"], binding["spec"]["policyName"]);
}
