//! What clients in Go send as the authority of a unix socket, frame by frame: some versions of gRPC say `localhost`,
//! some nothing, and some the socket's path, which is no authority.

use std::path::Path;

use oarlock_testkit::kubelet::Kubelet;
use tempfile::tempdir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::plugin::{GPU, PATIENCE, Plugin, socket};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;

/// How a call ended.
#[derive(Debug, PartialEq)]
enum Ending {
    Answered(Vec<u8>),
    /// The stream alone is given up, with this code.
    Reset(u32),
}

/// The options, as a message: `get_preferred_allocation_available` and nothing else.
fn options() -> Ending {
    Ending::Answered(vec![0, 0, 0, 0, 2, 0x10, 1])
}

/// A connection on which calls are written by hand.
struct Wire {
    stream: UnixStream,
    next: u32,
}

impl Wire {
    async fn open(root: &Path) -> Self {
        let mut stream = UnixStream::connect(socket(root)).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut wire = Self { stream, next: 1 };
        wire.send(SETTINGS, 0, 0, &[]).await;
        wire
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.stream.write_all(&frame).await.unwrap();
    }

    /// Asks for the options, under this authority.
    async fn ask(&mut self, authority: Option<&str>) -> Ending {
        let mut headers = Vec::new();
        let fields = [
            (":method", Some("POST")),
            (":scheme", Some("http")),
            (":path", Some("/v1beta1.DevicePlugin/GetDevicePluginOptions")),
            (":authority", authority),
            ("content-type", Some("application/grpc")),
            ("te", Some("trailers")),
        ];
        for (name, value) in fields {
            let Some(value) = value else { continue };
            // A literal without Huffman's code: lengths below 127 are one byte.
            headers.extend([0, name.len() as u8]);
            headers.extend(name.as_bytes());
            headers.push(value.len() as u8);
            headers.extend(value.as_bytes());
        }
        let stream = self.next;
        self.next += 2;
        self.send(HEADERS, 4, stream, &headers).await;
        self.send(DATA, 1, stream, &[0; 5]).await;
        timeout(PATIENCE, self.ending_of(stream)).await.unwrap()
    }

    async fn ending_of(&mut self, wanted: u32) -> Ending {
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            self.stream.read_exact(&mut payload).await.unwrap();
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            match head[3] {
                DATA if stream == wanted => return Ending::Answered(payload),
                RESET if stream == wanted => return Ending::Reset(u32::from_be_bytes(payload.try_into().unwrap())),
                GO_AWAY => panic!("the connection is given up: {payload:?}"),
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn a_client_is_answered_under_the_authority_localhost_and_under_none() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let plugin = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    let mut wire = Wire::open(root.path()).await;
    assert_eq!(wire.ask(Some("localhost")).await, options());
    assert_eq!(wire.ask(None).await, options());
    plugin.stop().await;
}

#[tokio::test]
async fn a_client_that_sends_a_path_as_authority_loses_that_call_alone() {
    const PROTOCOL_ERROR: u32 = 1;
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let plugin = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    let mut wire = Wire::open(root.path()).await;
    for path in
        ["%2Fvar%2Flib%2Fkubelet%2Fdevice-plugins%2Foarlock.sock", "/var/lib/kubelet/device-plugins/oarlock.sock"]
    {
        assert_eq!(wire.ask(Some(path)).await, Ending::Reset(PROTOCOL_ERROR), "{path}");
        assert_eq!(wire.ask(Some("localhost")).await, options());
    }
    assert_eq!(kubelet.view().registrations.len(), 1);
    plugin.stop().await;
}
