//! Registering, and registering again.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oarlock_device_plugin::{KubeletPaths, Phase, PluginError, ResourceName, State, serve};
use oarlock_testkit::kubelet::{Kubelet, KubeletOptions, Reads};
use tempfile::tempdir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::plugin::{Devices, GPU, Plugin, device, eight, socket};

#[tokio::test]
async fn a_registration_names_version_endpoint_resource_and_the_options_that_are_told_when_asked() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let plugin = Plugin::start(root.path());
    plugin.ready().await;
    let registration = kubelet.view().registrations.remove(0);
    assert_eq!(registration.version, "v1beta1");
    assert_eq!(registration.endpoint, "oarlock.dev_gpu.sock");
    assert_eq!(registration.resource_name, GPU);
    let options = registration.options.unwrap();
    assert!(options.get_preferred_allocation_available && !options.pre_start_required);
    plugin.stop().await;
}

#[tokio::test]
async fn registered_is_said_within_a_second_of_the_start() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let since = Instant::now();
    let plugin = Plugin::start(root.path());
    plugin.ready().await;
    // No bound to be tight about: a wait in seconds would be a wrong order of steps.
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    kubelet.wait_for_allocatable(GPU, 8).await;
    plugin.stop().await;
}

#[tokio::test]
async fn a_kubelet_that_restarts_is_registered_with_again_and_nothing_is_given_away_meanwhile() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let plugin = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    kubelet.stop().await;
    let kubelet = Kubelet::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    assert_eq!(plugin.ready().await.registrations, 2);
    plugin.stop().await;
}

#[tokio::test]
async fn a_kubelet_that_was_killed_leaves_a_dead_socket_and_its_successor_is_registered_with() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let plugin = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    kubelet.kill().await;
    let state = plugin.wait_for("an error", |state| state.phase == Phase::Retrying && state.streams == 0).await;
    assert!(!state.is_ready());
    assert!(error(&state).starts_with("kubelet has gone: cannot reach"), "{state:?}");
    let state = plugin.wait_for("an unreachable kubelet", |state| error(state).contains("Connection refused")).await;
    assert!(error(&state).contains("kubelet.sock"), "{state:?}");
    let kubelet = Kubelet::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    let state = plugin.wait_for("no error", |state| state.is_ready() && state.last_error.is_none()).await;
    assert_eq!(state.registrations, 2);
    plugin.stop().await;
}

#[tokio::test]
async fn a_plugin_that_starts_before_kubelet_waits_for_it() {
    let root = tempdir().unwrap();
    fs::create_dir(root.path().join("device-plugins")).unwrap();
    let plugin = Plugin::start(root.path());
    let socket = KubeletPaths::new(root.path()).registration();
    plugin.wait_for("waiting", |state| state.phase == Phase::WaitingForKubelet(socket.clone())).await;
    let kubelet = Kubelet::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    plugin.stop().await;
}

#[tokio::test]
async fn a_kubelet_of_another_version_refuses_and_the_plugin_lives_on_until_one_comes_that_does_not() {
    let root = tempdir().unwrap();
    let options = KubeletOptions { version: "v2".to_owned(), ..KubeletOptions::default() };
    let kubelet = Kubelet::start_with(root.path(), &options);
    let plugin = Plugin::start(root.path());
    let state = plugin.wait_for("a refusal", |state| state.last_error.is_some()).await;
    assert!(error(&state).contains("requested API version \"v1beta1\" is not supported: \"v2\" is"), "{state:?}");
    assert_eq!(state.registrations, 0);
    kubelet.wait_for("a second try", |view| view.refused >= 2).await;
    kubelet.stop().await;
    let kubelet = Kubelet::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    plugin.stop().await;
}

#[tokio::test]
async fn a_kubelet_that_stops_reading_is_registered_with_again_and_again_but_ever_more_slowly() {
    let root = tempdir().unwrap();
    let options = KubeletOptions { reads: Reads::Once, ..KubeletOptions::default() };
    let kubelet = Kubelet::start_with(root.path(), &options);
    let plugin = Plugin::start(root.path());
    let since = Instant::now();
    let state = plugin.wait_for("an error", |state| state.last_error.is_some()).await;
    assert!(error(&state).starts_with("kubelet is there, and no longer reads the devices"), "{state:?}");
    kubelet.wait_for("a fourth registration", |view| view.registrations.len() >= 4).await;
    // 0.2 s, 0.4 s and 0.8 s lie between them.
    assert!(since.elapsed() >= Duration::from_millis(1300), "{:?}", since.elapsed());
    plugin.stop().await;
}

#[tokio::test]
async fn a_kubelet_that_accepts_and_never_asks_for_devices_is_registered_with_again() {
    let root = tempdir().unwrap();
    let options = KubeletOptions { reads: Reads::Never, ..KubeletOptions::default() };
    let kubelet = Kubelet::start_with(root.path(), &options);
    let plugin = Plugin::start(root.path());
    let state = plugin.wait_for("an error", |state| state.last_error.is_some()).await;
    assert_eq!(error(&state), "kubelet accepted the registration, and did not ask for devices within 10 s");
    assert!(!state.is_ready());
    kubelet.wait_for("a second registration", |view| view.registrations.len() == 2).await;
    plugin.stop().await;
}

// The filter is the test's own thread's, and the plugin runs on it.
#[tokio::test(flavor = "current_thread")]
async fn a_socket_that_does_not_answer_its_own_plugin_is_not_registered() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    forbid_connecting();
    let plugin = Plugin::start(root.path());
    let state = plugin.wait_for("an error", |state| state.last_error.is_some()).await;
    let expected = format!("the own socket does not answer: cannot reach {}", socket(root.path()).display());
    assert!(error(&state).starts_with(&expected), "{state:?}");
    assert_eq!((kubelet.view().registrations.len(), kubelet.view().refused), (0, 0));
    plugin.stop().await;
}

/// From now on this thread cannot connect to anything.
fn forbid_connecting() {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};
    let rules = [(libc::SYS_connect, Vec::new())].into();
    let refuse = SeccompAction::Errno(libc::EACCES as u32);
    let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).unwrap();
    apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

#[tokio::test]
async fn several_resources_have_sockets_and_registrations_of_their_own() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let gpus = Plugin::start(root.path());
    let nodes = Plugin::serving(root.path(), "oarlock.dev/numa-node", Devices::new(vec![device("node-1", 1)]));
    kubelet.wait_for_allocatable(GPU, 8).await;
    kubelet.wait_for_allocatable("oarlock.dev/numa-node", 1).await;
    gpus.stop().await;
    kubelet.wait_for_allocatable(GPU, 0).await;
    assert_eq!(kubelet.view().resource("oarlock.dev/numa-node").allocatable(), 1);
    nodes.stop().await;
}

#[tokio::test]
async fn a_plugin_that_is_told_to_end_removes_its_socket_and_ends_the_stream() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let plugin = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    let mut state = plugin.state.clone();
    let since = Instant::now();
    plugin.stop().await;
    // kubelet holds its connection open; that does not hold the end up to its bound of 2 s and more.
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert!(!socket(root.path()).exists());
    assert_eq!(state.borrow_and_update().phase, Phase::Stopped);
    let view = kubelet.wait_for_allocatable(GPU, 0).await;
    assert_eq!(view.resource(GPU).capacity(), 8);
}

#[tokio::test]
async fn a_plugin_that_stays_away_past_the_grace_is_forgotten_and_comes_back_whole() {
    let root = tempdir().unwrap();
    let options = KubeletOptions { grace: Duration::from_millis(300), ..KubeletOptions::default() };
    let kubelet = Kubelet::start_with(root.path(), &options);
    let plugin = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    plugin.kill().await;
    let view = kubelet.wait_for_allocatable(GPU, 0).await;
    assert_eq!(view.resource(GPU).capacity(), 8, "for the time being");
    kubelet.wait_for("a resource forgotten", |view| !view.resources.contains_key(GPU)).await;
    let plugin = Plugin::start(root.path());
    let view = kubelet.wait_for_allocatable(GPU, 8).await;
    assert_eq!(view.resource(GPU).capacity(), 8);
    plugin.stop().await;
}

#[tokio::test]
async fn the_socket_of_a_predecessor_that_died_is_replaced_and_never_trusted() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let stale = std::os::unix::net::UnixListener::bind(socket(root.path())).unwrap();
    drop(stale);
    let plugin = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    plugin.stop().await;
    assert!(!socket(root.path()).exists());
}

#[tokio::test]
async fn a_plugin_that_crashed_is_followed_by_one_whose_list_replaces_the_old() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let first = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    first.kill().await;
    let devices = eight().split_off(5);
    let second = Plugin::serving(root.path(), GPU, Devices::new(devices));
    let view = kubelet.wait_for_allocatable(GPU, 3).await;
    assert_eq!(view.resource(GPU).capacity(), 3);
    second.stop().await;
}

#[tokio::test]
async fn a_successor_takes_over_and_the_predecessor_gives_way_until_it_is_gone() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let first = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    let second = Plugin::serving(root.path(), GPU, Devices::new(vec![device("second", 0)]));
    kubelet.wait_for_allocatable(GPU, 1).await;
    let state = first.wait_for("giving way", |state| matches!(state.phase, Phase::Displaced(_))).await;
    assert!(state.phase.to_string().ends_with("oarlock.dev_gpu.sock: waiting for its end"), "{}", state.phase);
    second.stop().await;
    let view = kubelet.wait_for_allocatable(GPU, 8).await;
    // One each, and one of the first after the end of the second: neither took the other's socket away meanwhile.
    assert_eq!(view.registrations.len(), 3);
    first.stop().await;
}

#[tokio::test]
async fn what_stands_in_the_way_of_the_socket_and_is_none_is_left_alone_and_named() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    fs::write(socket(root.path()), "notes").unwrap();
    let plugin = Plugin::start(root.path());
    let state = plugin.wait_for("an error", |state| state.last_error.is_some()).await;
    assert!(error(&state).ends_with("oarlock.dev_gpu.sock is in the way, and is no socket"), "{state:?}");
    fs::remove_file(socket(root.path())).unwrap();
    kubelet.wait_for_allocatable(GPU, 8).await;
    plugin.stop().await;
}

#[tokio::test]
async fn a_path_that_no_socket_can_have_is_an_error_at_once() {
    let root = PathBuf::from("/").join("x".repeat(80));
    let resource: ResourceName = GPU.parse().unwrap();
    let state = watch::Sender::new(State::default());
    let devices = Arc::new(Devices::new(eight()));
    let ended = serve(resource, devices, &KubeletPaths::new(root), state, CancellationToken::new()).await;
    let Err(PluginError::SocketPath { source, .. }) = ended else { panic!("{ended:?}") };
    assert!(source.to_string().ends_with("has 117 bytes: the kernel allows 107"), "{source}");
}

fn error(state: &State) -> &str {
    state.last_error.as_deref().unwrap_or_default()
}
