//! Which plugin set what. Each field has one owner per container; a second plugin that sets it fails the operation.

use std::collections::{BTreeMap, HashMap};

use oarlock_nri::proto::{Container, ContainerAdjustment, ContainerUpdate, LinuxResources};
use prost::Message as _;

/// The owners of fields, by container and field.
#[derive(Debug, Default)]
pub(super) struct Owners(HashMap<(String, String), String>);

impl Owners {
    /// Notes that the plugin sets what the adjustment sets.
    pub(super) fn adjust(&mut self, plugin: &str, container: &str, adjust: &ContainerAdjustment) -> Result<(), String> {
        let keys = adjust.env.iter().map(|variable| ("env", &variable.key));
        let keys = keys.chain(adjust.annotations.keys().map(|key| ("annotation", key)));
        let keys = keys.chain(adjust.mounts.iter().map(|mount| ("mount", &mount.destination)));
        let keys = keys.chain(adjust.rlimits.iter().map(|limit| ("rlimit", &limit.r#type)));
        let keys = keys.chain(adjust.cdi_devices.iter().map(|device| ("CDI device", &device.name)));
        for (kind, key) in keys {
            match key.strip_prefix('-') {
                // Taken away on purpose, whoever set it.
                Some(key) => drop(self.0.remove(&(container.to_owned(), format!("{kind} {key}")))),
                None => self.claim(plugin, container, &format!("{kind} {key}"))?,
            }
        }
        if !adjust.args.is_empty() && adjust.args[0].is_empty() {
            self.0.remove(&(container.to_owned(), "args".to_owned()));
        }
        let linux = adjust.linux.clone().unwrap_or_default();
        for (field, set) in [
            ("args", !adjust.args.is_empty()),
            ("cgroups path", !linux.cgroups_path.is_empty()),
            ("OOM score", linux.oom_score_adj.is_some()),
            ("I/O priority", linux.io_priority.is_some()),
            ("seccomp policy", linux.seccomp_policy.is_some()),
            ("scheduler", linux.scheduler.is_some()),
            ("memory policy", linux.memory_policy.is_some()),
        ] {
            if set {
                self.claim(plugin, container, field)?;
            }
        }
        self.resources(plugin, container, &linux.resources.unwrap_or_default())
    }

    /// Notes that the plugin sets what the update sets.
    pub(super) fn update(&mut self, plugin: &str, update: &ContainerUpdate) -> Result<(), String> {
        let linux = update.linux.clone().unwrap_or_default();
        self.resources(plugin, &update.container_id, &linux.resources.unwrap_or_default())
    }

    fn resources(&mut self, plugin: &str, container: &str, resources: &LinuxResources) -> Result<(), String> {
        let cpu = resources.cpu.clone().unwrap_or_default();
        let memory = resources.memory.unwrap_or_default();
        for (field, set) in [
            ("CPU set", !cpu.cpus.is_empty()),
            ("memory set", !cpu.mems.is_empty()),
            ("CPU shares", cpu.shares.is_some()),
            ("CPU quota", cpu.quota.is_some()),
            ("CPU period", cpu.period.is_some()),
            ("memory limit", memory.limit.is_some()),
            ("memory swap", memory.swap.is_some()),
        ] {
            if set {
                self.claim(plugin, container, field)?;
            }
        }
        for key in resources.unified.keys() {
            self.claim(plugin, container, &format!("unified {key}"))?;
        }
        for limit in &resources.hugepage_limits {
            self.claim(plugin, container, &format!("huge pages of {}", limit.page_size))?;
        }
        Ok(())
    }

    fn claim(&mut self, plugin: &str, container: &str, field: &str) -> Result<(), String> {
        match self.0.insert((container.to_owned(), field.to_owned()), plugin.to_owned()) {
            Some(other) if other != plugin => {
                Err(format!("plugins {other} and {plugin} both set {field} of {container}"))
            }
            _ => Ok(()),
        }
    }
}

/// The adjustment with another on top: what protobuf makes of one message after the other.
pub(super) fn merge(adjust: &mut ContainerAdjustment, other: &ContainerAdjustment) {
    adjust.merge(&other.encode_to_vec()[..]).unwrap();
}

/// The container as the next plugin sees it.
pub(super) fn apply(container: &mut Container, adjust: &ContainerAdjustment) {
    let mut env: BTreeMap<String, String> =
        container.env.iter().filter_map(|one| one.split_once('=')).map(own).collect();
    for variable in &adjust.env {
        match variable.key.strip_prefix('-') {
            Some(key) => drop(env.remove(key)),
            None => drop(env.insert(variable.key.clone(), variable.value.clone())),
        }
    }
    container.env = env.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    for (key, value) in &adjust.annotations {
        match key.strip_prefix('-') {
            Some(key) => drop(container.annotations.remove(key)),
            None => drop(container.annotations.insert(key.clone(), value.clone())),
        }
    }
    container.mounts.extend(adjust.mounts.iter().cloned());
    if let Some(resources) = adjust.linux.as_ref().and_then(|linux| linux.resources.as_ref()) {
        change(container, resources);
    }
}

/// The container with other resources. What is empty changes nothing.
pub(super) fn change(container: &mut Container, resources: &LinuxResources) {
    let held = container.linux.get_or_insert_default().resources.get_or_insert_default();
    held.merge(&resources.encode_to_vec()[..]).unwrap();
}

fn own((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}
