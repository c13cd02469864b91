//! `cargo xtask generate`: Rust from `proto/`, and what follows from the chart. The result is committed, so that nobody who
//! builds needs protoc, and nobody who installs needs helm; the proto files are read by a library for the same reason.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::{chart, workspace};

/// What is generated: a proto file, and the file it becomes.
const GENERATED: [(&str, &str); 4] = [
    ("proto/deviceplugin/v1beta1/api.proto", "crates/oarlock-device-plugin/src/proto/v1beta1.rs"),
    ("proto/podresources/v1/api.proto", "crates/oarlock-device-plugin/src/proto/v1.rs"),
    ("proto/nri/v1alpha1/api.proto", "crates/oarlock-nri/src/proto/v1alpha1.rs"),
    ("proto/cri/v1/api.proto", "crates/oarlock-testkit/src/cri/v1.rs"),
];

/// NRI's calls go over ttrpc.
const WITHOUT_SERVICES: &str = "proto/nri/";

/// Writes what is generated, or, with `check`, compares it with what is committed.
pub(crate) fn run(check: bool) -> Result<()> {
    for (proto, rust) in GENERATED {
        let fresh = code_of(&workspace().join(proto), !proto.starts_with(WITHOUT_SERVICES))
            .with_context(|| format!("cannot generate code from {proto}"))?;
        put(rust, &fresh, check)?;
    }
    for (path, fresh) in chart::files()? {
        put(path, &fresh, check)?;
    }
    // After the others: helm reads the schema.
    chart::rendered()?.map_or(Ok(()), |(path, fresh)| put(path, &fresh, check))
}

fn put(path: &str, fresh: &str, check: bool) -> Result<()> {
    let committed = workspace().join(path);
    let held = fs::read_to_string(&committed);
    // A file that is written anew is compiled anew.
    if held.as_ref().is_ok_and(|held| held == fresh) {
        return Ok(());
    }
    if check {
        held.with_context(|| format!("cannot read {path}"))?;
        bail!("{path} is not what it is generated from gives: run cargo xtask generate");
    }
    fs::write(&committed, fresh).with_context(|| format!("cannot write {path}"))
}

/// The Rust code of one proto file, whose name is its package's.
fn code_of(proto: &Path, services: bool) -> Result<String> {
    let folder = proto.parent().context("a proto file lies in a folder")?;
    let descriptors = protox::compile([proto], [folder])?;
    let package = descriptors.file.first().context("the file is empty")?.package().to_owned();
    let out = tempfile::tempdir()?;
    tonic_prost_build::configure()
        .out_dir(out.path())
        .build_client(services)
        .build_server(services)
        // The same answer in the same order each time.
        .btree_map(".")
        // The testkit's client takes CRI's messages as JSON, as files that a script writes.
        .message_attribute(".runtime.v1", "#[derive(serde::Deserialize)] #[serde(default, deny_unknown_fields)]")
        .compile_fds(descriptors)?;
    Ok(fs::read_to_string(out.path().join(format!("{package}.rs")))?)
}
