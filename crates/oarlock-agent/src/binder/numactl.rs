//! Launchers that bind their ranks themselves, as their arguments show it. torchrun does so by starting each rank through
//! `numactl` (`torch/numa/binding.py`). That is told and not fought: what they choose holds within the rank's wall.

use std::path::Path;

/// torchrun's modes (`torch/distributed/run.py`).
const MODES: [&str; 4] = ["node", "socket", "exclusive", "core-complex"];

/// The mode of torchrun's `--numa-binding`, where it is the launcher's own: an argument of its program is among those of its
/// ranks too.
pub(super) fn mode_of(launcher: &[Vec<u8>], rank: &[Vec<u8>]) -> Option<&'static str> {
    mode_among(launcher).filter(|_| mode_among(rank).is_none())
}

fn mode_among(arguments: &[Vec<u8>]) -> Option<&'static str> {
    arguments.iter().enumerate().find_map(|(at, argument)| {
        let rest = argument.strip_prefix(b"--numa-binding").or_else(|| argument.strip_prefix(b"--numa_binding"))?;
        let value = if rest.is_empty() { arguments.get(at + 1)?.as_slice() } else { rest.strip_prefix(b"=")? };
        MODES.into_iter().find(|mode| mode.as_bytes() == value)
    })
}

/// Whether the process is still `numactl`, which executes the rank next. It ends with an error where it may not use the CPUs
/// that it was told (`numactl(8)`), and so is not held before it has done its work.
pub(super) fn is_numactl(arguments: &[Vec<u8>]) -> bool {
    let program = arguments.first().and_then(|program| std::str::from_utf8(program).ok());
    program.is_some_and(|program| Path::new(program).file_name().is_some_and(|name| name == "numactl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &str) -> Vec<Vec<u8>> {
        text.split(' ').map(|argument| argument.as_bytes().to_vec()).collect()
    }

    #[test]
    fn a_launchers_own_option_is_found_and_its_programs_is_not() {
        let rank = arguments("python -u train.py --lr 1");
        for (text, expected) in [
            ("python /usr/bin/torchrun --numa-binding=node --nproc-per-node 8 train.py", Some("node")),
            ("python /usr/bin/torchrun --numa_binding core-complex train.py", Some("core-complex")),
            ("python /usr/bin/torchrun train.py", None),
            ("python /usr/bin/torchrun --numa-binding", None),
            ("python /usr/bin/torchrun --numa-bindings=node", None),
            ("python /usr/bin/torchrun --numa-binding=\u{1b}[31mnode", None),
            ("", None),
        ] {
            assert_eq!(mode_of(&arguments(text), &rank), expected, "{text}");
        }
        let launcher = arguments("torchrun train.py --numa-binding node");
        assert_eq!(mode_of(&launcher, &arguments("python -u train.py --numa-binding node")), None);
    }

    #[test]
    fn numactl_is_known_by_its_name_alone() {
        assert!(is_numactl(&arguments("/usr/bin/numactl --physcpubind=0-3 python")));
        for other in ["python numactl", "numactl/python", "mynumactl", ""] {
            assert!(!is_numactl(&arguments(other)), "{other}");
        }
        assert!(!is_numactl(&[]) && !is_numactl(&[vec![0xff]]));
    }
}
