//! The plugin's own socket: taken over from a predecessor that has died, and removed when it is given up.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use crate::folder::FileId;

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Something of another kind stands at its path, and is left alone.
    #[error("{} is in the way, and is no socket", .0.display())]
    InTheWay(PathBuf),
    /// Another process answers on it.
    #[error("another process serves {}", .0.display())]
    Taken(PathBuf),
    /// The system refuses.
    #[error("cannot serve {}", path.display())]
    Bind { path: PathBuf, source: io::Error },
}

/// A socket that listens; dropping it removes the file, if it is still the same.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
    /// Its file. The listener holds it, so that the number cannot be another's while this lives.
    pub(crate) id: FileId,
}

impl Socket {
    /// Binds `path`. What a dead predecessor has left there is removed; a living one is replaced only if `replace` says
    /// so.
    pub(crate) fn bind(path: &Path, replace: bool) -> Result<(Self, UnixListener), SocketError> {
        let failed = |source| SocketError::Bind { path: path.to_owned(), source };
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(SocketError::InTheWay(path.to_owned())),
            Ok(_) if !replace && UnixStream::connect(path).is_ok() => return Err(SocketError::Taken(path.to_owned())),
            Ok(_) => match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let vanished = || failed(io::Error::from(io::ErrorKind::NotFound));
        let id = FileId::of_held(path).map_err(failed)?.ok_or_else(vanished)?;
        Ok((Self { path: path.to_owned(), id }, listener))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if FileId::of_held(&self.path).is_ok_and(|found| found == Some(self.id)) {
            let removed = fs::remove_file(&self.path);
            if let Err(error) = removed {
                tracing::warn!(socket = %self.path.display(), %error, "the socket could not be removed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;

    use super::*;

    #[tokio::test]
    async fn giving_up_a_socket_removes_it_unless_it_is_a_successors() {
        let root = tempdir().unwrap();
        let path = root.path().join("own.sock");
        let (old, _old) = Socket::bind(&path, false).unwrap();
        assert!(matches!(Socket::bind(&path, false), Err(SocketError::Taken(_))));
        let (new, _new) = Socket::bind(&path, true).unwrap();
        drop(old);
        assert!(path.exists());
        drop(new);
        assert!(!path.exists());
    }
}
