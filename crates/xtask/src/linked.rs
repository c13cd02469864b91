//! What a program is linked to.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// The shared libraries that the loader takes for a program, itself included; none for a static one.
pub(crate) fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.contains("not a dynamic executable"), "ldd {}: {}", program.display(), said.trim());
        return Ok(Vec::new());
    }
    let (found, missing) = parse_ldd(&text);
    ensure!(missing.is_empty(), "{} needs {}, which is not installed", program.display(), missing.join(", "));
    Ok(found)
}

/// Paths found and names not found in what ldd prints: `name => path (address)`, or `path (address)` for the loader.
fn parse_ldd(text: &str) -> (Vec<PathBuf>, Vec<String>) {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for line in text.lines().map(str::trim) {
        let (name, target) = line.split_once(" => ").unwrap_or((line, line));
        if target.starts_with("not found") {
            missing.push(name.to_owned());
        } else if target.starts_with('/') {
            let path = target.rsplit_once(" (").map_or(target, |(path, _)| path);
            found.push(PathBuf::from(path));
        }
    }
    (found, missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_names_libraries_the_loader_and_what_is_missing() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibhwloc.so.15 => /lib/x/libhwloc.so.15 (0x00007f)\n\
                    \tlibodd.so.3 => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let (found, missing) = parse_ldd(text);
        assert_eq!(found, [Path::new("/lib/x/libhwloc.so.15"), Path::new("/lib64/ld-linux-x86-64.so.2")]);
        assert_eq!(missing, ["libodd.so.3"]);
        assert_eq!(parse_ldd("\tstatically linked\n"), (vec![], vec![]));
    }

    #[test]
    fn a_program_of_this_system_loads_its_c_library_and_what_is_no_program_is_an_error() {
        let loaded = libraries(Path::new("/bin/sh")).unwrap();
        assert!(loaded.iter().any(|path| path.to_string_lossy().contains("libc.so")), "{loaded:?}");
        assert!(libraries(Path::new("/no/such/program")).is_err());
    }
}
