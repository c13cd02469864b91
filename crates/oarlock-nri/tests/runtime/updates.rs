//! Changes that no event asked for.

use std::time::Duration;

use oarlock_nri::UpdateError;
use oarlock_nri::proto::ContainerUpdate;
use oarlock_testkit::runtime::RuntimeOptions;

use crate::plugin::{Behaviour, Host, PATIENCE, container, cpus_of, pod, served, update};

fn two_containers() -> RuntimeOptions {
    let containers = vec![container("p", "c0"), container("p", "c1")];
    RuntimeOptions { pods: vec![pod("p")], containers, stubborn: vec!["c1".to_owned()], ..RuntimeOptions::default() }
}

#[tokio::test]
async fn containers_are_changed_and_what_failed_comes_back() {
    let host = Host::new();
    let (runtime, plugin) = served(&host, two_containers(), Behaviour::default()).await;
    let asked = vec![
        update("c0", "1"),
        update("c1", "2"),
        ContainerUpdate { ignore_failure: true, ..update("c1", "3") },
        update("unknown", "4"),
    ];
    let failed = plugin.runtime().update_containers(asked.clone(), PATIENCE).await.unwrap();
    assert_eq!(failed, [update("c1", "2")]);
    assert_eq!(runtime.view().unsolicited, asked);
    assert_eq!(cpus_of(&runtime.container("c0").await.unwrap()), "1");
    assert_eq!(cpus_of(&runtime.container("c1").await.unwrap()), "0-15");
}

#[tokio::test]
async fn a_handler_that_calls_back_is_told_so_before_it_can_wait_for_itself() {
    let host = Host::new();
    let (runtime, plugin) = served(&host, two_containers(), Behaviour::default()).await;
    plugin.behave(Behaviour { calls_back: true, ..Behaviour::default() });
    runtime.create_container(&container("p", "c2")).await.unwrap();
    assert_eq!(plugin.told().called_back[0], "Err(InHandler)");
    assert_eq!(runtime.view().plugins, ["10-test"], "it is still in service");
}

#[tokio::test]
async fn an_update_waits_while_the_runtime_is_busy_and_gives_up_in_time() {
    let host = Host::new();
    let (runtime, plugin) = served(&host, two_containers(), Behaviour::default()).await;
    let busy = runtime.busy().await;
    let late = plugin.runtime().update_containers(vec![update("c0", "1")], Duration::from_millis(50)).await;
    assert_eq!(late, Err(UpdateError::Late(Duration::from_millis(50))));
    drop(busy);
    // The late answer of the first belongs to nobody, and not to the second.
    let failed = plugin.runtime().update_containers(vec![update("c1", "2")], PATIENCE).await.unwrap();
    assert_eq!(failed, [update("c1", "2")]);
}

#[tokio::test]
async fn an_update_that_fits_into_no_message_is_refused_here() {
    let host = Host::new();
    let (_runtime, plugin) = served(&host, two_containers(), Behaviour::default()).await;
    let asked: Vec<_> = (0..1_000).map(|_| update("c0", &"1,".repeat(3_000))).collect();
    let result = plugin.runtime().update_containers(asked, PATIENCE).await;
    assert!(matches!(result, Err(UpdateError::TooLong(6_000_000..))), "{result:?}");
    assert_eq!(plugin.runtime().update_containers(Vec::new(), PATIENCE).await, Ok(Vec::new()), "it goes on");
}

#[tokio::test]
async fn a_large_update_goes_through_in_small_frames() {
    let host = Host::new();
    let (runtime, plugin) = served(&host, two_containers(), Behaviour::default()).await;
    let asked: Vec<_> = (0..250).map(|number| update(&format!("unknown-{number}"), &"1,".repeat(2_000))).collect();
    assert_eq!(plugin.runtime().update_containers(asked.clone(), PATIENCE).await, Ok(Vec::new()));
    assert_eq!(runtime.view().unsolicited, asked);
}

#[tokio::test]
async fn after_the_connection_there_is_no_runtime() {
    let host = Host::new();
    let (runtime, plugin) = served(&host, two_containers(), Behaviour::default()).await;
    let first = plugin.runtime();
    runtime.hang_up().await;
    first.closed().await;
    assert_eq!(first.update_containers(Vec::new(), PATIENCE).await, Err(UpdateError::Gone));
    runtime.until_plugins(1).await;
    assert_eq!(plugin.runtime().update_containers(Vec::new(), PATIENCE).await, Ok(Vec::new()));
}
