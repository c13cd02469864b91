//! Editing a configuration before its runtime reads it. It is edited as JSON: what is not known here stays as it is.

use oarlock_core::NodeSet;
use oarlock_core::place::Placement;
use oarlock_kernel::cgroup::{Hierarchy, path_named};
use oarlock_kernel::ledger::Source;
use oarlock_kernel::policy::PreferMode;
use oci_spec::runtime::{Hook, LinuxMemoryPolicy, MemoryPolicyModeType};
use serde_json::{Map, Value};

use crate::book::Book;
use crate::container::Container;
use crate::failure::Failure;
use crate::host::Host;
use crate::{known, prepare};

/// Hooks that the container is to have, where its runtime is not told of them otherwise.
#[derive(Debug)]
pub(crate) struct Hooks {
    pub(crate) create_runtime: Hook,
    pub(crate) poststop: Hook,
}

/// Places a container that is about to be created: its configuration, edited, or `None` where it stays as it is. The ledger
/// says so from now on.
pub(crate) fn place(
    host: &Host,
    container: &Container,
    config: &[u8],
    hooks: Option<&Hooks>,
) -> Result<Option<Vec<u8>>, Failure> {
    host.check()?;
    let boot = host.boot()?;
    let known = known::machine(host, &boot)?;
    let hierarchy = Hierarchy::open(&host.cgroup_root()).ok().flatten();
    let within = match (&hierarchy, container.config.cgroups_path().map(path_named)) {
        (Some(hierarchy), Some(path)) => {
            prepare::in_effect(hierarchy, path.rsplit_once('/').map_or("", |(parent, _)| parent))
        }
        _ => (None, None),
    };
    let mut book = Book::open(host, &boot)?;
    let contents = book.contents(hierarchy.as_ref())?;
    // The agent has placed it, by the runtime's plugin interface.
    if contents.get(&container.id).is_some_and(|entry| entry.source == Source::Nri) {
        return Ok(None);
    }
    let Some(placement) = prepare::place(host, &known, contents, container, within)? else { return Ok(None) };
    let edited = edit(config, &placement, hooks)?;
    book.put(&prepare::entry(container, &placement, &boot, None))?;
    Ok(Some(edited))
}

/// Takes the entry of a container back whose configuration could not be put in place.
pub(crate) fn take_back(host: &Host, id: &str) -> Result<(), Failure> {
    Book::open(host, &host.boot()?)?.remove(id)?;
    Ok(())
}

fn edit(config: &[u8], placement: &Placement, hooks: Option<&Hooks>) -> Result<Vec<u8>, Failure> {
    let json = |source| Failure::Malformed {
        what: "the configuration".to_owned(),
        expected: "an OCI container's configuration",
        source,
    };
    let mut config: Value = serde_json::from_slice(config).map_err(json)?;
    let root = config.as_object_mut().ok_or(not_an("the whole", "an object"))?;
    if placement.cpus.is_some() || placement.mems.is_some() {
        let resources = object(object(root, "linux")?, "resources")?;
        let cpu = object(resources, "cpu")?;
        let mut set = |field: &str, text: Option<String>| {
            if let Some(text) = text {
                cpu.insert(field.to_owned(), text.into());
            }
        };
        set("cpus", placement.cpus.as_ref().map(ToString::to_string));
        set("mems", placement.mems.as_ref().map(ToString::to_string));
    }
    if let Some(policy) = placement.preferred_mems.as_ref().and_then(memory_policy) {
        // A runtime that does not know it (runtime-spec 1.3) leaves it out, and pages come from where they are touched. One that
        // the container brings along is its own.
        let policy = serde_json::to_value(policy).map_err(json)?;
        let own = object(root, "linux")?.entry("memoryPolicy").or_insert(Value::Null);
        if own.is_null() {
            *own = policy;
        }
    }
    let env = array(object(root, "process")?, "env")?;
    for (key, value) in placement.variables() {
        let is_of = |entry: &Value| {
            entry.as_str().and_then(|entry| entry.strip_prefix(key)).is_some_and(|rest| rest.starts_with('='))
        };
        env.retain(|entry| !is_of(entry));
        env.push(format!("{key}={value}").into());
    }
    if let Some(Hooks { create_runtime, poststop }) = hooks {
        let stages = object(root, "hooks")?;
        for (stage, hook) in [("createRuntime", create_runtime), ("poststop", poststop)] {
            let hook = serde_json::to_value(hook).map_err(json)?;
            let there = array(stages, stage)?;
            if !there.contains(&hook) {
                there.push(hook);
            }
        }
    }
    serde_json::to_vec(&config).map_err(json)
}

/// The policy under which pages come from these nodes first, where this kernel has one.
fn memory_policy(nodes: &NodeSet) -> Option<LinuxMemoryPolicy> {
    let mut policy = LinuxMemoryPolicy::default();
    policy.set_nodes(Some(nodes.to_string())).set_mode(match PreferMode::of(nodes)? {
        PreferMode::One => MemoryPolicyModeType::MpolPreferred,
        PreferMode::Many => MemoryPolicyModeType::MpolPreferredMany,
    });
    Some(policy)
}

fn not_an(field: &'static str, expected: &'static str) -> Failure {
    Failure::NotEditable { field, expected }
}

/// The object of this name, which is made where there is none.
fn object<'a>(within: &'a mut Map<String, Value>, field: &'static str) -> Result<&'a mut Map<String, Value>, Failure> {
    let value = within.entry(field).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().ok_or(not_an(field, "an object"))
}

fn array<'a>(within: &'a mut Map<String, Value>, field: &'static str) -> Result<&'a mut Vec<Value>, Failure> {
    let value = within.entry(field).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().ok_or(not_an(field, "an array"))
}

#[cfg(test)]
mod tests {
    use oarlock_core::rankenv::{RankEntry, RankEnv};
    use serde_json::json;

    use super::*;

    fn placement() -> Placement {
        let ranks = vec![RankEntry { cpus: "4-7".parse().ok(), mems: "1".parse().ok(), ..RankEntry::default() }];
        Placement {
            cpus: "4-7".parse().ok(),
            mems: "1".parse().ok(),
            ranks: RankEnv { ranks, ..RankEnv::default() },
            omp_threads: Some(2),
            ..Placement::default()
        }
    }

    fn edited(config: &Value, placement: &Placement, hooks: Option<&Hooks>) -> Value {
        serde_json::from_slice(&edit(config.to_string().as_bytes(), placement, hooks).unwrap()).unwrap()
    }

    #[test]
    fn what_is_not_known_here_stays_and_what_is_forged_goes() {
        let config = json!({
            "ociVersion": "9.9.9", "x-vendor": {"deep": [1, 18_446_744_073_709_551_615_u64, -1, null]},
            "process": {"env": ["A=1", "OARLOCK_RANK_CPUS=0-99", "OARLOCK_RANK_CPUSX=stays", "OMP_NUM_THREADS=9"], "cwd": "/"},
            "linux": {"resources": {"cpu": {"shares": 2, "cpus": "0-15"}, "later": true}, "memoryPolicy": {"mode": "MPOL_NEW"}},
        });
        let after = edited(&config, &placement(), None);
        let env: Vec<&str> = after["process"]["env"].as_array().unwrap().iter().map(|e| e.as_str().unwrap()).collect();
        assert_eq!(&env[..2], ["A=1", "OARLOCK_RANK_CPUSX=stays"]);
        for expected in ["OARLOCK_RANKS=1", "OARLOCK_RANK_CPUS=4-7", "OARLOCK_RANK_MEMS=1", "OMP_NUM_THREADS=2"] {
            assert_eq!(env.iter().filter(|entry| **entry == expected).count(), 1, "{expected} in {env:?}");
        }
        let mut before = config;
        before["process"]["env"] = after["process"]["env"].clone();
        before["linux"]["resources"]["cpu"] = json!({"shares": 2, "cpus": "4-7", "mems": "1"});
        assert_eq!(after, before);
    }

    #[test]
    fn what_is_missing_is_made_and_what_has_another_form_is_an_error() {
        let after = edited(&json!({"linux": null}), &placement(), None);
        assert_eq!(after["linux"]["resources"]["cpu"], json!({"cpus": "4-7", "mems": "1"}));
        assert!(after.get("hooks").is_none());
        for (wrong, field) in
            [(json!({"linux": 7}), "linux"), (json!({"process": {"env": {}}}), "env"), (json!([]), "the whole")]
        {
            let error = edit(wrong.to_string().as_bytes(), &placement(), None).unwrap_err().line();
            assert!(error.contains(&format!("cannot be edited: {field} is not an")), "{error}");
        }
    }

    #[test]
    fn only_what_has_a_place_is_set() {
        let memory_only = Placement { cpus: None, omp_threads: None, ..placement() };
        let config = json!({"linux": {"resources": {"cpu": {"cpus": "0-15"}}}});
        assert_eq!(
            edited(&config, &memory_only, None)["linux"]["resources"]["cpu"],
            json!({"cpus": "0-15", "mems": "1"})
        );
    }

    #[test]
    fn nodes_that_are_preferred_are_the_memory_policy_where_the_container_has_none() {
        let prefers = |nodes: &str| Placement { preferred_mems: nodes.parse().ok(), ..placement() };
        let policy = |linux: Value, nodes: &str| {
            edited(&json!({"linux": linux}), &prefers(nodes), None)["linux"]["memoryPolicy"].clone()
        };
        assert_eq!(policy(json!({}), "3"), json!({"mode": "MPOL_PREFERRED", "nodes": "3"}));
        assert_eq!(
            policy(json!({"memoryPolicy": null}), "0,2-3"),
            json!({"mode": "MPOL_PREFERRED_MANY", "nodes": "0,2-3"})
        );
        let own = json!({"mode": "MPOL_INTERLEAVE", "nodes": "0-1"});
        assert_eq!(policy(json!({"memoryPolicy": own.clone()}), "3"), own);
        assert!(edited(&json!({}), &placement(), None)["linux"].get("memoryPolicy").is_none());
    }

    #[test]
    fn hooks_come_after_those_that_are_there_and_once() {
        let hook = |name: &str| {
            let mut hook = Hook::default();
            hook.set_path("/bin/oarlock-hook".into()).set_args(Some(vec![name.to_owned()]));
            hook
        };
        let hooks = Hooks { create_runtime: hook("a"), poststop: hook("b") };
        let config = json!({"hooks": {"createRuntime": [{"path": "/other", "env": ["X=1"]}]}});
        let once = edited(&config, &placement(), Some(&hooks));
        assert_eq!(once["hooks"]["createRuntime"][0], json!({"path": "/other", "env": ["X=1"]}));
        assert_eq!(once["hooks"]["createRuntime"][1], json!({"path": "/bin/oarlock-hook", "args": ["a"]}));
        assert_eq!(once["hooks"]["poststop"], json!([{"path": "/bin/oarlock-hook", "args": ["b"]}]));
        assert_eq!(edited(&once, &placement(), Some(&hooks)), once);
    }
}
