//! Rules of the repository that no compiler knows.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn metadata() -> Metadata {
    MetadataCommand::new().current_dir(root()).other_options(vec!["--locked".to_owned()]).exec().unwrap()
}

/// The names of the packages that a member depends on directly, in this way.
fn direct(metadata: &Metadata, package: &str, kind: DependencyKind) -> BTreeSet<String> {
    let package = metadata.workspace_packages().into_iter().find(|member| member.name == package).unwrap();
    package.dependencies.iter().filter(|one| one.kind == kind).map(|one| one.name.clone()).collect()
}

/// Everything that is linked into a member: its dependencies, and theirs.
fn linked(metadata: &Metadata, package: &str) -> BTreeSet<String> {
    let names: BTreeMap<&PackageId, &str> = metadata.packages.iter().map(|p| (&p.id, p.name.as_str())).collect();
    let resolve = metadata.resolve.as_ref().unwrap();
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let mut waiting: Vec<&PackageId> = names.iter().filter(|(_, name)| **name == package).map(|(id, _)| *id).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        for dependency in &nodes[id].deps {
            let normal = dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
            if normal && seen.insert(names[&dependency.pkg].to_owned()) {
                waiting.push(&dependency.pkg);
            }
        }
    }
    seen
}

#[test]
fn core_can_do_no_input_or_output_because_it_depends_on_nothing_that_does() {
    let metadata = metadata();
    let allowed = ["serde", "thiserror"].map(str::to_owned).into();
    let direct = direct(&metadata, "oarlock-core", DependencyKind::Normal);
    assert!(direct.is_subset(&allowed), "{direct:?}");
}

#[test]
fn the_testkit_is_a_dependency_of_tests_alone() {
    let metadata = metadata();
    for member in metadata.workspace_packages() {
        for kind in [DependencyKind::Normal, DependencyKind::Build] {
            assert!(!direct(&metadata, &member.name, kind).contains("oarlock-testkit"), "{} ({kind})", member.name);
        }
    }
}

#[test]
fn no_async_runtime_and_no_protocol_is_under_the_command_line_and_the_hook() {
    let metadata = metadata();
    let there: Vec<&str> = metadata.workspace_packages().iter().map(|member| member.name.as_str()).collect();
    for package in ["oarlock-core", "oarlock-discovery", "oarlock-kernel", "oarlock-cli", "oarlock-hook"] {
        if !there.contains(&package) {
            continue;
        }
        let linked = linked(&metadata, package);
        assert!(linked.contains("thiserror"), "{package} links {linked:?}: this test looks at the wrong thing");
        for banned in ["tokio", "async-std", "smol", "tonic", "prost", "ttrpc", "hyper", "kube"] {
            assert!(!linked.contains(banned), "{package} links {banned}");
        }
    }
}

/// The files of a crate that its targets reach, by `mod` declarations.
fn reached(file: &Path, is_root: bool, found: &mut BTreeSet<PathBuf>) {
    let text = fs::read_to_string(file).unwrap();
    found.insert(file.to_owned());
    let stem = file.file_stem().unwrap();
    let below = if is_root || stem == "mod" { file.parent().unwrap().to_owned() } else { file.with_extension("") };
    for line in text.lines() {
        let Some(name) = line.trim().strip_suffix(';') else { continue };
        let Some((before, name)) = name.rsplit_once("mod ") else { continue };
        if !(before.is_empty() || before.starts_with("pub") && before.ends_with([' ', ')'])) {
            continue;
        }
        for path in [below.join(format!("{name}.rs")), below.join(name).join("mod.rs")] {
            if path.exists() && !found.contains(&path) {
                reached(&path, false, found);
            }
        }
    }
}

/// The repository's own files: those that git has, and those that it would take.
fn own_files() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_terminator('\0').map(|path| root().join(path)).filter(|path| path.is_file()).collect()
}

#[test]
fn every_rust_file_is_compiled() {
    let mut found = BTreeSet::new();
    for member in metadata().workspace_packages() {
        for target in &member.targets {
            reached(target.src_path.as_std_path(), true, &mut found);
        }
    }
    let crates = root().join("crates");
    let forgotten: Vec<PathBuf> = own_files()
        .into_iter()
        .filter(|path| path.starts_with(&crates) && path.extension().is_some_and(|extension| extension == "rs"))
        .filter(|path| !found.contains(path))
        .collect();
    assert!(found.len() > 20, "{found:?}");
    assert!(forgotten.is_empty(), "no target reaches {forgotten:?}");
}

#[test]
fn the_repository_speaks_of_the_project_alone() {
    // In pieces, or this file would speak of them.
    let words = [["/wo", "rk/"], ["../sha", "red"]].map(|pieces| pieces.concat());
    for path in own_files() {
        // CI alone says where its test data is.
        if path == root().join(".ci/run") {
            continue;
        }
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        for word in &words {
            assert!(!text.contains(word.as_str()), "{} names {word}", path.display());
        }
    }
}

#[test]
fn the_guests_scripts_are_shell() {
    for path in own_files() {
        if path.starts_with(root().join("tests/vm")) && path.extension().is_some_and(|extension| extension == "sh") {
            let output = Command::new("sh").arg("-n").arg(&path).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
