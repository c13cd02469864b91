//! The containers of a pod: what each holds, and which of them are meant.

use oarlock_core::Refusal;
use oarlock_core::request::{MAX_RANKS, Request};

use super::Error;
use super::place::Place;
use super::quantity::Quantity;
use serde_json::Value;

/// The resources that count GPUs.
const GPU_RESOURCES: [&str; 3] = ["nvidia.com/gpu", "oarlock.dev/gpu", "amd.com/gpu"];

/// What a plan needs to know of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) name: String,
    /// The GPUs in its limits.
    pub(super) gpus: u32,
    /// Its memory limit in bytes.
    pub(super) memory_limit: Option<u64>,
    /// The ranks that its environment states.
    pub(super) ranks: Option<u32>,
    pub(super) role: Role,
}

/// When a container of a pod runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// With the others.
    Main,
    /// With the others too, but started before them: an init container that restarts always.
    Sidecar,
    /// Before the others, to its end.
    Init,
}

impl Container {
    /// All containers of a pod's spec, init containers last.
    pub(super) fn all(spec: &Place<'_>) -> Result<Vec<Self>, Error> {
        let main = spec.field("containers")?;
        let mut containers = Vec::new();
        for place in main.items()? {
            containers.push(Self::read(&place, Role::Main)?);
        }
        if containers.is_empty() {
            return Err(main.error("has no container: a pod has at least one".to_owned()));
        }
        for place in spec.field("initContainers")?.items()? {
            let always = place.field("restartPolicy")?.text()? == Some("Always");
            containers.push(Self::read(&place, if always { Role::Sidecar } else { Role::Init })?);
        }
        Ok(containers)
    }

    fn read(place: &Place<'_>, role: Role) -> Result<Self, Error> {
        let name = place.field("name")?;
        let name = name.text()?.ok_or_else(|| name.wrong("every container has a name"))?.to_owned();
        Self::with_limits(name, role, &place.field("resources")?, &place.field("env")?)
    }

    /// A container of this name, by its resources and its environment.
    pub(super) fn with_limits(name: String, role: Role, resources: &Place<'_>, env: &Place<'_>) -> Result<Self, Error> {
        let limits = resources.field("limits")?;
        let memory = limits.field("memory")?;
        let memory_limit = if memory.is_absent() { None } else { Some(quantity(&memory)?.up()) };
        Ok(Self { name, gpus: gpus(&limits)?, memory_limit, ranks: ranks(env)?, role })
    }
}

/// The containers that a request means: those it names, else those that hold GPUs, else all but sidecars. An init
/// container that runs to its end before the ranks start is meant only by name.
pub(super) fn meant<'a>(containers: &'a [Container], request: &Request) -> Result<Vec<&'a Container>, Refusal> {
    let Some(names) = &request.containers else {
        let holding: Vec<&Container> =
            containers.iter().filter(|container| container.role != Role::Init && container.gpus > 0).collect();
        let main = containers.iter().filter(|container| container.role == Role::Main);
        return Ok(if holding.is_empty() { main.collect() } else { holding });
    };
    let find = |name: &String| {
        containers.iter().find(|container| container.name == *name).ok_or_else(|| {
            let known: Vec<&str> = containers.iter().map(|container| container.name.as_str()).collect();
            let message = format!("there is no container \"{name}\": the pod has {}", known.join(", "));
            Refusal::new("containers", names.join(","), "names of containers of the pod, separated by commas", message)
        })
    };
    names.iter().map(find).collect()
}

fn gpus(limits: &Place<'_>) -> Result<u32, Error> {
    let mut gpus: u64 = 0;
    for resource in GPU_RESOURCES {
        let limit = limits.field(resource)?;
        if limit.is_absent() {
            continue;
        }
        gpus += quantity(&limit)?
            .whole()
            .filter(|&count| count <= u64::from(MAX_RANKS))
            .ok_or_else(|| limit.wrong(&format!("GPUs are whole, and at most {MAX_RANKS}")))?;
    }
    Ok(gpus as u32)
}

/// A quantity, which YAML may hold as a text or as a bare number.
fn quantity(place: &Place<'_>) -> Result<Quantity, Error> {
    let text = match place.value() {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(place.wrong("a quantity like 8, 512Mi or 1.5Gi is needed")),
    };
    text.parse::<Quantity>().map_err(|error| place.error(error.to_string()))
}

/// The ranks that an environment states. Of a name given twice the last counts, as it does for the kubelet.
fn ranks(env: &Place<'_>) -> Result<Option<u32>, Error> {
    let mut values: Vec<(&str, &str)> = Vec::new();
    for variable in env.items()? {
        let Some(name) = variable.field("name")?.text()? else { continue };
        // Others may hold anything: they are not ours to judge.
        if matches!(name, "PET_NPROC_PER_NODE" | "NPROC_PER_NODE")
            && let Some(value) = variable.field("value")?.text()?
        {
            values.push((name, value));
        }
    }
    Ok(Request::ranks_from_env(|key| values.iter().rev().find(|(name, _)| *name == key).map(|(_, value)| *value)))
}
