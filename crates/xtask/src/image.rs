//! The container image, built by buildah on a base of Debian's packages: no registry is asked for anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::build::target_folder;
use crate::debian::Wanted;
use crate::packages::{self, For};
use crate::{command, release, workspace};

/// The image's name in its archive: the chart's default, so that a host that has loaded it asks no registry.
const NAME: &str = "oarlock/oarlock";
/// What the programs are linked to. No shell, and nobody's programs but ours.
const BASE: Wanted = Wanted {
    suite: "trixie",
    packages: &["base-files", "libgcc-s1", "libhwloc15", "libudev1"],
    unread: &["usr/share", "usr/bin", "usr/sbin", "usr/lib/x86_64-linux-gnu/gconv"],
};
/// The image of it that is the Dockerfile's base here.
const BASE_NAME: &str = "localhost/oarlock-base";

/// Builds the programs and the image, and gives its archive, as `docker save` would have written it.
pub(crate) fn build() -> Result<PathBuf> {
    of(&release::programs()?)
}

/// The image of these programs.
pub(crate) fn of(programs: &[PathBuf]) -> Result<PathBuf> {
    packages::require(&[For::Image])?;
    let folder = target_folder().join("image");
    let (base, ours) = (folder.join("base"), folder.join("programs"));
    fs::create_dir_all(&ours).with_context(|| format!("cannot make {}", ours.display()))?;
    for program in programs {
        let name = program.file_name().with_context(|| format!("{} is no program", program.display()))?;
        fs::copy(program, ours.join(name)).with_context(|| format!("cannot copy {}", program.display()))?;
    }
    BASE.in_folder(&base)?;
    let root = base.join("root");
    let made = folder.join("base.Dockerfile");
    fs::write(&made, "FROM scratch\nCOPY . /\n").with_context(|| format!("cannot write {}", made.display()))?;
    let time = commit_time()?;
    // One commit makes one image.
    let stamp = ["--timestamp", time.trim_start_matches('@'), "--layers=false", "--quiet"];
    command::run(buildah(&folder, "build").args(stamp).args(["--tag", BASE_NAME, "--file"]).arg(&made).arg(&root))?;
    let name = format!("{NAME}:{}", env!("CARGO_PKG_VERSION"));
    let mut image = buildah(&folder, "build");
    image.args(stamp).args(["--tag", &name, "--pull-never"]);
    image.arg(format!("--build-context=base=container-image://{BASE_NAME}"));
    image.args(["--build-arg", concat!("VERSION=", env!("CARGO_PKG_VERSION")), "--build-arg"]);
    image.arg(format!("REVISION={}", git(&["rev-parse", "HEAD"])?));
    image.arg(format!("--build-context=programs={}", ours.display()));
    command::run(image.current_dir(workspace()).arg("."))?;
    let archive = folder.join(format!("oarlock-{}.tar", env!("CARGO_PKG_VERSION")));
    match fs::remove_file(&archive) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", archive.display()));
        }
        _ => {}
    }
    let to = format!("docker-archive:{}:{name}", archive.display());
    command::run(buildah(&folder, "push").args(["--quiet", &name, &to]))?;
    Ok(archive)
}

/// buildah with a store of its own. Nothing runs in its containers, so that no privileges are taken.
fn buildah(folder: &Path, verb: &str) -> Command {
    let mut command = Command::new("buildah");
    command.arg("--root").arg(folder.join("store")).arg("--runroot").arg(folder.join("run"));
    command.args(["--storage-driver", "vfs", verb]);
    command
}

/// When the commit was made, as `@` and seconds: the time of what is made from it.
pub(crate) fn commit_time() -> Result<String> {
    git(&["log", "-1", "--format=@%ct"])
}

fn git(arguments: &[&str]) -> Result<String> {
    let output = command::capture(Command::new("git").args(arguments).current_dir(workspace()))?;
    Ok(output.trim().to_owned())
}
