//! This program, as others are to call it.

use std::env;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Its path. What is named in a container's configuration has to be there: a runtime creates no container without.
pub(crate) fn path() -> Result<PathBuf, Failure> {
    let unknown = |source| Failure::Read { what: "the own path".to_owned(), source };
    present(&env::current_exe().map_err(unknown)?).ok_or_else(|| unknown(Error::from(ErrorKind::NotFound)))
}

/// The path that is there. Where another program was put in this one's place since it began, as by an upgrade, the kernel calls
/// the path deleted (`proc(5)`), and the other does as well.
fn present(path: &Path) -> Option<PathBuf> {
    let replaced = path.to_str().and_then(|path| path.strip_suffix(" (deleted)")).map(Path::new);
    [Some(path), replaced].into_iter().flatten().find(|path| path.is_file()).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_replaced_goes_by_its_successor_and_one_that_is_gone_by_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hook");
        let deleted = folder.path().join("hook (deleted)");
        assert_eq!(present(&deleted), None);
        std::fs::write(&path, "").unwrap();
        assert_eq!(present(&path), Some(path.clone()));
        assert_eq!(present(&deleted), Some(path));
        std::fs::write(&deleted, "").unwrap();
        assert_eq!(present(&deleted), Some(deleted), "odd, but its name");
    }
}
