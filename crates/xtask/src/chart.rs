//! What follows from the chart's `values.yaml` and templates, and is committed beside them: the schema of the values, the
//! table of the chart's README, and the chart rendered with its defaults.

mod schema;
mod table;
mod values;

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{command, tools, workspace};
use values::Values;

const VALUES: &str = "charts/oarlock/values.yaml";
const SCHEMA: &str = "charts/oarlock/values.schema.json";
const README: &str = "charts/oarlock/README.md";
const RENDERED: &str = "manifests/oarlock.yaml";

/// The files that follow from the chart, as they should be: their paths, and what is in them.
pub(crate) fn files() -> Result<Vec<(&'static str, String)>> {
    let read = |path: &str| fs::read_to_string(workspace().join(path)).with_context(|| format!("cannot read {path}"));
    let values = Values::parse(&read(VALUES)?).with_context(|| format!("{VALUES} cannot be described"))?;
    let readme = table::put_into(&read(README)?, &values).with_context(|| format!("{README} has no place for it"))?;
    Ok(vec![(SCHEMA, schema::of(&values)?), (README, readme)])
}

/// The chart rendered with its defaults, as [`files`] are. It takes helm, and the schema as it is on the disk. Where the
/// network gives no helm, it is said and left.
pub(crate) fn rendered() -> Result<Option<(&'static str, String)>> {
    let programs = match tools::folder() {
        Ok(programs) => programs,
        Err(error) => {
            println!("  SKIPPED {RENDERED}: {error:#}");
            return Ok(None);
        }
    };
    let mut helm = Command::new(programs.join("helm"));
    // A cluster of one's own choice is told to helm, or it takes the one that it was built with.
    helm.args(["template", "oarlock", "charts/oarlock", "--namespace", "oarlock", "--kube-version", "1.34.0"]);
    helm.args(["--api-versions", "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"]);
    let objects = command::capture(helm.current_dir(workspace()))?;
    let head = "# The chart with its defaults, for those without helm; cargo xtask generate writes it. Make the namespace first:\n\
        # kubectl create namespace oarlock\n";
    Ok(Some((RENDERED, format!("{head}{objects}"))))
}
