//! The documents' commands, as they stand there: those that need nothing but a saved machine.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod call;

use std::fs;
use std::path::{Path, PathBuf};

use call::Call;

/// A command of a document, and what stands below it.
struct Shown {
    file: PathBuf,
    words: String,
    output: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// The commands in the consoles of all documents.
fn commands() -> Vec<Shown> {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    files.sort_unstable();
    let mut commands: Vec<Shown> = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for console in text.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            for line in console.lines() {
                match line.strip_prefix("$ ") {
                    Some(words) => {
                        commands.push(Shown { file: file.clone(), words: words.to_owned(), output: String::new() });
                    }
                    None => commands.last_mut().unwrap().output.extend([line, "\n"]),
                }
            }
        }
    }
    commands
}

/// Runs a command as a shell would, in the repository's root, with the `oarlock` of this build.
fn run(words: &str) -> Call {
    let own = assert_cmd::cargo::cargo_bin("oarlock");
    let path = format!("{}:{}", own.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", words]).current_dir(root()).env("PATH", path).env_remove("OARLOCK_NVML_LIBRARY");
    shell.output().unwrap().into()
}

#[test]
fn every_command_on_a_saved_machine_does_what_the_document_shows() {
    let mut seen = 0;
    for shown in commands().iter().filter(|shown| shown.words.contains("--machine tests/fixtures")) {
        let (command, picture) = match shown.words.split_once(" > ") {
            Some((command, picture)) => (command, Some(picture)),
            None => (shown.words.as_str(), None),
        };
        let call = run(command);
        let refused = shown.output.starts_with("oarlock: ");
        assert_eq!(call.status, i32::from(refused), "{}: {}: {call:?}", shown.file.display(), shown.words);
        if !shown.output.is_empty() {
            assert_eq!(if refused { &call.stderr } else { &call.stdout }, &shown.output, "{}", shown.words);
        }
        if let Some(picture) = picture {
            let drawn = fs::read_to_string(root().join(picture)).unwrap();
            assert!(call.stdout == drawn, "{picture} is not what its command draws: {}", shown.words);
        }
        seen += 1;
    }
    assert!(seen >= 8, "{seen}");
}

#[test]
fn every_picture_and_page_that_a_document_names_is_there() {
    let mut seen = 0;
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for target in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let target = target.split('#').next().unwrap();
            if !target.contains("://") && !target.is_empty() {
                assert!(path.parent().unwrap().join(target).exists(), "{} names {target}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen >= 7, "{seen}");
}
