//! The kinds of objects that make pods, and where each keeps its pod templates.

use serde_json::Value;

use super::Error;
use super::container::{Container, Role};
use super::place::Place;
use oarlock_core::request::MAX_RANKS;

/// The kinds that are read, by API group. The version does not matter: the parts read are the same in all of them.
const KINDS: [(&str, &str); 12] = [
    ("", "Pod"),
    ("", "List"),
    ("apps", "DaemonSet"),
    ("apps", "Deployment"),
    ("apps", "ReplicaSet"),
    ("apps", "StatefulSet"),
    ("batch", "CronJob"),
    ("batch", "Job"),
    ("jobset.x-k8s.io", "JobSet"),
    ("kubeflow.org", "PyTorchJob"),
    ("trainer.kubeflow.org", "TrainJob"),
    ("", "PodTemplate"),
];

/// The replicated jobs of a training runtime that do not train, by the names that Kubeflow Trainer gives them.
const NOT_TRAINING: [&str; 3] = ["dataset-initializer", "model-initializer", "launcher"];

/// One object of Kubernetes: a document, or an item of a `List`.
pub(super) struct Object<'a> {
    pub(super) place: Place<'a>,
    kind: &'a str,
    known: bool,
}

/// A pod template, in the words that all kinds share.
pub(super) struct Pod<'a> {
    /// `PyTorchJob train/Worker`.
    pub(super) source: String,
    /// How many pods are made from it; `None` where the object does not say.
    pub(super) replicas: Option<u32>,
    /// Where its annotations stand, the last one counting.
    pub(super) annotations: Vec<Place<'a>>,
    pub(super) containers: Vec<Container>,
    /// The ranks for which an operator sets `PET_NPROC_PER_NODE` itself.
    pub(super) operator_ranks: Option<u32>,
    /// What the object leaves to others.
    pub(super) note: Option<&'static str>,
}

impl<'a> Object<'a> {
    /// The objects of a document: one, or the items of a `List`.
    pub(super) fn all(document: Place<'a>) -> Result<Vec<Self>, Error> {
        let object = Self::read(document)?;
        if object.known && object.kind == "List" {
            return object.place.field("items")?.items()?.into_iter().map(Self::read).collect();
        }
        Ok(vec![object])
    }

    fn read(place: Place<'a>) -> Result<Self, Error> {
        if !place.value().is_object() {
            return Err(place.wrong("an object of Kubernetes is a mapping"));
        }
        let needed = |key: &str| {
            let field = place.field(key)?;
            field.text()?.ok_or_else(|| field.wrong("every object of Kubernetes states it"))
        };
        let (version, kind) = (needed("apiVersion")?, needed("kind")?);
        let group = version.rsplit_once('/').map_or("", |(group, _)| group);
        let known = KINDS.contains(&(group, kind));
        Ok(Self { place, kind, known })
    }

    /// Whether this kind can be read.
    pub(super) fn is_known(&self) -> bool {
        self.known
    }

    /// Whether a kind that cannot be read seems to make pods.
    pub(super) fn seems_to_make_pods(&self) -> bool {
        holds_containers(self.place.value())
    }

    /// An error for a kind that cannot be read.
    pub(super) fn unknown(&self) -> Error {
        let kinds: Vec<String> = KINDS.iter().map(|(group, kind)| join(group, kind)).collect();
        let version = self.place.value().get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        self.place.error(format!(
            "kind \"{}\" of \"{version}\" is not one that is known: the kinds are {}",
            self.kind,
            kinds.join(", ")
        ))
    }

    /// `PyTorchJob train`.
    pub(super) fn name(&self) -> Result<String, Error> {
        let metadata = self.place.field("metadata")?;
        let name = match (metadata.field("name")?.text()?, metadata.field("generateName")?.text()?) {
            (Some(name), _) => name.to_owned(),
            (None, Some(prefix)) => format!("{prefix}*"),
            (None, None) => "without a name".to_owned(),
        };
        Ok(format!("{} {name}", self.kind))
    }

    /// The annotations of an object that is no pod itself: they do not reach its pods.
    pub(super) fn own_annotations(&self) -> Result<Option<Place<'a>>, Error> {
        if self.kind == "Pod" { Ok(None) } else { self.place.fields(&["metadata", "annotations"]).map(Some) }
    }

    /// Its pod templates.
    pub(super) fn pods(&self) -> Result<Vec<Pod<'a>>, Error> {
        let (place, source) = (&self.place, self.name()?);
        let spec = place.field("spec")?;
        let one = |replicas, template: &Place<'a>| Ok(vec![pod(source.clone(), replicas, template)?]);
        match self.kind {
            "Pod" => one(Some(1), place),
            "PodTemplate" => one(None, &place.field("template")?),
            "DaemonSet" => one(None, &spec.field("template")?),
            "Job" => one(pods_of_job(&spec)?, &spec.field("template")?),
            "CronJob" => {
                let job = spec.fields(&["jobTemplate", "spec"])?;
                one(pods_of_job(&job)?, &job.field("template")?)
            }
            "JobSet" => job_set(&source, &spec),
            "PyTorchJob" => pytorch_job(&source, &spec),
            "TrainJob" => Ok(vec![train_job(source, &spec)?]),
            _ => one(Some(spec.field("replicas")?.count()?.unwrap_or(1)), &spec.field("template")?),
        }
    }
}

fn join(group: &str, kind: &str) -> String {
    if group.is_empty() { kind.to_owned() } else { format!("{kind} ({group})") }
}

fn holds_containers(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.get("containers").is_some_and(Value::is_array) || map.values().any(holds_containers),
        Value::Array(list) => list.iter().any(holds_containers),
        _ => false,
    }
}

fn pod<'a>(source: String, replicas: Option<u32>, template: &Place<'a>) -> Result<Pod<'a>, Error> {
    Ok(Pod {
        source,
        replicas,
        annotations: vec![template.fields(&["metadata", "annotations"])?],
        containers: Container::all(&template.field("spec")?)?,
        operator_ranks: None,
        note: None,
    })
}

/// A Job runs as many pods at once as its parallelism says, by default one.
fn pods_of_job(spec: &Place<'_>) -> Result<Option<u32>, Error> {
    Ok(Some(spec.field("parallelism")?.count()?.unwrap_or(1)))
}

fn job_set<'a>(source: &str, spec: &Place<'a>) -> Result<Vec<Pod<'a>>, Error> {
    let mut pods = Vec::new();
    for job in spec.field("replicatedJobs")?.items()? {
        let name = job.field("name")?.text()?.unwrap_or("without a name");
        let jobs = job.field("replicas")?.count()?.unwrap_or(1);
        let job = job.fields(&["template", "spec"])?;
        let replicas = pods_of_job(&job)?.map(|each| each.saturating_mul(jobs));
        pods.push(pod(format!("{source}/{name}"), replicas, &job.field("template")?)?);
    }
    Ok(pods)
}

/// The training operator appends `PET_NPROC_PER_NODE` from `nprocPerNode` to the environment of every container, so it
/// beats the container's own.
fn pytorch_job<'a>(source: &str, spec: &Place<'a>) -> Result<Vec<Pod<'a>>, Error> {
    let elastic = processes(&spec.fields(&["elasticPolicy", "nProcPerNode"])?)?;
    let ranks = processes(&spec.field("nprocPerNode")?)?.or(elastic);
    let mut pods = Vec::new();
    for (replica, place) in spec.field("pytorchReplicaSpecs")?.entries()? {
        let replicas = Some(place.field("replicas")?.count()?.unwrap_or(1));
        let pod = pod(format!("{source}/{replica}"), replicas, &place.field("template")?)?;
        pods.push(Pod { operator_ranks: ranks, ..pod });
    }
    Ok(pods)
}

/// A TrainJob holds no pod template, but patches of the one in its runtime; the container that trains is called `node`
/// there. Patches of pods are `runtimePatches`, in earlier versions `podTemplateOverrides`.
fn train_job<'a>(source: String, spec: &Place<'a>) -> Result<Pod<'a>, Error> {
    let trainer = spec.field("trainer")?;
    let resources = trainer.field("resourcesPerNode")?;
    let mut annotations = Vec::new();
    for patch in spec.field("podTemplateOverrides")?.items()? {
        let mut trains = false;
        for job in patch.field("targetJobs")?.items()? {
            trains |= is_training(&job.field("name")?)?;
        }
        if trains {
            annotations.push(patch.fields(&["metadata", "annotations"])?);
        }
    }
    for patch in spec.field("runtimePatches")?.items()? {
        let jobs = patch.fields(&["trainingRuntimeSpec", "template", "spec", "replicatedJobs"])?;
        for job in jobs.items()? {
            if is_training(&job.field("name")?)? {
                annotations.push(job.fields(&["template", "spec", "template", "metadata", "annotations"])?);
            }
        }
    }
    Ok(Pod {
        source,
        replicas: trainer.field("numNodes")?.count()?,
        annotations,
        containers: vec![Container::with_limits("node".to_owned(), Role::Main, &resources, &trainer.field("env")?)?],
        operator_ranks: processes(&trainer.field("numProcPerNode")?)?,
        note: resources
            .is_absent()
            .then_some("spec.trainer.resourcesPerNode is not set: the GPUs of its runtime are not known here"),
    })
}

fn is_training(name: &Place<'_>) -> Result<bool, Error> {
    Ok(name.text()?.is_some_and(|name| !NOT_TRAINING.contains(&name)))
}

/// A number of processes per node, where it is one: `auto`, `cpu`, `gpu` and `xpu` are torchrun's to resolve.
fn processes(place: &Place<'_>) -> Result<Option<u32>, Error> {
    let number = match place.value() {
        Value::Null => return Ok(None),
        Value::String(word) if matches!(word.as_str(), "auto" | "cpu" | "gpu" | "xpu") => return Ok(None),
        Value::String(digits) => digits.parse().ok(),
        Value::Number(number) => number.as_u64(),
        _ => None,
    };
    match number {
        Some(number) if (1..=u64::from(MAX_RANKS)).contains(&number) => Ok(Some(number as u32)),
        _ => Err(place.wrong(&format!("auto, cpu, gpu, or a number from 1 to {MAX_RANKS}"))),
    }
}
