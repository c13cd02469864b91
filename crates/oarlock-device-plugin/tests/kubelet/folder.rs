//! What a host does to kubelet's folder.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use oarlock_device_plugin::{KubeletPaths, Phase};
use oarlock_testkit::kubelet::Kubelet;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use tempfile::tempdir;

use crate::plugin::{GPU, Plugin, socket};

fn folder(root: &Path) -> std::path::PathBuf {
    KubeletPaths::new(root).device_plugins()
}

#[tokio::test]
async fn a_folder_that_is_missing_is_waited_for() {
    let root = tempdir().unwrap();
    let plugin = Plugin::start(root.path());
    let missing = folder(root.path());
    let state = plugin.wait_for("waiting", |state| state.phase == Phase::WaitingForFolder(missing.clone())).await;
    assert_eq!(state.last_error, None);
    let kubelet = Kubelet::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    plugin.stop().await;
}

#[tokio::test]
async fn an_own_socket_that_is_removed_is_served_and_registered_again() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let plugin = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    fs::remove_file(socket(root.path())).unwrap();
    kubelet.wait_for("a second registration", |view| view.registrations.len() == 2).await;
    kubelet.wait_for_allocatable(GPU, 8).await;
    assert!(socket(root.path()).exists());
    plugin.stop().await;
}

#[tokio::test]
async fn a_folder_that_is_removed_and_made_again_is_found_again() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let plugin = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    kubelet.kill().await;
    fs::remove_dir_all(folder(root.path())).unwrap();
    plugin.wait_for("waiting", |state| matches!(state.phase, Phase::WaitingForFolder(_))).await;
    let kubelet = Kubelet::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    plugin.stop().await;
}

#[tokio::test]
async fn a_folder_that_is_replaced_by_another_is_noticed() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let plugin = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    kubelet.kill().await;
    // The new folder has a kubelet in it when it comes into place: nothing is created in a watched folder.
    let prepared = tempdir().unwrap();
    let kubelet = Kubelet::start(prepared.path());
    fs::rename(folder(root.path()), root.path().join("away")).unwrap();
    std::os::unix::fs::symlink(folder(prepared.path()), folder(root.path())).unwrap();
    kubelet.wait_for_allocatable(GPU, 8).await;
    plugin.stop().await;
    assert!(!folder(prepared.path()).join("oarlock.dev_gpu.sock").exists());
}

#[tokio::test]
async fn many_changes_at_once_are_survived() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let plugin = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    // More events than the kernel queues: what comes after them is lost, and what they hide must be found by looking.
    let queue: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    for number in 0..=queue / 2 {
        let path = folder(root.path()).join(format!("noise-{number}"));
        fs::write(&path, "").unwrap();
        fs::remove_file(&path).unwrap();
    }
    fs::remove_file(socket(root.path())).unwrap();
    kubelet.wait_for("a second registration", |view| view.registrations.len() >= 2).await;
    kubelet.wait_for_allocatable(GPU, 8).await;
    plugin.stop().await;
}

// The plugin runs on the test's own thread, which gives up root's way around permissions.
#[tokio::test(flavor = "current_thread")]
async fn a_folder_that_cannot_be_written_is_an_error_with_its_reason_and_the_plugin_lives_on() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::DAC_OVERRIDE);
    set_capabilities(None, sets).unwrap();
    let writable = fs::metadata(folder(root.path())).unwrap().permissions();
    fs::set_permissions(folder(root.path()), fs::Permissions::from_mode(0o555)).unwrap();
    let plugin = Plugin::start(root.path());
    let state = plugin.wait_for("an error", |state| state.last_error.is_some()).await;
    let error = state.last_error.unwrap();
    let expected = format!("cannot serve {}: Permission denied (os error 13)", socket(root.path()).display());
    assert_eq!(error, expected);
    fs::set_permissions(folder(root.path()), writable).unwrap();
    kubelet.wait_for_allocatable(GPU, 8).await;
    plugin.stop().await;
}
