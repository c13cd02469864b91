//! How connections end, what is said about it, and how they come back.

use std::time::Duration;

use oarlock_nri::Events;
use oarlock_nri::proto::Event;
use oarlock_testkit::runtime::RuntimeOptions;
use tokio::time::timeout;

use crate::plugin::{Behaviour, Host, PATIENCE, TestPlugin, container, pod, served};

/// A runtime that waits for a tenth of a second.
fn impatient() -> RuntimeOptions {
    RuntimeOptions { request_timeout: Duration::from_millis(100), pods: vec![pod("p")], ..RuntimeOptions::default() }
}

#[tokio::test]
async fn a_plugin_waits_for_a_runtime_that_is_not_there_yet() {
    let host = Host::new();
    let plugin = TestPlugin::new(Behaviour::default());
    host.plug("10", "test", &plugin);
    let lost = plugin.until(|told| told.lost.len() >= 3).await.lost;
    assert_eq!(lost[0], format!("cannot connect to {}", host.socket().display()));
    let runtime = host.runtime();
    runtime.until_plugins(1).await;
}

#[tokio::test]
async fn a_plugin_comes_back_to_a_runtime_that_starts_anew_and_is_synchronised_again() {
    let host = Host::new();
    let (runtime, plugin) = served(&host, RuntimeOptions::default(), Behaviour::default()).await;
    drop(runtime);
    plugin.until(|told| told.lost.contains(&"the runtime hung up".to_owned())).await;
    let runtime = host.runtime_with(RuntimeOptions { pods: vec![pod("p")], ..RuntimeOptions::default() });
    runtime.until_plugins(1).await;
    let told = plugin.told();
    assert_eq!(told.calls, ["configure", "synchronize", "configure", "synchronize"]);
    assert_eq!(told.synchronized[1].0, [pod("p")]);
}

#[tokio::test]
async fn a_handler_that_is_too_slow_is_told_from_a_runtime_that_has_gone() {
    let host = Host::new();
    let (runtime, plugin) = served(&host, impatient(), Behaviour::default()).await;
    plugin.behave(Behaviour { slowness: PATIENCE, ..Behaviour::default() });
    runtime.create_container(&container("p", "c")).await.unwrap();
    assert!(runtime.container("c").await.is_some(), "the runtime goes on without the plugin");
    let lost = plugin.until(|told| !told.lost.is_empty()).await.lost;
    assert!(lost[0].contains("of CreateContainer: it waits"), "{lost:?}");
    plugin.behave(Behaviour::default());
    runtime.until_plugins(1).await;
    runtime.hang_up().await;
    let lost = plugin.until(|told| told.lost.iter().any(|why| !why.contains("it waits"))).await.lost;
    assert_eq!(lost.last().unwrap(), "the runtime hung up");
}

#[tokio::test]
async fn a_plugin_that_is_too_slow_before_it_is_in_service_is_told_so() {
    for (slow, method) in [("configure", "Configure"), ("synchronize", "Synchronize")] {
        let host = Host::new();
        let runtime = host.runtime_with(impatient());
        let plugin = TestPlugin::new(Behaviour { slowness: PATIENCE, slow, ..Behaviour::default() });
        host.plug("10", "test", &plugin);
        let lost = plugin.until(|told| !told.lost.is_empty()).await.lost;
        assert!(lost[0].contains(&format!("of {method}: it waits ")), "{lost:?}");
        plugin.behave(Behaviour::default());
        runtime.until_plugins(1).await;
    }
}

#[tokio::test]
async fn a_runtime_that_hangs_up_on_the_registration_was_too_slow() {
    let host = Host::new();
    let listener = tokio::net::UnixListener::bind(host.socket()).unwrap();
    let plugin = TestPlugin::new(Behaviour::default());
    host.plug("10", "test", &plugin);
    drop(listener.accept().await.unwrap());
    let lost = plugin.until(|told| !told.lost.is_empty()).await.lost;
    assert!(lost[0].ends_with("before the plugin was registered: this was too slow for it"), "{lost:?}");
}

#[tokio::test]
async fn a_panic_ends_the_connection_and_not_the_plugin() {
    let host = Host::new();
    let options = RuntimeOptions { pods: vec![pod("p")], ..RuntimeOptions::default() };
    let create = Box::new(|_: &_| panic!("on purpose"));
    let (runtime, plugin) = served(&host, options, Behaviour { create, ..Behaviour::default() }).await;
    runtime.create_container(&container("p", "c")).await.unwrap();
    let lost = plugin.until(|told| !told.lost.is_empty()).await.lost;
    assert_eq!(lost[0], "the plugin panicked in CreateContainer");
    runtime.until_plugins(1).await;
}

#[tokio::test]
async fn a_plugin_that_is_told_to_end_finishes_its_answer_and_hangs_up() {
    let host = Host::new();
    let runtime = host.runtime_with(RuntimeOptions { pods: vec![pod("p")], ..RuntimeOptions::default() });
    let events = Events::from([Event::CreateContainer]);
    let plugin = TestPlugin::new(Behaviour { events, ..Behaviour::default() });
    let running = host.plug("10", "test", &plugin);
    runtime.until_plugins(1).await;
    let create = Box::new(|_: &_| Err("refused to the last".into()));
    plugin.behave(Behaviour { events, create, slowness: Duration::from_millis(200), ..Behaviour::default() });
    let container = container("p", "c");
    let creating = runtime.create_container(&container);
    let ending = async {
        plugin.until(|told| told.calls.contains(&"create p/c".to_owned())).await;
        host.shut_down();
    };
    let (created, ()) = tokio::join!(creating, ending);
    assert_eq!(created, Err("plugin 10-test: refused to the last".to_owned()));
    timeout(PATIENCE, running).await.unwrap().unwrap();
    runtime.until_plugins(0).await;
    assert_eq!(plugin.told().lost, [""; 0]);
}

#[tokio::test]
async fn a_plugin_that_is_told_to_end_ends_wherever_it_is() {
    let host = Host::new();
    let plugin = TestPlugin::new(Behaviour::default());
    let running = host.plug("10", "test", &plugin);
    plugin.until(|told| told.lost.len() >= 2).await;
    host.shut_down();
    timeout(PATIENCE, running).await.unwrap().unwrap();
}
