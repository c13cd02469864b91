//! kubelet's folder of sockets: what stands there, and when that may have changed.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use inotify::{EventStream, Inotify, WatchDescriptor, WatchMask};
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt as _;

/// How often the folder is looked at whatever the kernel tells: events can be lost, and a folder that is not there
/// cannot be watched.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A file, as distinct from another that came to stand at the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
    /// Inode numbers are used again at once; the time tells apart what nobody holds open.
    changed: Option<(i64, i64)>,
}

impl FileId {
    /// A file that stays in use while it is compared, so that its number is its own.
    pub(crate) fn of_held(path: &Path) -> io::Result<Option<Self>> {
        Ok(found(fs::symlink_metadata(path))?.map(|found| Self {
            device: found.dev(),
            inode: found.ino(),
            changed: None,
        }))
    }

    fn of_unheld(path: &Path) -> io::Result<Option<Self>> {
        let id = |found: fs::Metadata| Self {
            device: found.dev(),
            inode: found.ino(),
            changed: Some((found.ctime(), found.ctime_nsec())),
        };
        Ok(found(fs::metadata(path))?.filter(|found| found.file_type().is_socket()).map(id))
    }
}

/// What was found, if anything.
fn found(answer: io::Result<fs::Metadata>) -> io::Result<Option<fs::Metadata>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What stands in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sight {
    /// The folder itself.
    pub(crate) folder: Option<FileId>,
    /// kubelet's socket: a new one with each start of kubelet.
    pub(crate) kubelet: Option<FileId>,
    /// The plugin's own socket.
    pub(crate) own: Option<FileId>,
}

/// The folder, watched.
pub(crate) struct Folder {
    path: PathBuf,
    kubelet: PathBuf,
    own: PathBuf,
    events: Option<EventStream<[u8; 4096]>>,
    watch: Option<WatchDescriptor>,
}

impl Folder {
    /// Watches `path`, in which `kubelet` and `own` stand. Where the kernel grants no watch, the folder is only looked
    /// at from time to time.
    pub(crate) fn watched(path: PathBuf, kubelet: PathBuf, own: PathBuf) -> Self {
        let events = Inotify::init().and_then(|inotify| inotify.into_event_stream([0; 4096]));
        if let Err(error) = &events {
            tracing::warn!(folder = %path.display(), %error, "no inotify: the folder is looked at every second only");
        }
        Self { path, kubelet, own, events: events.ok(), watch: None }
    }

    /// What stands in the folder now. A change after this ends the next [`Folder::changed`].
    pub(crate) fn look(&mut self) -> io::Result<Sight> {
        self.watch_again();
        let folder = match found(fs::metadata(&self.path))? {
            Some(found) if !found.is_dir() => return Err(io::Error::from(io::ErrorKind::NotADirectory)),
            found => found.map(|found| FileId { device: found.dev(), inode: found.ino(), changed: None }),
        };
        Ok(Sight { folder, kubelet: FileId::of_unheld(&self.kubelet)?, own: FileId::of_held(&self.own)? })
    }

    /// Something may have changed. Events only shorten the wait: what has changed, and whether, is for [`Folder::look`]
    /// to see, so that a lost event, or a queue that has run over, costs a second and nothing else.
    pub(crate) async fn changed(&mut self) {
        match &mut self.events {
            None => sleep(LOOK_EVERY).await,
            Some(events) => {
                // What has failed once tells nothing any more.
                if let Ok(None | Some(Err(_))) = timeout(LOOK_EVERY, events.next()).await {
                    self.events = None;
                }
            }
        }
    }

    /// Watches what stands at the path now. For the folder that is watched already this changes nothing.
    fn watch_again(&mut self) {
        let Some(events) = &self.events else { return };
        let mask = WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let watch = events.watches().add(&self.path, mask).ok();
        if watch != self.watch
            && let Some(old) = std::mem::replace(&mut self.watch, watch)
        {
            // Of a folder that is gone the kernel has removed it before us.
            let _ = events.watches().remove(old);
        }
    }
}

#[cfg(test)]
mod tests;
