//! Container runtimes for the guest, as Debian has them, and our own programs beside them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::initramfs::Initramfs;
use super::kubernetes;
use crate::build::{self, cargo, target_folder};
use crate::command;
use crate::debian::Wanted;
use crate::release;

/// The parts of a container runtime that scenarios differ in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Runtime {
    /// What speaks to kubelet.
    pub(crate) containerd: Containerd,
    /// crun starts the containers, else runc.
    pub(crate) crun: bool,
    /// systemd is the guest's first process and makes the cgroups, else the runtime makes them itself.
    pub(crate) systemd: bool,
    /// What is there beside it.
    pub(crate) engine: Option<Engine>,
}

/// What starts containers beside containerd, or in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// podman, which starts the OCI runtime itself.
    Podman,
    /// docker, whose daemon starts containerd.
    Docker,
    /// CRI-O, which answers kubelet in containerd's place. Debian has none: whoever runs this provides its programs.
    Crio,
}

/// Which containerd.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Containerd {
    /// NRI is on. Since 1.36 kubelet asks the runtime for its cgroup driver, and containerd answers that since 2.0.
    #[default]
    V2_1,
    /// Later than Debian's newest: whoever runs this provides its programs.
    V2_3,
    /// NRI is off unless its settings say otherwise.
    V1_7,
    /// Without NRI.
    V1_6,
}

const NEW: Wanted = Wanted {
    suite: "sid",
    packages: &["containerd", "runc", "crun", "systemd"],
    unread: &["usr/share", "usr/lib/x86_64-linux-gnu/gconv"],
};
const OLD: Wanted = Wanted { suite: "trixie", packages: &["containerd", "runc", "crun"], unread: NEW.unread };
const OLDEST: Wanted = Wanted { suite: "bookworm", ..OLD };
const PODMAN: Wanted =
    Wanted { suite: "sid", packages: &["podman", "conmon", "netavark", "runc", "crun"], unread: NEW.unread };
const PODMANS: &[&str] = &["usr/bin/podman", "usr/bin/conmon", "usr/lib/podman/netavark"];
/// Of CRI-O. It shares podman's monitor, and its storage, which podman fills.
const CRIOS: &[&str] = &["crio", "pinns"];
/// Of containerd, where Debian has it not.
const CONTAINERDS: &[&str] = &["containerd", "containerd-shim-runc-v2", "ctr"];
const DOCKER: Wanted = Wanted { suite: "sid", packages: &["docker.io", "docker-cli"], unread: NEW.unread };
const DOCKERS: &[&str] = &["usr/sbin/dockerd", "usr/bin/docker"];
/// crun and podman ask systemd for a cgroup over the system's bus; runc asks systemd itself.
const BUS: Wanted = Wanted { suite: "sid", packages: &["dbus-daemon"], unread: NEW.unread };
const PROGRAMS: [&str; 5] =
    ["usr/bin/containerd", "usr/bin/containerd-shim-runc-v2", "usr/bin/ctr", "usr/sbin/runc", "usr/bin/crun"];
const SYSTEMD: [&str; 3] = ["usr/lib/systemd/systemd", "usr/lib/systemd/systemd-executor", "usr/bin/systemctl"];
const LIBRARIES: &str = "lib/x86_64-linux-gnu";
const LOADER: &str = "ld-linux-x86-64.so.2";

/// Our own part beside `oarlock`: where cargo puts it, and where it is in the guest.
const OWN: [(&str, &str); 4] = [
    ("oarlock-agent", "bin/oarlock-agent"),
    ("cri", "bin/cri"),
    ("examples/pod-resources", "bin/pod-resources"),
    ("liboarlock_nvml_stub.so", "lib/liboarlock_nvml_stub.so"),
];

impl Runtime {
    /// Adds it and our own programs to the guest's first root. `folder` is where Debian's packages are kept on the host.
    pub(crate) fn add_to(self, root: &mut Initramfs, folder: &Path) -> Result<()> {
        // As the image and a release have it, so that it is made once: beside others its libraries would have more features.
        release::linked_programs()?;
        let mut build = cargo();
        build.args(["build", "--release", "--locked", "--package", "oarlock-nvml-stub", "--lib"]);
        build.args(["--package", "oarlock-device-plugin"]);
        build.args(["--example", "pod-resources", "--package", "oarlock-testkit", "--bin", "cri"]);
        command::run(build.args(["--features", "oarlock-testkit/cri"]))?;
        for (built, inside) in OWN {
            root.add_program(inside, &target_folder().join("release").join(built))?;
        }
        root.add_file("bin/oarlock-hook", &build::hook()?);
        let provided = self.programs_of_kubernetes();
        for name in provided {
            root.add_program(&format!("bin/{name}"), &kubernetes::program(name)?)?;
        }
        let new = folder.join("runtime-sid");
        NEW.in_folder(&new)?;
        let new = new.join("root");
        let mut programs = new.clone();
        // The newer C library is good for all programs, ours among them, and so it comes first.
        let mut libraries = BTreeSet::new();
        add_libraries(root, &new, LIBRARIES, &mut libraries)?;
        let old = match self.containerd {
            Containerd::V2_1 | Containerd::V2_3 => None,
            Containerd::V1_7 => Some((OLD, folder.join("runtime-trixie"))),
            Containerd::V1_6 => Some((OLDEST, folder.join("runtime-bookworm"))),
        };
        if let Some((wanted, old)) = old {
            wanted.in_folder(&old)?;
            programs = old.join("root");
            add_libraries(root, &programs, LIBRARIES, &mut libraries)?;
        }
        if let Some(engine) = self.engine {
            let (wanted, engines, programs) = match engine {
                Engine::Podman | Engine::Crio => (PODMAN, "podman-sid", PODMANS),
                Engine::Docker => (DOCKER, "docker-sid", DOCKERS),
            };
            let engine = folder.join(engines);
            wanted.in_folder(&engine)?;
            let engine = engine.join("root");
            add_libraries(root, &engine, LIBRARIES, &mut libraries)?;
            for program in programs {
                root.add_file(program, &engine.join(program));
            }
        }
        for program in PROGRAMS {
            let name = program.rsplit('/').next().unwrap_or(program);
            if provided.contains(&name) {
                continue;
            }
            root.add_file(&format!("bin/{name}"), &programs.join(program));
        }
        root.add_file(&format!("lib64/{LOADER}"), &new.join("usr").join(LIBRARIES).join(LOADER));
        if self.systemd {
            for program in SYSTEMD {
                root.add_file(program, &new.join(program));
            }
            add_libraries(root, &new, &format!("usr/{LIBRARIES}/systemd"), &mut BTreeSet::new())?;
            if self.crun || self.engine.is_some() {
                let bus = folder.join("runtime-bus");
                BUS.in_folder(&bus)?;
                root.add_file("usr/bin/dbus-daemon", &bus.join("root/usr/bin/dbus-daemon"));
                add_libraries(root, &bus.join("root"), LIBRARIES, &mut libraries)?;
            }
        }
        Ok(())
    }

    /// The programs of Kubernetes that it takes.
    pub(crate) fn programs_of_kubernetes(self) -> &'static [&'static str] {
        match (self.engine, self.containerd) {
            (Some(Engine::Crio), _) => CRIOS,
            (_, Containerd::V2_3) => CONTAINERDS,
            _ => &[],
        }
    }

    /// Its parts as variables of the guest's shell.
    pub(crate) fn shell_variables(self) -> String {
        let containerd = match self.containerd {
            Containerd::V2_1 => "2.1",
            Containerd::V2_3 => "2.3",
            Containerd::V1_7 => "1.7",
            Containerd::V1_6 => "1.6",
        };
        let oci_runtime = if self.crun { "crun" } else { "runc" };
        let cgroup_driver = if self.systemd { "systemd" } else { "cgroupfs" };
        let (runtime, socket) = match self.engine {
            Some(Engine::Crio) => ("crio", "/run/crio/crio.sock"),
            _ => ("containerd", "/run/containerd/containerd.sock"),
        };
        format!(
            "RUNTIME={runtime}\nexport CRI_SOCKET={socket}\nCONTAINERD={containerd}\nOCI_RUNTIME={oci_runtime}\n\
             CGROUP_DRIVER={cgroup_driver}\n"
        )
    }
}

/// Adds the libraries of a folder whose names are not taken yet. Without `usr`, since the host's programs look for theirs
/// there.
fn add_libraries(root: &mut Initramfs, debian: &Path, folder: &str, taken: &mut BTreeSet<String>) -> Result<()> {
    let from = debian.join("usr").join(folder.trim_start_matches("usr/"));
    for entry in fs::read_dir(&from).with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry.with_context(|| format!("cannot read {}", from.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_file() && taken.insert(name.clone()) {
            root.add_file(&format!("{folder}/{name}"), &path);
        }
    }
    Ok(())
}
