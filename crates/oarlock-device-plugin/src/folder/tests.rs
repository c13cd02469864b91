use std::os::unix::net::UnixListener;
use std::thread;

use tempfile::tempdir;

use super::*;

#[tokio::test]
async fn a_socket_that_is_made_anew_is_another_one_even_where_its_number_is_used_again() {
    let root = tempdir().unwrap();
    let kubelet = root.path().join("kubelet.sock");
    let mut folder = Folder::watched(root.path().to_owned(), kubelet.clone(), root.path().join("own.sock"));
    let mut seen: Vec<Sight> = Vec::new();
    for _ in 0..8 {
        drop(UnixListener::bind(&kubelet).unwrap());
        let sight = folder.look().unwrap();
        assert!(sight.kubelet.is_some() && !seen.contains(&sight), "{sight:?} in {seen:?}");
        seen.push(sight);
        fs::remove_file(&kubelet).unwrap();
        // The kernel's clock for files goes in steps of some milliseconds.
        thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn what_is_no_socket_is_no_kubelet_and_a_file_is_no_folder() {
    let root = tempdir().unwrap();
    let kubelet = root.path().join("kubelet.sock");
    fs::write(&kubelet, "").unwrap();
    let mut folder = Folder::watched(root.path().to_owned(), kubelet.clone(), root.path().join("own.sock"));
    assert_eq!(folder.look().unwrap().kubelet, None);
    let mut file = Folder::watched(kubelet, root.path().join("x"), root.path().join("y"));
    assert_eq!(file.look().unwrap_err().kind(), io::ErrorKind::NotADirectory);
}
