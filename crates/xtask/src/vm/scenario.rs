//! A scenario, as a shape or a user names it: a script, and the parts it runs on, as in `pods+containerd-1.7+linux-6.12`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde::Deserialize;

use super::control_plane;
use super::kernel::Linux;
use super::runtime::{Containerd, Engine, Runtime};

/// A script of `tests/vm/scenarios`, and the container runtime below it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Scenario {
    text: String,
    /// The script, without its ending.
    pub(crate) script: String,
    /// What a script that needs one runs its containers with.
    pub(crate) runtime: Runtime,
    /// The guest's kernel.
    pub(crate) linux: Linux,
}

/// What a script finds in its guest beside our programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// A container runtime, the agent, and what asks them.
    Runtime,
    /// A kubelet.
    Kubelet,
    /// The container image, and the chart rendered.
    Image,
    /// The rest of a cluster, on the host, with what speaks to it.
    ControlPlane,
    /// The kernel crate's own tests.
    KernelTests,
    /// Debian's torchrun, on a disk.
    Torchrun,
    /// Files that can be mounted as disks.
    Loop,
}

impl Scenario {
    /// What its script needs.
    pub(crate) fn needs(&self) -> &'static [Part] {
        match self.script.as_str() {
            "rank-cgroup" => &[Part::KernelTests],
            "torchrun" => &[Part::Torchrun],
            "pods" | "churn" | "chaos" | "hostile" | "hook" | "hook-crio" | "hook-docker" | "hook-podman"
            | "hook-starts" => &[Part::Runtime],
            "lives" => &[Part::Runtime, Part::Loop],
            "training" => &[Part::Runtime, Part::Torchrun],
            "kubelet" | "kubelet-nodes" | "kubelet-ranks" => &[Part::Runtime, Part::Kubelet],
            "image" => &[Part::Runtime, Part::Image],
            "chart" => &[Part::Runtime, Part::Kubelet, Part::Image],
            "cluster" => &[Part::Runtime, Part::Kubelet, Part::Image, Part::ControlPlane],
            _ => &[],
        }
    }

    /// The programs of Kubernetes that it takes.
    pub(crate) fn programs_of_kubernetes(&self) -> Vec<&'static str> {
        let mut programs = self.runtime.programs_of_kubernetes().to_vec();
        if self.needs().contains(&Part::Kubelet) {
            programs.push("kubelet");
        }
        if self.needs().contains(&Part::ControlPlane) {
            programs.extend(control_plane::PROGRAMS);
        }
        programs
    }

    /// How long the guest may take, on a machine that does other things too.
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs(match self.script.as_str() {
            // kubelet is started several times, and an emulated CPU takes it tens of seconds each time.
            "kubelet" | "kubelet-nodes" | "kubelet-ranks" => 600,
            // Importing torch takes an emulated CPU half a minute, and every rank does it.
            "torchrun" | "pods" | "hostile" | "lives" | "image" | "chart" => 900,
            // Runtimes start containers two dozen times, each with a dozen programs.
            "hook" | "hook-crio" | "hook-docker" | "hook-podman" | "cluster" => 1500,
            "training" | "churn" => 1800,
            "chaos" | "hook-starts" => 3600,
            // Five seconds to boot and a few to run.
            _ => 180,
        })
    }
}

impl FromStr for Scenario {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split('+');
        let script = words.next().unwrap_or_default().to_owned();
        let engine = match script.as_str() {
            "hook-podman" => Some(Engine::Podman),
            "hook-docker" => Some(Engine::Docker),
            "hook-crio" => Some(Engine::Crio),
            _ => None,
        };
        let mut runtime = Runtime { engine, ..Runtime::default() };
        let mut linux = Linux::default();
        for word in words {
            match word {
                "linux-6.12" => linux = Linux::V6_12,
                "containerd-2.3" => runtime.containerd = Containerd::V2_3,
                "containerd-1.7" => runtime.containerd = Containerd::V1_7,
                "containerd-1.6" => runtime.containerd = Containerd::V1_6,
                "crio" => runtime.engine = Some(Engine::Crio),
                "crun" => runtime.crun = true,
                "systemd" => runtime.systemd = true,
                _ => bail!(
                    "{text} names {word}: the parts of a scenario are linux-6.12, containerd-2.3, containerd-1.7, containerd-1.6, crio, crun and systemd"
                ),
            }
        }
        let scenario = Self { text: text.to_owned(), script, runtime, linux };
        ensure!(
            scenario.runtime == Runtime::default() || scenario.needs().contains(&Part::Runtime),
            "{text} names parts of a container runtime: {} has none",
            scenario.script
        );
        Ok(scenario)
    }
}

impl TryFrom<String> for Scenario {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_is_a_script_and_the_parts_below_it() {
        let plain: Scenario = "pods".parse().unwrap();
        assert_eq!((plain.script.as_str(), plain.runtime), ("pods", Runtime::default()));
        let parts: Scenario = "pods+containerd-1.7+crun+systemd+linux-6.12".parse().unwrap();
        assert_eq!(parts.script, "pods");
        let runtime = Runtime { containerd: Containerd::V1_7, crun: true, systemd: true, engine: None };
        assert_eq!(parts.runtime, runtime);
        assert_eq!(parts.to_string(), "pods+containerd-1.7+crun+systemd+linux-6.12");
        assert_eq!((plain.linux, parts.linux), (Linux::V6_1, Linux::V6_12));
    }

    #[test]
    fn what_debian_has_not_is_taken_from_the_programs_of_kubernetes() {
        let programs = |text: &str| text.parse::<Scenario>().unwrap().programs_of_kubernetes();
        assert_eq!(programs("pods+crio"), ["crio", "pinns"]);
        assert_eq!(programs("hook-crio"), ["crio", "pinns"]);
        assert_eq!(programs("kubelet+crio"), ["crio", "pinns", "kubelet"]);
        assert_eq!(programs("pods+containerd-2.3"), ["containerd", "containerd-shim-runc-v2", "ctr"]);
        assert_eq!(programs("hook-docker"), [""; 0]);
    }

    #[test]
    fn an_unknown_part_and_a_part_of_what_is_not_there_are_refused() {
        let error = "pods+podman".parse::<Scenario>().unwrap_err().to_string();
        assert!(error.starts_with("pods+podman names podman"), "{error}");
        let error = "bind+crun".parse::<Scenario>().unwrap_err().to_string();
        assert_eq!(error, "bind+crun names parts of a container runtime: bind has none");
    }
}
