//! Peers that connect and do not behave.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use oarlock_device_plugin::proto::v1beta1::Empty;
use oarlock_testkit::kubelet::Kubelet;
use tempfile::tempdir;
use tokio::time::sleep;

use crate::plugin::{GPU, Plugin, client, eight, socket};

/// All that a peer is told until its connection is closed, which must be soon.
async fn said_to(mut peer: UnixStream) -> Vec<u8> {
    peer.set_read_timeout(Some(Duration::from_secs(9))).unwrap();
    let mut said = Vec::new();
    tokio::task::spawn_blocking(move || {
        match peer.read_to_end(&mut said) {
            Ok(_) => {}
            // Closed before all that the peer had said was read.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
        said
    })
    .await
    .unwrap()
}

/// Whether the other end has closed.
fn is_closed(mut peer: &UnixStream) -> bool {
    peer.set_nonblocking(true).unwrap();
    let read = peer.read(&mut [0]);
    peer.set_nonblocking(false).unwrap();
    read.is_ok_and(|bytes| bytes == 0)
}

#[tokio::test]
async fn a_thousand_connections_that_say_nothing_hurt_nobody() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let plugin = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    let path = socket(root.path());
    let connect = move || (0..1000).map(|_| UnixStream::connect(&path)).collect::<Result<Vec<_>, _>>().unwrap();
    let silent = tokio::task::spawn_blocking(connect.clone()).await.unwrap();
    plugin.devices.set(eight().split_off(2));
    kubelet.wait_for_allocatable(GPU, 6).await;
    kubelet.admit("pod", "train", &[(GPU, 1)], None).await.unwrap();
    // The oldest give way to the others at once.
    let until = Instant::now() + Duration::from_secs(20);
    while !silent[..1000 - 256].iter().all(is_closed) {
        assert!(Instant::now() < until, "the oldest did not give way");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(!silent[1000 - 256..].iter().any(is_closed), "so did the youngest");
    // And these have a time as well.
    for peer in [silent.first().unwrap(), silent.last().unwrap()] {
        assert_eq!(said_to(peer.try_clone().unwrap()).await, b"");
    }
    // Also a registration, for which kubelet connects anew, comes through a crowd.
    let crowd = tokio::task::spawn_blocking(connect).await.unwrap();
    kubelet.stop().await;
    let kubelet = Kubelet::start(root.path());
    kubelet.wait_for_allocatable(GPU, 6).await;
    drop(crowd);
    plugin.stop().await;
}

#[tokio::test]
async fn connections_that_talk_nonsense_hurt_nobody() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let plugin = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    let mut open = Vec::new();
    for text in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0xff; 100]] {
        for _ in 0..40 {
            let mut peer = UnixStream::connect(socket(root.path())).unwrap();
            // It may be cut before all is said.
            let _ = peer.write_all(text);
            open.push(peer);
        }
    }
    kubelet.admit("pod", "train", &[(GPU, 1)], None).await.unwrap();
    assert_eq!(kubelet.view().registrations.len(), 1);
    // Who speaks another protocol is told nothing in ours.
    assert_eq!(said_to(open.remove(0)).await, b"");
    plugin.stop().await;
}

#[tokio::test]
async fn clients_that_speak_and_ask_for_nothing_give_their_places_to_those_that_ask() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let plugin = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    // Below the preface an empty frame of settings: all that HTTP/2 wants before the first call.
    let speak = |_| {
        let mut peer = UnixStream::connect(socket(root.path())).unwrap();
        peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
        peer
    };
    let speaking: Vec<UnixStream> = (0..200).map(speak).collect();
    kubelet.admit("pod", "train", &[(GPU, 1)], None).await.unwrap();
    client(root.path()).await.get_device_plugin_options(Empty {}).await.unwrap();
    assert_eq!(kubelet.view().registrations.len(), 1);
    // The first of them are cut, long before they would be for not answering.
    said_to(speaking.into_iter().next().unwrap()).await;
    plugin.stop().await;
}
