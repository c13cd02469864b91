//! `cargo xtask release`: what is given away, from a tag, with checksums and a list of what is in it.

mod sbom;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::build::{self, target_folder};
use crate::{command, image, tools, workspace};

const PACKAGES: [&str; 3] = ["oarlock-cli", "oarlock-agent", "oarlock-hook"];
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Builds those programs that are linked to the system's libraries, and gives their paths.
pub(crate) fn linked_programs() -> Result<Vec<PathBuf>> {
    build::release_programs(&[("oarlock-cli", "oarlock"), ("oarlock-agent", "oarlock-agent")])
}

/// Builds all programs, and gives their paths.
pub(crate) fn programs() -> Result<Vec<PathBuf>> {
    let mut programs = linked_programs()?;
    programs.push(build::hook()?);
    Ok(programs)
}

/// Makes the programs, the image's archive, the chart's package, the bill of materials and the checksums of all, and gives
/// their folder. The tree is as its tag says, which is that of the version.
pub(crate) fn run() -> Result<PathBuf> {
    let git = |arguments: &[&str]| command::capture(Command::new("git").args(arguments).current_dir(workspace()));
    let changed = git(&["status", "--porcelain"])?;
    ensure!(changed.is_empty(), "the tree is not as it was committed:\n{changed}");
    let tags = git(&["tag", "--points-at", "HEAD"])?;
    ensure!(tags.lines().any(|tag| tag == format!("v{VERSION}")), "this commit has no tag v{VERSION}");
    let folder = target_folder().join(format!("oarlock-{VERSION}"));
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    make_in(&folder)?;
    Ok(folder)
}

fn make_in(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let archive = folder.join(format!("oarlock-{VERSION}-x86_64-linux.tar.gz"));
    let programs = programs()?;
    let image = image::of(&programs)?;
    let mut tar = Command::new("tar");
    // One commit makes one archive.
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime", &image::commit_time()?]);
    tar.arg("--create").arg("--gzip").arg("--file").arg(&archive);
    for file in programs.into_iter().chain(["LICENSE", "README.md"].map(|name| workspace().join(name))) {
        tar.arg("--directory").args([file.parent(), file.file_name().map(Path::new)].into_iter().flatten());
    }
    command::run(&mut tar)?;
    let archive = folder.join(format!("oarlock-{VERSION}-image.tar"));
    fs::copy(&image, &archive).with_context(|| format!("cannot copy {}", image.display()))?;
    let mut helm = Command::new(tools::folder()?.join("helm"));
    helm.args(["package", "charts/oarlock", "--destination"]).arg(folder).current_dir(workspace());
    command::capture(&mut helm)?;
    let bill = folder.join(format!("oarlock-{VERSION}.cdx.json"));
    fs::write(&bill, sbom::of(&PACKAGES)?).with_context(|| format!("cannot write {}", bill.display()))?;
    let mut names: Vec<_> = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    names.sort_unstable();
    let sums = command::capture(Command::new("sha256sum").args(names).current_dir(folder))?;
    let file = folder.join("SHA256SUMS");
    fs::write(&file, sums).with_context(|| format!("cannot write {}", file.display()))
}
