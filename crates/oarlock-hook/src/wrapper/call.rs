//! What a runtime is called with: the command line that runc has, and that crun, youki and nvidia-container-runtime share.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

/// Options before the command that have a value in the next argument.
const OF_ALL: [&str; 8] =
    ["--log", "--log-format", "--log-level", "--root", "-r", "--criu", "--rootless", "--cgroup-manager"];
/// Those of the commands `create` and `run`.
const OF_CREATE: [&str; 8] =
    ["--bundle", "-b", "--console-socket", "--pid-file", "--pidfd-socket", "--preserve-fds", "--config", "-f"];

/// A call that creates a container.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Create {
    /// The container's id.
    pub(super) id: String,
    /// The bundle; without one it is the working folder.
    pub(super) bundle: Option<PathBuf>,
    /// The configuration, where it has another name than `config.json` (crun's option).
    pub(super) config: Option<PathBuf>,
    /// Where the runtime writes its log, and how.
    pub(super) log: Option<PathBuf>,
    pub(super) log_is_json: bool,
}

impl Create {
    /// `None` for all other calls, which are the real runtime's alone.
    pub(super) fn parse(arguments: &[OsString]) -> Option<Self> {
        let mut create = Self::default();
        let mut words = arguments.iter();
        loop {
            let word = words.next()?;
            if !is_option(word) {
                if word != "create" && word != "run" {
                    return None;
                }
                break;
            }
            let (option, value) = option(word, &OF_ALL, &mut words)?;
            match (option, value) {
                ("--log", Some(value)) => create.log = Some(value.into()),
                ("--log-format", Some(value)) => create.log_is_json = value == "json",
                _ => {}
            }
        }
        while let Some(word) = words.next() {
            if word == "--" {
                words.next()?.to_str()?.clone_into(&mut create.id);
                break;
            }
            if !is_option(word) {
                word.to_str()?.clone_into(&mut create.id);
                continue;
            }
            let (option, value) = option(word, &OF_CREATE, &mut words)?;
            match (option, value) {
                ("--bundle" | "-b", Some(value)) => create.bundle = Some(value.into()),
                ("--config" | "-f", Some(value)) => create.config = Some(value.into()),
                _ => {}
            }
        }
        (!create.id.is_empty()).then_some(create)
    }
}

fn is_option(word: &OsStr) -> bool {
    word.as_bytes().starts_with(b"-")
}

/// An option and its value, which is behind `=` or the next argument, and any bytes. `None` where that is missing.
fn option<'a>(
    word: &'a OsStr,
    with_value: &[&str],
    words: &mut std::slice::Iter<'_, OsString>,
) -> Option<(&'a str, Option<OsString>)> {
    let mut parts = word.as_bytes().splitn(2, |&byte| byte == b'=');
    let option = str::from_utf8(parts.next()?).ok()?;
    let value = match parts.next() {
        Some(value) => Some(OsStr::from_bytes(value).to_owned()),
        None if with_value.contains(&option) => Some(words.next()?.clone()),
        None => None,
    };
    Some((option, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(call: &str) -> Option<Create> {
        Create::parse(&call.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn calls_of_containerd_docker_and_podman_are_understood() {
        let containerd = "--root /run/containerd/runc/k8s.io --log /b/log.json --log-format json --systemd-cgroup create \
            --bundle /b --pid-file /b/init.pid --console-socket /s abc --pidfd-socket /q";
        let expected = Create {
            id: "abc".to_owned(),
            bundle: Some("/b".into()),
            log: Some("/b/log.json".into()),
            log_is_json: true,
            ..Create::default()
        };
        assert_eq!(parse(containerd), Some(expected));
        let podman =
            parse("--cgroup-manager=systemd --log-format=json --log=/l create --bundle /b --pid-file /p id").unwrap();
        assert_eq!((podman.id.as_str(), podman.log, podman.log_is_json), ("id", Some("/l".into()), true));
        let by_hand = parse("run --keep -d -b create -- run").unwrap();
        assert_eq!((by_hand.id.as_str(), by_hand.bundle), ("run", Some("create".into())));
        assert_eq!(parse("create -f other.json x").unwrap().config, Some("other.json".into()));
    }

    #[test]
    fn a_value_is_no_command_and_no_id() {
        let of_all = ["--log-level debug", "--criu /c", "--rootless true", "-r /r", "--cgroup-manager systemd"];
        for call in of_all.map(|options| format!("{options} create x")) {
            assert_eq!(parse(&call).unwrap().id, "x", "{call}");
        }
        for options in ["--pid-file p", "--console-socket s", "--pidfd-socket q", "--preserve-fds 1"] {
            assert_eq!(parse(&format!("run x {options}")).unwrap().id, "x", "{options}");
        }
    }

    #[test]
    fn a_path_may_be_any_bytes_wherever_it_stands() {
        let path = OsStr::from_bytes(b"/b\xff=c");
        let behind = ["create".into(), OsStr::from_bytes(b"--bundle=/b\xff=c").to_owned(), "x".into()];
        let next = ["create".into(), "--bundle".into(), path.to_owned(), "x".into()];
        for arguments in [&behind[..], &next] {
            assert_eq!(Create::parse(arguments).unwrap().bundle, Some(path.into()));
        }
    }

    #[test]
    fn all_other_calls_are_the_real_runtimes_alone() {
        for call in [
            "",
            "--version",
            "state create",
            "--root create delete x",
            "exec x create",
            "create",
            "create --bundle",
            "--log",
            "features",
        ] {
            assert_eq!(parse(call), None, "{call:?}");
        }
    }
}
