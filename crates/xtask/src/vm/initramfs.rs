//! The guest's first root: busybox, programs with the libraries they load, kernel modules and scripts, in one archive.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cpio::NewcBuilder;

use crate::linked::libraries;

/// Permissions and types as in `stat.st_mode`.
const FOLDER: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;

/// Files by their path in the guest (no slash first).
#[derive(Debug, Default)]
pub(crate) struct Initramfs {
    files: BTreeMap<PathBuf, Content>,
}

#[derive(Debug)]
enum Content {
    Folder,
    Text(Vec<u8>),
    HostFile(PathBuf),
}

impl Initramfs {
    /// Adds a file with this text.
    pub(crate) fn add_text(&mut self, to: &str, text: impl Into<Vec<u8>>) {
        self.add(Path::new(to), Content::Text(text.into()));
    }

    /// Adds an empty folder.
    pub(crate) fn add_folder(&mut self, to: &str) {
        self.add(Path::new(to), Content::Folder);
    }

    /// Adds a file of the host.
    pub(crate) fn add_file(&mut self, to: &str, from: &Path) {
        self.add(Path::new(to), Content::HostFile(from.to_owned()));
    }

    /// Adds a folder of the host, and what is in it.
    pub(crate) fn add_tree(&mut self, to: &str, from: &Path) -> Result<()> {
        self.add_folder(to);
        for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
            let path = entry.with_context(|| format!("cannot read {}", from.display()))?.path();
            let inside = format!("{to}/{}", path.file_name().unwrap_or_default().to_string_lossy());
            if path.is_dir() { self.add_tree(&inside, &path)? } else { self.add_file(&inside, &path) }
        }
        Ok(())
    }

    /// Adds a program of the host, and the libraries that it loads at the same places as on the host.
    pub(crate) fn add_program(&mut self, to: &str, from: &Path) -> Result<()> {
        self.add_file(to, from);
        for library in libraries(from)? {
            let inside = library.strip_prefix("/").unwrap_or(&library).to_owned();
            self.add(&inside, Content::HostFile(library));
        }
        Ok(())
    }

    fn add(&mut self, to: &Path, content: Content) {
        for folder in to.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
            self.files.entry(folder.to_owned()).or_insert(Content::Folder);
        }
        self.files.insert(to.to_owned(), content);
    }

    /// Writes the archive, uncompressed: an emulated CPU would spend seconds on what the host's disk reads at once.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let write = || -> Result<()> {
            let mut archive = BufWriter::new(File::create(path)?);
            // Folders sort before what is in them, as the kernel wants it.
            for (number, (inside, content)) in (1..).zip(&self.files) {
                let (mode, bytes) = match content {
                    Content::Folder => (FOLDER, Vec::new()),
                    Content::Text(text) => (EXECUTABLE, text.clone()),
                    Content::HostFile(from) => {
                        let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
                        (EXECUTABLE, bytes)
                    }
                };
                let entry = NewcBuilder::new(&inside.to_string_lossy()).ino(number).mode(mode).nlink(1);
                let mut writer = entry.write(&mut archive, bytes.len() as u32);
                writer.write_all(&bytes)?;
                writer.finish()?;
            }
            cpio::newc::trailer(archive)?.flush()?;
            Ok(())
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_every_folder_before_its_files_and_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.cpio");
        let mut root = Initramfs::default();
        root.add_text("deep/down/file", "text");
        root.add_folder("proc");
        root.write(&path).unwrap();
        let mut names = Vec::new();
        let mut file = File::open(&path).unwrap();
        loop {
            let reader = cpio::NewcReader::new(file).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let entry = reader.entry();
            names.push((entry.name().to_owned(), entry.mode(), entry.file_size()));
            file = reader.finish().unwrap();
        }
        let expected =
            [("deep", FOLDER, 0), ("deep/down", FOLDER, 0), ("deep/down/file", EXECUTABLE, 4), ("proc", FOLDER, 0)];
        assert_eq!(names, expected.map(|(name, mode, size)| (name.to_owned(), mode, size)));
    }
}
