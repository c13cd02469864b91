//! A kubelet for the guest, which whoever runs this provides.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use super::initramfs::Initramfs;

/// The folder of Kubernetes' programs.
const PROGRAMS: &str = "OARLOCK_K8S_BIN";

/// Why the scenario cannot be run; nothing where it can.
pub(crate) fn lacking() -> Option<String> {
    kubelet(env::var_os(PROGRAMS)).err().map(|reason| reason.to_string())
}

/// Adds it to the guest's first root.
pub(crate) fn add_to(root: &mut Initramfs) -> Result<()> {
    root.add_program("bin/kubelet", &kubelet(env::var_os(PROGRAMS))?)
}

fn kubelet(folder: Option<OsString>) -> Result<PathBuf> {
    let folder = folder.with_context(|| format!("${PROGRAMS} names no folder with a kubelet"))?;
    let kubelet = PathBuf::from(folder).join("kubelet");
    ensure!(kubelet.is_file(), "${PROGRAMS} holds no kubelet: {} is not there", kubelet.display());
    Ok(kubelet)
}

#[cfg(test)]
mod tests {
    use std::fs;

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
