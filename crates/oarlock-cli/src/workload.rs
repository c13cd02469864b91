//! What a file of Kubernetes objects asks for: one request per container that is meant, before anything is submitted.
//!
//! The file is YAML (JSON is, too), one document or several. YAML aliases are refused: they are what makes a small file
//! large.

use std::collections::BTreeMap;
use std::io::{self, Read as _};

use oarlock_core::Refusal;
use oarlock_core::request::{GpuChoice, PREFIX, Request};
use serde_json::Value;
use serde_saphyr::Spanned;
use serde_saphyr::budget::BudgetBreach;

use crate::failure::Failure;

mod container;
mod kinds;
mod place;
mod quantity;

use kinds::{Object, Pod};
use place::Place;

/// A file past this size is no file of objects: etcd, which stores them, takes 1.5 MiB for each.
const LARGEST: u64 = 4 << 20;
/// A file with more documents than this is refused.
const MOST_DOCUMENTS: usize = 1000;
/// Where a pod asks, it does so with one of these.
const ASKING: [&str; 2] = ["oarlock.dev/cpu-map", "oarlock.dev/mem-map"];

/// What a file asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Workload {
    /// One per container that is meant, in the file's order.
    pub(crate) templates: Vec<Template>,
    /// What of the file asks for nothing.
    pub(crate) left_alone: Vec<LeftAlone>,
}

/// A container of a pod template, and what it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    /// Whose it is: `PyTorchJob train/Worker`.
    pub(crate) source: String,
    /// Where it stands: `job.yaml, document 2 (line 14)`.
    pub(crate) place: String,
    /// How many pods are made from the template; `None` where the object does not say.
    pub(crate) replicas: Option<u32>,
    /// The container's name.
    pub(crate) container: String,
    /// Its request, with its GPUs and its memory limit.
    pub(crate) request: Request,
    /// What the file leaves open and a person should know.
    pub(crate) notes: Vec<String>,
}

/// An object or a pod template that Oarlock leaves alone.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct LeftAlone {
    /// Which: `Service train`.
    pub(crate) source: String,
    /// Why.
    pub(crate) why: String,
}

/// Why a file of objects cannot be planned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Reading it failed.
    #[error("{file}: cannot be read")]
    Read {
        /// The file's name.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// It is past the bound.
    #[error("{file}: is larger than {} MiB, more than any file of objects", LARGEST >> 20)]
    TooLarge {
        /// The file's name.
        file: String,
    },
    /// It is not YAML, or has more of something than is taken.
    #[error("{file}: is not the YAML of Kubernetes objects")]
    Yaml {
        /// The file's name.
        file: String,
        /// What the parser found, with line and column.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It holds nothing.
    #[error("{file}: holds no document")]
    Empty {
        /// The file's name.
        file: String,
    },
    /// A part of it is not what Kubernetes takes.
    #[error("{place}: {message}")]
    Content {
        /// The file, the document and the path inside.
        place: String,
        /// What is wrong with it.
        message: String,
    },
    /// Its annotations break a rule.
    #[error(transparent)]
    Refused(Refusal),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => Self::Refused(refusal),
            error => Self::Failed(error.into()),
        }
    }
}

/// Reads what a file asks for. `file` is its name for errors.
pub(crate) fn read(file: &str, mut input: impl io::Read) -> Result<Workload, Error> {
    let mut bytes = Vec::new();
    let failed = |source| Error::Read { file: file.to_owned(), source };
    input.by_ref().take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Error::TooLarge { file: file.to_owned() });
    }
    let text = String::from_utf8(bytes).map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))?;
    let documents = parse(&text).map_err(|source| Error::Yaml { file: file.to_owned(), source })?;
    if documents.is_empty() {
        return Err(Error::Empty { file: file.to_owned() });
    }

    let names: Vec<String> = documents
        .iter()
        .enumerate()
        .map(|(index, document)| format!("{file}, document {} (line {})", index + 1, document.defined.line()))
        .collect();
    let mut objects = Vec::new();
    for (name, document) in names.iter().zip(&documents) {
        for object in Object::all(Place::top(name, &document.value))? {
            objects.push((name.as_str(), object));
        }
    }
    let some_known = objects.iter().any(|(_, object)| object.is_known());
    let mut workload = Workload::default();
    for (document, object) in &objects {
        if object.is_known() {
            workload.add(document, object)?;
        } else if some_known && !object.seems_to_make_pods() {
            // A Service or a ConfigMap beside the job.
            workload.left_alone.push(LeftAlone { source: object.name()?, why: "it makes no pods".to_owned() });
        } else {
            return Err(object.unknown());
        }
    }
    Ok(workload)
}

impl Workload {
    fn add(&mut self, document: &str, object: &Object<'_>) -> Result<(), Error> {
        for pod in object.pods()? {
            let (annotations, place) = annotations(&pod)?;
            let refused = |refusal: Refusal| {
                let message = format!("{place}: {}", refusal.message);
                Error::Refused(Refusal { message, ..refusal })
            };
            let asked = Request::from_annotations(annotations.iter().map(|(key, value)| (*key, *value)));
            let Some(request) = asked.map_err(refused)? else {
                let why = why_left_alone(object)?;
                self.left_alone.push(LeftAlone { source: pod.source, why });
                continue;
            };
            for container in container::meant(&pod.containers, &request).map_err(refused)? {
                let mut request = request.clone();
                request.ranks = request.ranks.or(pod.operator_ranks).or(container.ranks);
                request.memory_limit = container.memory_limit;
                request.gpus = match container.gpus {
                    0 => GpuChoice::Some(Vec::new()),
                    count => GpuChoice::Count(count),
                };
                self.templates.push(Template {
                    source: pod.source.clone(),
                    place: document.to_owned(),
                    replicas: pod.replicas,
                    container: container.name.clone(),
                    request,
                    notes: pod.note.iter().map(|&note| note.to_owned()).collect(),
                });
            }
        }
        Ok(())
    }
}

/// The annotations of a pod, and where they stand. Kubernetes takes nothing but texts there.
fn annotations<'a>(pod: &Pod<'a>) -> Result<(BTreeMap<&'a str, &'a str>, String), Error> {
    let mut annotations = BTreeMap::new();
    for place in &pod.annotations {
        for (key, value) in place.entries()? {
            let text = match value.value() {
                Value::String(text) => text,
                Value::Number(number) => {
                    let rule = format!("annotations are texts, so put it in quotes: \"{number}\"");
                    return Err(value.wrong(&rule));
                }
                _ => return Err(value.wrong("annotations are texts")),
            };
            annotations.insert(key, text.as_str());
        }
    }
    let place = pod.annotations.iter().rfind(|place| !place.is_absent());
    Ok((annotations, place.map_or_else(|| pod.source.clone(), ToString::to_string)))
}

fn why_left_alone(object: &Object<'_>) -> Result<String, Error> {
    let neither = format!("neither {} nor {} is asked for", ASKING[0], ASKING[1]);
    let Some(own) = object.own_annotations()? else { return Ok(neither) };
    let misplaced = own.entries()?.into_iter().any(|(key, _)| key.starts_with(PREFIX));
    Ok(if misplaced {
        format!(
            "{neither} on its pods; what stands on the object itself does not reach them: put it on the pod template"
        )
    } else {
        neither
    })
}

fn parse(text: &str) -> Result<Vec<Spanned<Value>>, Box<dyn std::error::Error + Send + Sync>> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_aliases: 0, max_documents: MOST_DOCUMENTS },
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| match error {
        serde_saphyr::Error::Budget { breach: BudgetBreach::Aliases { .. }, location } => format!(
            "an alias at line {}, column {}: aliases are not taken, so write the value out",
            location.line(),
            location.column()
        )
        .into(),
        serde_saphyr::Error::Budget { breach: BudgetBreach::Documents { .. }, .. } => {
            format!("more than {MOST_DOCUMENTS} documents").into()
        }
        serde_saphyr::Error::DuplicateMappingKey { key, location } => format!(
            "the key {} at line {}, column {} is there twice in one mapping",
            Value::from(key.unwrap_or_default()),
            location.line(),
            location.column()
        )
        .into(),
        error => error.into(),
    })
}

#[cfg(test)]
mod tests;
