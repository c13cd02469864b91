//! What the guest needs to be a Kubernetes node: a kubelet, which whoever runs this provides, and a container runtime,
//! which Debian does.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::initramfs::Initramfs;
use crate::build::{cargo, target_folder};
use crate::command;
use crate::debian::Wanted;

/// The scenario that needs these.
pub(crate) const SCENARIO: &str = "kubelet";
/// kubelet is started several times, and an emulated CPU takes it tens of seconds each time.
pub(crate) const LIMIT: Duration = Duration::from_secs(600);

/// The folder of Kubernetes' programs.
const PROGRAMS: &str = "OARLOCK_K8S_BIN";

/// Since 1.36 kubelet asks the runtime for its cgroup driver, and containerd answers that since 2.0, which no stable
/// Debian has yet.
const RUNTIME: Wanted =
    Wanted { suite: "sid", packages: &["containerd", "runc"], unread: &["usr/share", "usr/lib/x86_64-linux-gnu/gconv"] };
const RUNTIME_PROGRAMS: [&str; 4] =
    ["usr/bin/containerd", "usr/bin/containerd-shim-runc-v2", "usr/bin/ctr", "usr/sbin/runc"];
/// Its C library. Newer than the host's, and so good for our own programs too.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LOADER: &str = "ld-linux-x86-64.so.2";

/// Our own part beside `oarlock`: where cargo puts it, and where it is in the guest.
const OWN: [(&str, &str); 3] = [
    ("oarlock-agent", "bin/oarlock-agent"),
    ("examples/pod-resources", "bin/pod-resources"),
    ("liboarlock_nvml_stub.so", "lib/liboarlock_nvml_stub.so"),
];

/// Why the scenario cannot be run; nothing where it can.
pub(crate) fn lacking() -> Option<String> {
    kubelet().err()
}

/// Adds kubelet, runtime and agent to the guest's first root. `folder` is where the runtime is kept on the host.
pub(crate) fn add_to(root: &mut Initramfs, folder: &Path) -> Result<()> {
    let kubelet = kubelet().map_err(anyhow::Error::msg)?;
    root.add_program("bin/kubelet", &kubelet)?;
    let mut build = cargo();
    build.args(["build", "--release", "--locked", "--package", "oarlock-agent", "--bin", "oarlock-agent"]);
    build.args(["--package", "oarlock-nvml-stub", "--lib", "--package", "oarlock-device-plugin"]);
    command::run(build.args(["--example", "pod-resources"]))?;
    for (built, inside) in OWN {
        root.add_program(inside, &target_folder().join("release").join(built))?;
    }
    RUNTIME.in_folder(folder)?;
    let debian = folder.join("root");
    for program in RUNTIME_PROGRAMS {
        let name = program.rsplit('/').next().unwrap_or(program);
        root.add_file(&format!("bin/{name}"), &debian.join(program));
    }
    let libraries = debian.join(LIBRARIES);
    for entry in fs::read_dir(&libraries).with_context(|| format!("cannot read {}", libraries.display()))? {
        let path = entry.with_context(|| format!("cannot read {}", libraries.display()))?.path();
        if path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            root.add_file(&format!("lib/x86_64-linux-gnu/{name}"), &path);
        }
    }
    root.add_file(&format!("lib64/{LOADER}"), &libraries.join(LOADER));
    Ok(())
}

fn kubelet() -> Result<PathBuf, String> {
    let folder = env::var_os(PROGRAMS).ok_or_else(|| format!("${PROGRAMS} names no folder with a kubelet"))?;
    let kubelet = PathBuf::from(folder).join("kubelet");
    if kubelet.is_file() { Ok(kubelet) } else { Err(format!("${PROGRAMS} holds no kubelet: {} is not there", kubelet.display())) }
}
