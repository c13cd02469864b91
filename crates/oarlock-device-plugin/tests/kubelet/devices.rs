//! `ListAndWatch`: what kubelet sees of the devices.

use std::sync::Arc;
use std::time::Duration;

use oarlock_core::NodeSet;
use oarlock_device_plugin::Device;
use oarlock_device_plugin::proto::v1beta1::Empty;
use oarlock_testkit::kubelet::{Kubelet, View};
use tempfile::tempdir;
use tokio::time::{sleep, timeout};

use crate::plugin::{Devices, GPU, PATIENCE, Plugin, client, device, eight};

#[tokio::test]
async fn every_device_comes_with_its_health_and_its_nodes_and_one_without_a_node_has_no_topology() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let between = Device { id: "between".to_owned(), healthy: false, nodes: [5, 2].into_iter().collect() };
    let unknown = Device { id: "unknown".to_owned(), healthy: true, nodes: NodeSet::default() };
    let plugin = Plugin::serving(root.path(), GPU, Devices::new(vec![between, unknown, device("near", 3)]));
    let devices = kubelet.wait_for_allocatable(GPU, 2).await.resource(GPU).devices;
    let seen: Vec<(&str, &str, Option<Vec<i64>>)> = devices
        .iter()
        .map(|device| {
            let nodes = device.topology.as_ref().map(|topology| topology.nodes.iter().map(|node| node.id).collect());
            (device.id.as_str(), device.health.as_str(), nodes)
        })
        .collect();
    assert_eq!(
        seen,
        [("between", "Unhealthy", Some(vec![2, 5])), ("unknown", "Healthy", None), ("near", "Healthy", Some(vec![3]))]
    );
    plugin.stop().await;
}

#[tokio::test]
async fn a_device_that_fails_lowers_what_is_allocatable_and_not_the_capacity_and_comes_back() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let plugin = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    let mut devices = eight();
    devices[6].healthy = false;
    plugin.devices.set(devices);
    let view = kubelet.wait_for_allocatable(GPU, 7).await;
    assert_eq!(view.resource(GPU).capacity(), 8);
    assert_eq!(unhealthy(&view), ["GPU-6"]);
    plugin.devices.set(eight());
    kubelet.wait_for_allocatable(GPU, 8).await;
    plugin.stop().await;
}

#[tokio::test]
async fn devices_that_fail_and_recover_in_turns_are_told_each_time() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let plugin = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    for failed in [vec![1, 2], vec![2, 5, 7], vec![], vec![0]] {
        let mut devices = eight();
        for index in &failed {
            devices[*index].healthy = false;
        }
        plugin.devices.set(devices);
        let view = kubelet.wait_for_allocatable(GPU, 8 - failed.len()).await;
        assert_eq!(unhealthy(&view), failed.iter().map(|index| format!("GPU-{index}")).collect::<Vec<_>>());
    }
    plugin.stop().await;
}

#[tokio::test]
async fn a_device_that_is_gone_is_absent_from_the_next_list() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let plugin = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    plugin.devices.set(eight().split_off(3));
    let view = kubelet.wait_for_allocatable(GPU, 5).await;
    assert_eq!(view.resource(GPU).capacity(), 5);
    plugin.stop().await;
}

#[tokio::test]
async fn a_resource_without_devices_yet_is_registered_and_gets_them_later() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let plugin = Plugin::serving(root.path(), GPU, Devices::new(Vec::new()));
    kubelet.wait_for("an empty list", |view| view.resource(GPU).lists == 1).await;
    plugin.devices.set(eight());
    kubelet.wait_for_allocatable(GPU, 8).await;
    plugin.stop().await;
}

#[tokio::test]
async fn a_stream_of_another_reader_that_reads_nothing_holds_nobody_up() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    // Lists that are larger than what a connection takes unread.
    let many = |healthy: bool| -> Vec<Device> {
        (0..4000).map(|index| Device { healthy, ..device(&format!("GPU-{index:060}"), 0) }).collect()
    };
    let plugin = Plugin::serving(root.path(), GPU, Devices::new(many(true)));
    kubelet.wait_for_allocatable(GPU, 4000).await;
    let mut silent = client(root.path()).await;
    let unread = silent.list_and_watch(Empty {}).await.unwrap();
    let mut reading = client(root.path()).await;
    let mut lists = reading.list_and_watch(Empty {}).await.unwrap().into_inner();
    plugin.wait_for("three streams", |state| state.streams == 3).await;
    for round in 0..20 {
        plugin.devices.set(many(round % 2 == 1));
        sleep(Duration::from_millis(5)).await;
    }
    kubelet.wait_for_allocatable(GPU, 4000).await;
    let last = async { while lists.message().await.unwrap().unwrap().devices[0].health != "Unhealthy" {} };
    plugin.devices.set(many(false));
    timeout(PATIENCE, last).await.unwrap();
    drop((unread, lists));
    plugin.wait_for("kubelet's stream alone", |state| state.streams == 1).await;
    // Readers that go are no reason to register again.
    assert_eq!(kubelet.view().registrations.len(), 1);
    plugin.stop().await;
}

#[tokio::test]
async fn a_list_that_is_set_again_and_again_ends_as_the_last_one() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let plugin = Plugin::start(root.path());
    let devices = Arc::clone(&plugin.devices);
    for count in (0..=200).rev() {
        devices.set((0..count + 3).map(|index| device(&format!("GPU-{index}"), 0)).collect());
    }
    kubelet.wait_for_allocatable(GPU, 3).await;
    plugin.stop().await;
}

fn unhealthy(view: &View) -> Vec<String> {
    let devices = view.resource(GPU).devices;
    devices.into_iter().filter(|device| device.health == "Unhealthy").map(|device| device.id).collect()
}
