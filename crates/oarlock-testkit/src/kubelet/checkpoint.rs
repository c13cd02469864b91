//! What outlives a kubelet: who got which devices, and what the plugin answered then.

use std::fs;
use std::path::Path;

use oarlock_device_plugin::proto::v1beta1::ContainerAllocateResponse;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::{Given, View};

#[derive(Debug, Default, Serialize, Deserialize)]
struct Checkpoint {
    entries: Vec<Entry>,
    /// Resources that were registered; they come back without a device that could be given away.
    registered: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    pod: String,
    container: String,
    reusable: bool,
    resource: String,
    ids: Vec<String>,
    response: Vec<u8>,
}

/// The knowledge with which a kubelet starts.
pub(super) fn read(path: &Path) -> View {
    let Ok(text) = fs::read(path) else { return View::default() };
    let held: Checkpoint = serde_json::from_slice(&text).unwrap();
    let given = held.entries.into_iter().map(|entry| Given {
        pod: entry.pod,
        container: entry.container,
        reusable: entry.reusable,
        resource: entry.resource,
        ids: entry.ids,
        response: ContainerAllocateResponse::decode(entry.response.as_slice()).unwrap(),
    });
    let given = given.collect();
    let resources = held.registered.into_iter().map(|name| (name, super::Resource::default())).collect();
    View { resources, given, ..View::default() }
}

/// Writes what has to outlive this kubelet.
pub(super) fn write(path: &Path, view: &View) {
    let entries = view.given.iter().map(|given| Entry {
        pod: given.pod.clone(),
        container: given.container.clone(),
        reusable: given.reusable,
        resource: given.resource.clone(),
        ids: given.ids.clone(),
        response: given.response.encode_to_vec(),
    });
    let held = Checkpoint { entries: entries.collect(), registered: view.resources.keys().cloned().collect() };
    fs::write(path, serde_json::to_vec(&held).unwrap()).unwrap();
}
