//! The stage `precreate`, which podman alone has: a filter between podman's configuration and the runtime.

use std::io::{Read, Write as _, stdout};

use oarlock_core::place::asks_to_refuse;
use oarlock_kernel::cgroup::path_named;

use crate::cli::Outcome;
use crate::config::Config;
use crate::container::Container;
use crate::edit;
use crate::failure::Failure;
use crate::host::Host;
use crate::input;
use crate::say::log;

const WHAT: &str = "the configuration on standard input";
/// What podman makes of a container's name for itself.
const ID_LENGTH: usize = 64;

/// Does the stage: what comes in goes out, edited where that was asked for.
pub(crate) fn run(host: &Host, stdin: impl Read) -> Outcome {
    let bytes = match input::read(stdin, WHAT) {
        Ok(bytes) => bytes,
        // Cut short, it could not be handed on.
        Err(failure) => return Outcome::of(Err(failure), true),
    };
    let config = match Config::parse(&bytes, WHAT) {
        Ok(config) => config,
        Err(failure) => return hand_on(&bytes, Outcome::of(Err(failure), false)),
    };
    let refuses = asks_to_refuse(config.annotations());
    let container = Container { id: id_of(&config).unwrap_or_default(), config };
    if !container.is_asking() {
        return hand_on(&bytes, Outcome::Done);
    }
    if container.id.is_empty() {
        // The next stage knows the id, and gives the cpuset.
        log("a container whose cgroup has no id in its name gets no rank environment");
        return hand_on(&bytes, Outcome::Done);
    }
    match edit::place(host, &container, &bytes, None) {
        Ok(edited) => hand_on(edited.as_deref().unwrap_or(&bytes), Outcome::Done),
        Err(failure) => match Outcome::of(Err(failure), refuses) {
            Outcome::Refused(failure) => Outcome::Refused(failure),
            outcome => hand_on(&bytes, outcome),
        },
    }
}

fn hand_on(bytes: &[u8], outcome: Outcome) -> Outcome {
    match stdout().write_all(bytes).and_then(|()| stdout().flush()) {
        Ok(()) => outcome,
        Err(source) => Outcome::Refused(Failure::Write { path: "standard output".into(), source }),
    }
}

/// The id, which podman writes nowhere else than at the end of the cgroup's name.
fn id_of(config: &Config) -> Option<String> {
    let path = path_named(config.cgroups_path()?);
    let name = path.rsplit('/').next()?;
    let id = name.strip_suffix(".scope").unwrap_or(name).rsplit('-').next()?;
    (id.len() == ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_at_the_end_of_the_cgroups_name() {
        let id = "0123456789abcdef".repeat(4);
        let named = |path: &str| {
            let config = serde_json::json!({"linux": {"cgroupsPath": path.replace("ID", &id)}});
            id_of(&Config::parse(config.to_string().as_bytes(), "a test").unwrap())
        };
        for path in ["machine.slice:libpod:ID", "/libpod_parent/libpod-ID", "/a.slice/libpod-payload-ID", "/x/ID"] {
            assert_eq!(named(path).as_deref(), Some(&*id), "{path}");
        }
        for path in
            ["", "/libpod_parent/libpod-IDx", "/libpod-ID/container", "/x/deadbeef", "machine.slice:libpod:../../etc"]
        {
            assert_eq!(named(path), None, "{path}");
        }
        assert_eq!(named(&format!("/x/{}", "g".repeat(ID_LENGTH))), None, "a name of that length");
    }
}
