//! `oarlock agent` and `oarlock hook` are other programs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A copy of `oarlock` in a folder of its own.
fn alone(folder: &Path) -> PathBuf {
    let own = folder.join("oarlock");
    fs::copy(env!("CARGO_BIN_EXE_oarlock"), &own).unwrap();
    own
}

/// A program that says its name and its arguments.
fn program(folder: &Path, name: &str, says: &str) {
    let path = folder.join(format!("oarlock-{name}"));
    fs::write(&path, format!("#!/bin/sh\necho {says} \"$@\"\nexit 7\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn call(oarlock: &Path, name: &str, path: &Path) -> (i32, String, String) {
    let mut command = Command::new(oarlock);
    let command = command.args([name, "--print-config", "--help", "--", "x"]).env("PATH", path);
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

// One test: a program that was just written cannot be executed while another test's child still has it open for writing.
#[test]
fn another_program_is_looked_for_beside_then_on_the_path_and_gets_all_arguments() {
    for name in ["agent", "hook"] {
        let (folder, path) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let own = alone(folder.path());
        let (status, _, said) = call(&own, name, path.path());
        assert_eq!((status, said.lines().count()), (127, 1), "{said}");
        assert!(said.starts_with(&format!("oarlock: failed to execute \"oarlock-{name}\": ")), "{said}");

        program(path.path(), name, "path");
        assert_eq!(call(&own, name, path.path()), (7, "path --print-config --help -- x\n".to_owned(), String::new()));
        program(folder.path(), name, "beside");
        assert_eq!(call(&own, name, path.path()).1, "beside --print-config --help -- x\n");
    }
}
