//! Runtimes that do not do as they should.

use std::sync::Arc;
use std::time::Duration;

use oarlock_nri::proto::{ConfigureRequest, Empty, Event, PodSandbox, StateChangeEvent, SynchronizeRequest};
use oarlock_nri::{Events, Identity, Lost, WireError, serve};
use oarlock_testkit::runtime::wire::{Asked, Failure, Peer, Status, frame};
use prost::Message as _;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::plugin::{Behaviour, PATIENCE, TestPlugin, container, pod};

/// A plugin over a connection of its own.
struct Served {
    peer: Peer,
    asks: mpsc::UnboundedReceiver<Asked>,
    plugin: Arc<TestPlugin>,
    ended: JoinHandle<Result<(), Lost>>,
}

impl Served {
    async fn new(behaviour: Behaviour, patience: Duration) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let plugin = TestPlugin::new(behaviour);
        let served = Arc::clone(&plugin);
        let ended = tokio::spawn(async move {
            let identity = Identity::new("10", "test").unwrap();
            serve(theirs, &identity, served, patience, &CancellationToken::new()).await
        });
        let (peer, mut asks) = Peer::over(ours, 4096);
        let asked = asks.recv().await.unwrap();
        assert_eq!(asked.method, "RegisterPlugin");
        Self { peer, asks, plugin, ended }
    }

    /// A plugin in service.
    async fn configured() -> Self {
        Self::configured_as(Behaviour::default()).await
    }

    async fn configured_as(behaviour: Behaviour) -> Self {
        let served = Self::new(behaviour, PATIENCE).await;
        served.peer.answer(1, Ok(Vec::new())).await;
        let request = ConfigureRequest { nri_version: "v0.12.0".to_owned(), ..ConfigureRequest::default() };
        served.peer.call("Configure", &request, PATIENCE).await.unwrap();
        served
    }

    async fn lost(self) -> Lost {
        let lost = timeout(PATIENCE, self.ended).await.unwrap().unwrap().unwrap_err();
        drop(self.asks);
        lost
    }

    async fn is_well(&self) {
        let request = StateChangeEvent { event: Event::RunPodSandbox.into(), ..StateChangeEvent::default() };
        assert_eq!(self.peer.call("StateChange", &request, PATIENCE).await, Ok(Vec::new()));
    }
}

#[tokio::test]
async fn a_refused_registration_is_told_with_the_runtimes_words() {
    let served = Served::new(Behaviour::default(), PATIENCE).await;
    let status = Status { code: 2, message: "no plugins today".to_owned() };
    served.peer.answer(1, Err(status)).await;
    let lost = served.lost().await;
    assert!(matches!(&lost, Lost::Refused { message } if message == "no plugins today"), "{lost:?}");
}

#[tokio::test]
async fn a_runtime_that_never_configures_is_given_up() {
    let served = Served::new(Behaviour::default(), Duration::from_millis(50)).await;
    served.peer.answer(1, Ok(Vec::new())).await;
    let lost = served.lost().await;
    assert!(matches!(lost, Lost::Unanswered { within } if within == Duration::from_millis(50)), "{lost:?}");
}

#[tokio::test]
async fn a_frame_that_is_too_long_ends_the_connection() {
    let served = Served::configured().await;
    served.peer.send_bytes(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]).await;
    let lost = served.lost().await;
    assert!(matches!(lost, Lost::Wire(WireError::Frame { length: u32::MAX })), "{lost:?}");
}

#[tokio::test]
async fn what_nobody_asked_for_is_passed_over() {
    let served = Served::configured().await;
    // An unknown connection, the reserved one, and empty frames.
    served.peer.send_bytes(&frame(7, b"whatever")).await;
    served.peer.send_bytes(&frame(0, &[0xff; 4096])).await;
    served.peer.send_bytes(&frame(1, b"")).await;
    // Data of a streaming call, an unknown type, a response where requests come, an answer that nobody waits for.
    served.peer.send(1, 3, 3, b"data").await;
    served.peer.send(1, 5, 9, b"").await;
    served.peer.send(1, 7, 2, b"").await;
    served.peer.send(2, 99, 2, b"").await;
    served.is_well().await;
}

#[tokio::test]
async fn calls_that_do_not_exist_or_cannot_be_read_are_answered_as_such() {
    let served = Served::configured().await;
    for (method, code, words) in [
        ("MakeCoffee", 12, "no method \"MakeCoffee\" in nri.pkg.api.v1alpha1.Plugin"),
        ("", 12, "no method \"\" in nri.pkg.api.v1alpha1.Plugin"),
    ] {
        let Err(Failure::Status(status)) = served.peer.call(method, &Empty {}, PATIENCE).await else {
            panic!("{method}")
        };
        assert_eq!((status.code, status.message.as_str()), (code, words));
    }
    served.is_well().await;
}

#[tokio::test]
async fn a_call_that_cannot_be_read_is_answered_as_such() {
    let mut served = Served::configured().await;
    // The first is no request, the others have no payload that is one.
    served.peer.send(1, 101, 1, &[0xff; 9]).await;
    let methods =
        ["Configure", "Synchronize", "StateChange", "CreateContainer", "RemovePodSandbox", "UpdatePodSandbox"];
    for method in methods {
        let payload = Raw { garbage: b"\xff".to_vec() };
        let Err(Failure::Status(status)) = served.peer.call(method, &payload, PATIENCE).await else {
            panic!("{method}")
        };
        assert_eq!(status.code, 3, "{method}: {status:?}");
    }
    served.is_well().await;
    assert!(served.asks.try_recv().is_err());
}

/// A message whose first field, which is a pod or a number elsewhere, is garbage.
#[derive(Clone, PartialEq, prost::Message)]
struct Raw {
    #[prost(bytes = "vec", tag = "1")]
    garbage: Vec<u8>,
}

#[tokio::test]
async fn an_event_that_is_newer_than_this_library_is_nothing_amiss() {
    let served = Served::configured().await;
    let request = StateChangeEvent { event: 77, ..StateChangeEvent::default() };
    assert_eq!(served.peer.call("StateChange", &request, PATIENCE).await, Ok(Vec::new()));
    assert_eq!(served.plugin.told().calls, ["configure"]);
}

#[tokio::test]
async fn an_event_that_the_plugin_does_not_want_stops_short_of_it() {
    let events = Events::from([Event::PostCreateContainer]);
    let served = Served::configured_as(Behaviour { events, ..Behaviour::default() }).await;
    let methods =
        ["CreateContainer", "UpdateContainer", "StopContainer", "UpdatePodSandbox", "ValidateContainerAdjustment"];
    for method in methods.into_iter().chain(["RunPodSandbox", "RemoveContainer"]) {
        assert_eq!(served.peer.call(method, &Empty {}, PATIENCE).await, Ok(Vec::new()), "{method}");
    }
    let request = StateChangeEvent { event: Event::RunPodSandbox.into(), ..StateChangeEvent::default() };
    assert_eq!(served.peer.call("StateChange", &request, PATIENCE).await, Ok(Vec::new()));
    assert_eq!(served.peer.call("PostCreateContainer", &Empty {}, PATIENCE).await, Ok(Vec::new()));
    assert_eq!(served.plugin.told().calls, ["configure", "post create /"]);
}

#[tokio::test]
async fn a_message_that_is_too_long_is_refused_and_the_next_is_heard() {
    let served = Served::configured().await;
    let request = SynchronizeRequest {
        pods: (0..5).map(|_| PodSandbox { name: "x".repeat(1 << 20), ..PodSandbox::default() }).collect(),
        ..SynchronizeRequest::default()
    };
    let Err(Failure::Status(status)) = served.peer.call("Synchronize", &request, PATIENCE).await else { panic!() };
    assert_eq!(status.code, 8, "{status:?}");
    assert!(status.message.starts_with("a message of 52"), "{}", status.message);
    served.is_well().await;
}

#[tokio::test]
async fn a_synchronisation_without_end_is_refused() {
    let served = Served::configured().await;
    let pods = vec![PodSandbox { name: "x".repeat(3 << 20), ..PodSandbox::default() }];
    let request = SynchronizeRequest { pods, more: true, ..SynchronizeRequest::default() };
    let mut parts = 0;
    let status = loop {
        match served.peer.call("Synchronize", &request, PATIENCE).await {
            Ok(_) => parts += 1,
            Err(Failure::Status(status)) => break status,
            Err(failure) => panic!("{failure:?}"),
        }
    };
    assert_eq!((parts, status.code), (21, 8), "{}", status.message);
}

#[tokio::test]
async fn a_slow_handler_holds_up_no_other_call_either_way() {
    let mut served = Served::configured().await;
    served.plugin.behave(Behaviour { slowness: PATIENCE, slow: "run pod", ..Behaviour::default() });
    let slow = StateChangeEvent { event: Event::RunPodSandbox.into(), ..StateChangeEvent::default() };
    let quick = StateChangeEvent { event: Event::RemovePodSandbox.into(), ..StateChangeEvent::default() };
    served.peer.send(1, 101, 1, &encoded("StateChange", &slow.encode_to_vec())).await;
    served.plugin.until(|told| told.calls.contains(&"run pod ".to_owned())).await;
    assert_eq!(served.peer.call("StateChange", &quick, PATIENCE).await, Ok(Vec::new()));
    let runtime = served.plugin.runtime();
    let answering = async {
        let asked = served.asks.recv().await.unwrap();
        served.peer.answer(asked.stream, Ok(Vec::new())).await;
    };
    let (updated, ()) = tokio::join!(runtime.update_containers(Vec::new(), PATIENCE), answering);
    assert_eq!(updated, Ok(Vec::new()));
    assert_eq!(served.plugin.told().calls, ["configure", "run pod ", "remove pod "]);
}

#[tokio::test]
async fn a_second_synchronisation_has_nothing_of_the_first() {
    let served = Served::configured().await;
    for id in ["p1", "p2"] {
        let request = SynchronizeRequest { pods: vec![pod(id)], containers: vec![container(id, "c")], more: false };
        served.peer.call("Synchronize", &request, PATIENCE).await.unwrap();
        let last = served.plugin.told().synchronized.pop().unwrap();
        assert_eq!(last, (vec![pod(id)], vec![container(id, "c")]));
    }
}

#[tokio::test]
async fn more_calls_at_once_than_a_runtime_makes_end_the_connection() {
    let served = Served::configured().await;
    served.plugin.behave(Behaviour { slowness: PATIENCE, ..Behaviour::default() });
    let request = StateChangeEvent { event: Event::RunPodSandbox.into(), ..StateChangeEvent::default() };
    for stream in 0..65 {
        served.peer.send(1, 2 * stream + 101, 1, &encoded("StateChange", &request.encode_to_vec())).await;
    }
    let lost = served.lost().await;
    assert!(matches!(lost, Lost::Wire(WireError::Calls)), "{lost:?}");
}

/// A request of ttrpc: service, method, payload.
fn encoded(method: &str, payload: &[u8]) -> Vec<u8> {
    let field = |tag: u8, bytes: &[u8]| [&[tag << 3 | 2, bytes.len() as u8], bytes].concat();
    [field(1, b"nri.pkg.api.v1alpha1.Plugin"), field(2, method.as_bytes()), field(3, payload)].concat()
}

#[tokio::test]
async fn random_bytes_end_the_connection_or_change_nothing() {
    for seed in 0_u64..40 {
        let served = Served::configured().await;
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .take(3_000)
        .collect();
        // As frames of the plugin's connection, so that it is taken for messages.
        served.peer.send_bytes(&frame(1, &noise)).await;
        served.peer.send_bytes(&noise).await;
        drop(served.peer);
        let lost = timeout(PATIENCE, served.ended).await.unwrap().unwrap().unwrap_err();
        assert!(matches!(lost, Lost::Gone | Lost::Wire(_)), "{seed}: {lost:?}");
    }
}
