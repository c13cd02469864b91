//! Asking kubelet who holds what.

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oarlock_core::NodeSet;
use oarlock_device_plugin::pod_resources::PodResources;
use oarlock_device_plugin::{Device, KubeletPaths};
use oarlock_testkit::kubelet::{Kubelet, KubeletOptions};
use tempfile::{TempDir, tempdir};

use crate::plugin::{Devices, GPU, Plugin, device};

/// A kubelet whose pods hold GPUs: `first` one on node 3, `second` one of no known node.
async fn with_pods(options: &KubeletOptions) -> (TempDir, Kubelet, Plugin, PodResources) {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start_with(root.path(), options);
    let nowhere = Device { nodes: NodeSet::default(), ..device("GPU-9", 0) };
    let plugin = Plugin::serving(root.path(), GPU, Devices::new(vec![nowhere, device("GPU-4", 3)]));
    kubelet.wait_for_allocatable(GPU, 2).await;
    kubelet.admit("first", "train", &[(GPU, 1)], Some(&NodeSet::of(3))).await.unwrap();
    kubelet.admit("second", "main", &[(GPU, 1)], None).await.unwrap();
    let asking = PodResources::new(&KubeletPaths::new(root.path()));
    (root, kubelet, plugin, asking)
}

#[tokio::test]
async fn every_container_is_told_with_its_devices_and_their_nodes() {
    let (_root, _kubelet, plugin, asking) = with_pods(&KubeletOptions::default()).await;
    let held = asking.containers(Duration::ZERO).await.unwrap();
    let told: Vec<String> = held
        .iter()
        .map(|held| {
            let devices = &held.devices[0];
            let place = format!("{}/{}/{}", held.namespace, held.pod, held.container);
            format!("{place} {} {} on {:?}", devices.resource, devices.ids.join(","), devices.nodes.to_string())
        })
        .collect();
    assert_eq!(
        told,
        ["default/first/train oarlock.dev/gpu GPU-4 on \"3\"", "default/second/main oarlock.dev/gpu GPU-9 on \"\""]
    );
    plugin.stop().await;
}

#[tokio::test]
async fn one_pod_is_told_by_a_kubelet_that_can_be_asked_for_it_and_by_one_that_cannot() {
    for knows_get in [true, false] {
        let options = KubeletOptions { knows_get, ..KubeletOptions::default() };
        let (_root, kubelet, plugin, asking) = with_pods(&options).await;
        let held = asking.containers_of("default", "second").await.unwrap();
        assert_eq!(held.iter().map(|held| held.container.as_str()).collect::<Vec<_>>(), ["main"]);
        assert_eq!(asking.containers_of("other", "second").await.unwrap(), []);
        kubelet.remove_pod("second");
        assert_eq!(asking.containers_of("default", "second").await.unwrap(), []);
        plugin.stop().await;
    }
}

#[tokio::test]
async fn a_list_that_is_young_enough_is_not_asked_for_again() {
    let (_root, kubelet, plugin, asking) = with_pods(&KubeletOptions::default()).await;
    let first = asking.containers(Duration::ZERO).await.unwrap();
    kubelet.remove_pod("first");
    let kept = asking.containers(Duration::from_secs(3600)).await.unwrap();
    assert!(Arc::ptr_eq(&first, &kept));
    assert_eq!(asking.containers(Duration::ZERO).await.unwrap().len(), 1);
    plugin.stop().await;
}

#[tokio::test]
async fn many_questions_wait_for_their_turn_and_none_fails() {
    let (_root, _kubelet, plugin, asking) = with_pods(&KubeletOptions::default()).await;
    let asking = Arc::new(asking);
    let since = Instant::now();
    let calls: Vec<_> = (0..25)
        .map(|_| {
            let asking = Arc::clone(&asking);
            tokio::spawn(async move { asking.containers_of("default", "first").await.unwrap().len() })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), 1);
    }
    // Five at once, then one in 50 ms.
    assert!(since.elapsed() >= Duration::from_millis(950), "{:?}", since.elapsed());
    plugin.stop().await;
}

#[tokio::test]
async fn a_budget_that_others_have_used_up_is_waited_for() {
    let (root, _kubelet, plugin, asking) = with_pods(&KubeletOptions::default()).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let other = PodResources::new(&KubeletPaths::new(root.path()));
        calls.spawn(async move { other.containers_of("default", "second").await.map(|held| held.len()) });
    }
    assert_eq!(asking.containers(Duration::ZERO).await.unwrap().len(), 2);
    while let Some(call) = calls.join_next().await {
        assert_eq!(call.unwrap().unwrap(), 1);
    }
    plugin.stop().await;
}

#[tokio::test]
async fn a_kubelet_that_is_not_there_is_named_and_one_that_restarts_is_asked_again() {
    let (root, kubelet, plugin, asking) = with_pods(&KubeletOptions::default()).await;
    asking.containers(Duration::ZERO).await.unwrap();
    kubelet.kill().await;
    let error = asking.containers(Duration::ZERO).await.unwrap_err();
    let cause = error.source().unwrap();
    assert!(cause.to_string().ends_with("pod-resources/kubelet.sock"), "{cause}");
    assert_eq!(cause.source().unwrap().to_string(), "Connection refused (os error 111)");
    let _kubelet = Kubelet::start(root.path());
    assert_eq!(asking.containers(Duration::ZERO).await.unwrap().len(), 2);
    plugin.stop().await;
}
