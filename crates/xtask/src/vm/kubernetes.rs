//! Programs of Kubernetes, which whoever runs this provides.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

/// The folder of the programs.
const PROGRAMS: &str = "OARLOCK_K8S_BIN";

/// Why what takes these programs cannot be run; nothing where it can.
pub(crate) fn lacking(programs: &[&str]) -> Option<String> {
    programs.iter().find_map(|name| program(name).err()).map(|reason| reason.to_string())
}

/// Where the program is.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    program_in(env::var_os(PROGRAMS), name)
}

/// The folder of them all.
pub(crate) fn folder() -> Result<PathBuf> {
    env::var_os(PROGRAMS).map(PathBuf::from).with_context(|| format!("${PROGRAMS} is not set"))
}

fn program_in(folder: Option<OsString>, name: &str) -> Result<PathBuf> {
    let folder = folder.with_context(|| format!("${PROGRAMS} names no folder with a {name}"))?;
    let program = PathBuf::from(folder).join(name);
    ensure!(program.is_file(), "${PROGRAMS} holds no {name}: {} is not there", program.display());
    Ok(program)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn without_a_folder_and_without_the_program_in_it_there_is_a_reason_to_skip() {
        let none = program_in(None, "kubelet").unwrap_err().to_string();
        assert_eq!(none, "$OARLOCK_K8S_BIN names no folder with a kubelet");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubelet");
        let error = program_in(Some(folder.path().into()), "kubelet").unwrap_err().to_string();
        assert_eq!(error, format!("$OARLOCK_K8S_BIN holds no kubelet: {} is not there", path.display()));
        fs::write(&path, "").unwrap();
        assert_eq!(program_in(Some(folder.path().into()), "kubelet").unwrap(), path);
    }
}
