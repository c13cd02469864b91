//! What the guest needs to be a Kubernetes node: a kubelet, which whoever runs this provides, and a container runtime,
//! which Debian does.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

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
const RUNTIME: Wanted = Wanted {
    suite: "sid",
    packages: &["containerd", "runc"],
    unread: &["usr/share", "usr/lib/x86_64-linux-gnu/gconv"],
};
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
    kubelet(env::var_os(PROGRAMS)).err().map(|reason| reason.to_string())
}

/// Adds kubelet, runtime and agent to the guest's first root. `folder` is where the runtime is kept on the host.
pub(crate) fn add_to(root: &mut Initramfs, folder: &Path) -> Result<()> {
    root.add_program("bin/kubelet", &kubelet(env::var_os(PROGRAMS))?)?;
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

fn kubelet(folder: Option<OsString>) -> Result<PathBuf> {
    let folder = folder.with_context(|| format!("${PROGRAMS} names no folder with a kubelet"))?;
    let kubelet = PathBuf::from(folder).join("kubelet");
    ensure!(kubelet.is_file(), "${PROGRAMS} holds no kubelet: {} is not there", kubelet.display());
    Ok(kubelet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_folder_and_without_a_kubelet_in_it_there_is_a_reason_to_skip() {
        assert_eq!(kubelet(None).unwrap_err().to_string(), "$OARLOCK_K8S_BIN names no folder with a kubelet");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubelet");
        let error = kubelet(Some(folder.path().into())).unwrap_err().to_string();
        assert_eq!(error, format!("$OARLOCK_K8S_BIN holds no kubelet: {} is not there", path.display()));
        fs::write(&path, "").unwrap();
        assert_eq!(kubelet(Some(folder.path().into())).unwrap(), path);
    }
}
