//! A folder of kernel files, opened once and read relative to that handle.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, DirEntry, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Why a kernel file could not be read, or not be understood.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The kernel refused or failed.
    #[error("failed to read \"{}\"", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file holds something that the kernel does not write there.
    #[error("\"{}\" holds {text:?}: {rule}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The part that is wrong, at most some hundred characters of it.
        text: String,
        /// What should be there.
        rule: String,
    },
    /// The root is a folder of another kind than it should be.
    #[error("\"{}\" is not a {expected} file system", path.display())]
    OtherFilesystem {
        /// The root.
        path: PathBuf,
        /// `proc` or `cgroup2`.
        expected: &'static str,
    },
}

impl ReadError {
    pub(crate) fn malformed(path: &Path, text: &str, rule: impl Into<String>) -> Self {
        const MOST: usize = 300;
        let text = match text.char_indices().nth(MOST) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text.to_owned(),
        };
        Self::Malformed { path: path.to_owned(), text, rule: rule.into() }
    }
}

/// The file systems whose files are read here, by `statfs` magic (`linux/magic.h`).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Filesystem {
    Proc,
    Cgroup2,
}

impl Filesystem {
    fn magic(self) -> i64 {
        match self {
            Self::Proc => 0x9fa0,
            Self::Cgroup2 => 0x6367_7270,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Proc => "proc",
            Self::Cgroup2 => "cgroup2",
        }
    }
}

/// An open folder. It stays the same folder when its name is taken by another: a process id that is used again does not
/// make one process's files look like another's.
#[derive(Debug)]
pub(crate) struct Folder {
    handle: OwnedFd,
    path: PathBuf,
}

/// A file's bytes, up to a limit.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) bytes: Vec<u8>,
    /// Whether the file went on past the limit.
    pub(crate) cut: bool,
}

impl Folder {
    /// Opens `path`; `None` where there is no such folder.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, ReadError> {
        let handle = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Self::opened(handle, path.to_owned())
    }

    /// Refuses a root that is not a file system of this kind.
    pub(crate) fn require(&self, filesystem: Filesystem) -> Result<(), ReadError> {
        let stat = rustix::fs::fstatfs(&self.handle).map_err(|errno| io(&self.path, errno))?;
        if i128::from(stat.f_type) == i128::from(filesystem.magic()) {
            return Ok(());
        }
        Err(ReadError::OtherFilesystem { path: self.path.clone(), expected: filesystem.name() })
    }

    /// Opens the folder `name` in this one; `None` where there is none.
    pub(crate) fn folder(&self, name: impl AsRef<Path>) -> Result<Option<Self>, ReadError> {
        let name = name.as_ref();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self::opened(rustix::fs::openat(&self.handle, name, flags, Mode::empty()), self.path.join(name))
    }

    /// Opens the folder at a path below this one, each part of it a folder and no symbolic link; `None` where there is none.
    /// The path has no `..` in it.
    pub(crate) fn below(&self, path: &Path) -> Result<Option<Self>, ReadError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at = Self::opened(rustix::fs::openat(&self.handle, ".", flags, Mode::empty()), self.path.clone())?;
        for part in path {
            let Some(folder) = at else { return Ok(None) };
            at = Self::opened(rustix::fs::openat(&folder.handle, part, flags, Mode::empty()), folder.path.join(part))?;
        }
        Ok(at)
    }

    fn opened(handle: Result<OwnedFd, Errno>, path: PathBuf) -> Result<Option<Self>, ReadError> {
        match handle {
            Ok(handle) => Ok(Some(Self { handle, path })),
            Err(errno) if gone(errno) => Ok(None),
            Err(errno) => Err(ReadError::Io { path, source: errno.into() }),
        }
    }

    /// Opens the file `name` for reading; `None` where there is none.
    pub(crate) fn file(&self, name: &str) -> Result<Option<File>, ReadError> {
        match rustix::fs::openat(&self.handle, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(handle) => Ok(Some(handle.into())),
            Err(errno) if gone(errno) => Ok(None),
            Err(errno) => Err(io(&self.path.join(name), errno)),
        }
    }

    /// The first `limit` bytes of the file `name`; `None` where there is none, or it went away while being read.
    pub(crate) fn read(&self, name: &str, limit: u64) -> Result<Option<Contents>, ReadError> {
        let Some(file) = self.file(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        match file.take(limit + 1).read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(error) if gone_while_reading(&error) => return Ok(None),
            Err(source) => return Err(ReadError::Io { path: self.path.join(name), source }),
        }
        let cut = bytes.len() as u64 > limit;
        bytes.truncate(limit as usize);
        Ok(Some(Contents { bytes, cut }))
    }

    /// The whole text of the file `name`, which is refused when longer than any kernel writes it or not text.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, ReadError> {
        // The longest of these files are a status with 65,536 supplementary groups and a cgroup.procs of 4 million ids.
        const LIMIT: u64 = 64 << 20;
        let Some(contents) = self.read(name, LIMIT)? else { return Ok(None) };
        let path = self.path.join(name);
        if contents.cut {
            let start = String::from_utf8_lossy(&contents.bytes[..64]).into_owned();
            return Err(ReadError::malformed(&path, &start, format!("no such file is longer than {LIMIT} bytes")));
        }
        match String::from_utf8(contents.bytes) {
            Ok(text) => Ok(Some(text)),
            Err(error) => {
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                Err(ReadError::malformed(&path, &text, "the kernel writes UTF-8 here"))
            }
        }
    }

    /// Writes to the file `name`, in one call, as kernel files want it.
    pub(crate) fn write(&self, name: &str, value: &str) -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.handle, name, flags, Mode::empty())?;
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, value.as_bytes()))?;
        if written == value.len() { Ok(()) } else { Err(Errno::IO) }
    }

    /// Makes the folder `name` in this one.
    pub(crate) fn make_folder(&self, name: &str) -> Result<(), Errno> {
        rustix::fs::mkdirat(&self.handle, name, Mode::from_raw_mode(0o755))
    }

    /// Removes the folder `name`, which is empty or a cgroup's.
    pub(crate) fn remove_folder(&self, name: &str) -> Result<(), Errno> {
        rustix::fs::unlinkat(&self.handle, name, AtFlags::REMOVEDIR)
    }

    /// Whether `name` is there now.
    pub(crate) fn has(&self, name: &str) -> bool {
        rustix::fs::statat(&self.handle, name, AtFlags::empty()).is_ok()
    }

    /// The names in the folder that are numbers, ascending: process and thread ids. Empty where the folder went away.
    pub(crate) fn numbers(&self) -> Result<Vec<u32>, ReadError> {
        let mut numbers = Vec::new();
        self.each_entry(|entry| {
            numbers.extend(entry.file_name().to_str().ok().and_then(|name| name.parse::<u32>().ok()));
        })?;
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The names of the folders in this one, in no order. Empty where the folder went away.
    pub(crate) fn folders(&self) -> Result<Vec<OsString>, ReadError> {
        let mut names = Vec::new();
        self.each_entry(|entry| {
            let name = entry.file_name().to_bytes();
            if entry.file_type() == FileType::Directory && name != b"." && name != b".." {
                names.push(OsString::from_vec(name.to_vec()));
            }
        })?;
        Ok(names)
    }

    fn each_entry(&self, mut see: impl FnMut(&DirEntry)) -> Result<(), ReadError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = match rustix::fs::openat(&self.handle, ".", flags, Mode::empty()) {
            Ok(handle) => handle,
            Err(errno) if gone(errno) => return Ok(()),
            Err(errno) => return Err(io(&self.path, errno)),
        };
        for entry in rustix::fs::Dir::new(handle).map_err(|errno| io(&self.path, errno))? {
            match entry {
                Ok(entry) => see(&entry),
                Err(errno) if gone(errno) => break,
                Err(errno) => return Err(io(&self.path, errno)),
            }
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn io(path: &Path, errno: Errno) -> ReadError {
    ReadError::Io { path: path.to_owned(), source: errno.into() }
}

/// `ENOENT` for what is not there, `ESRCH` for a process that ended, `ENODEV` for a cgroup that was removed.
pub(crate) fn gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::SRCH | Errno::NODEV)
}

pub(crate) fn gone_while_reading(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(gone)
}
