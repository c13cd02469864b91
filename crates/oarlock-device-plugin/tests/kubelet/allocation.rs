//! `GetPreferredAllocation` and `Allocate`, as kubelet and as a stranger call them.

use std::sync::Barrier;

use oarlock_core::NodeSet;
use oarlock_device_plugin::proto::v1beta1::device_plugin_client::DevicePluginClient;
use oarlock_device_plugin::proto::v1beta1::{
    AllocateRequest, AllocateResponse, ContainerAllocateRequest, ContainerPreferredAllocationRequest,
    PreferredAllocationRequest,
};
use oarlock_device_plugin::{AllocateError, Allocation, Device};
use oarlock_testkit::kubelet::{Kind, Kubelet, KubeletOptions};
use tempfile::{TempDir, tempdir};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::plugin::{Devices, GPU, Plugin, client, device, eight};

const NODE: &str = "oarlock.dev/numa-node";

fn ids(indices: &[usize]) -> Vec<String> {
    indices.iter().map(|index| format!("GPU-{index}")).collect()
}

/// A plugin with kubelet, and a client of its socket.
async fn with_client(devices: Devices) -> (TempDir, Kubelet, Plugin, DevicePluginClient<Channel>) {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let plugin = Plugin::serving(root.path(), GPU, devices);
    plugin.ready().await;
    let client = client(root.path()).await;
    (root, kubelet, plugin, client)
}

async fn allocate(
    client: &mut DevicePluginClient<Channel>,
    containers: Vec<Vec<String>>,
) -> Result<AllocateResponse, Status> {
    let container_requests =
        containers.into_iter().map(|devices_ids| ContainerAllocateRequest { devices_ids }).collect();
    client.allocate(AllocateRequest { container_requests }).await.map(tonic::Response::into_inner)
}

async fn prefer(
    client: &mut DevicePluginClient<Channel>,
    available: &[String],
    must: &[String],
    size: i32,
) -> Vec<String> {
    let request = ContainerPreferredAllocationRequest {
        available_device_i_ds: available.to_vec(),
        must_include_device_i_ds: must.to_vec(),
        allocation_size: size,
    };
    let request = PreferredAllocationRequest { container_requests: vec![request] };
    client.get_preferred_allocation(request).await.unwrap().into_inner().container_responses.remove(0).device_i_ds
}

#[tokio::test]
async fn kubelet_asks_for_advice_among_the_aligned_devices_and_follows_it() {
    let (_root, kubelet, plugin, _) = with_client(Devices::new(eight())).await;
    let admitted = kubelet.admit("pod", "train", &[(GPU, 2)], Some(&NodeSet::of(1))).await.unwrap();
    assert_eq!(kubelet.view().preferred[0].available_device_i_ds, ids(&[0, 1, 2, 3]));
    assert_eq!(admitted.devices[GPU], ids(&[3, 2]));
    assert_eq!(admitted.response.envs["DEVICES"], "GPU-3,GPU-2");
    plugin.stop().await;
}

#[tokio::test]
async fn kubelet_asks_nobody_where_exactly_the_aligned_devices_are_needed() {
    let (_root, kubelet, plugin, _) = with_client(Devices::new(eight())).await;
    let admitted = kubelet.admit("pod", "train", &[(GPU, 4)], Some(&NodeSet::of(0))).await.unwrap();
    assert_eq!(admitted.devices[GPU], ids(&[4, 5, 6, 7]));
    assert_eq!(kubelet.view().preferred, []);
    plugin.stop().await;
}

#[tokio::test]
async fn kubelet_asks_with_the_aligned_ones_as_a_must_where_they_do_not_suffice() {
    let devices = Devices { prefer: |_, must, _| [must, &["GPU-2".to_owned()]].concat(), ..Devices::new(eight()) };
    let (_root, kubelet, plugin, _) = with_client(devices).await;
    let admitted = kubelet.admit("pod", "train", &[(GPU, 5)], Some(&NodeSet::of(0))).await.unwrap();
    let asked = kubelet.view().preferred.remove(0);
    assert_eq!((asked.must_include_device_i_ds, asked.allocation_size), (ids(&[4, 5, 6, 7]), 5));
    assert_eq!(admitted.devices[GPU], ids(&[4, 5, 6, 7, 2]));
    plugin.stop().await;
}

#[tokio::test]
async fn advice_that_does_not_fit_is_replaced_by_the_must_and_then_the_given_order() {
    for prefer_wrongly in [
        (|_, _, _| vec!["GPU-5".to_owned(), "GPU-9".to_owned()]) as fn(&[String], &[String], usize) -> Vec<String>,
        |available, _, _| available.to_vec(),
        |_, _, _| vec!["GPU-7".to_owned(), "GPU-1".to_owned()],
        |_, _, _| panic!("a fault in the backend"),
        |_, must, _| {
            std::thread::sleep(std::time::Duration::from_secs(2));
            must.to_vec()
        },
    ] {
        let devices = Devices { prefer: prefer_wrongly, ..Devices::new(eight()) };
        let (_root, _kubelet, plugin, mut client) = with_client(devices).await;
        assert_eq!(prefer(&mut client, &ids(&[7, 1, 5, 2]), &ids(&[5]), 2).await, ids(&[5, 7]));
        plugin.stop().await;
    }
}

#[tokio::test]
async fn advice_is_asked_for_with_every_id_once_and_never_an_error() {
    let devices = Devices { prefer: |available, _, _| available.to_vec(), ..Devices::new(eight()) };
    let (_root, _kubelet, plugin, mut client) = with_client(devices).await;
    assert_eq!(prefer(&mut client, &ids(&[3, 3, 1]), &[], 2).await, ids(&[3, 1]));
    assert_eq!(prefer(&mut client, &ids(&[3]), &[], -1).await, ids(&[]));
    assert_eq!(prefer(&mut client, &[], &[], 3).await, ids(&[]));
    assert_eq!(prefer(&mut client, &ids(&[1]), &ids(&[2, 3]), 1).await, ids(&[2]));
    let many: Vec<String> = (0..20_000).map(|index| format!("GPU-{index}")).rev().collect();
    assert_eq!(prefer(&mut client, &many, &[], 2).await, ["GPU-19999", "GPU-19998"]);
    plugin.stop().await;
}

#[tokio::test]
async fn an_unknown_device_is_refused_by_its_name_and_nothing_is_allocated() {
    let devices = Devices { allocate: |_| panic!("nobody should ask"), ..Devices::new(eight()) };
    let (_root, _kubelet, plugin, mut client) = with_client(devices).await;
    let status = allocate(&mut client, vec![ids(&[1]), ids(&[9, 2, 8, 9])]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "unknown devices: \"GPU-9\", \"GPU-8\"");
    plugin.stop().await;
}

#[tokio::test]
async fn a_device_that_has_left_the_list_is_unknown() {
    let (_root, kubelet, plugin, mut client) = with_client(Devices::new(eight())).await;
    plugin.devices.set(eight().split_off(1));
    kubelet.wait_for_allocatable(GPU, 7).await;
    let status = allocate(&mut client, vec![ids(&[0])]).await.unwrap_err();
    assert_eq!(status.message(), "unknown device: \"GPU-0\"");
    plugin.stop().await;
}

#[tokio::test]
async fn a_request_without_containers_or_without_devices_is_refused() {
    let (_root, _kubelet, plugin, mut client) = with_client(Devices::new(eight())).await;
    let status = allocate(&mut client, Vec::new()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "the request names no container"));
    let status = allocate(&mut client, vec![ids(&[1]), Vec::new()]).await.unwrap_err();
    assert_eq!(status.message(), "container request 1 (from 0) asks for no device");
    plugin.stop().await;
}

#[tokio::test]
async fn each_container_of_a_request_gets_its_own_answer_and_each_id_counts_once() {
    let (_root, _kubelet, plugin, mut client) = with_client(Devices::new(eight())).await;
    let answer = allocate(&mut client, vec![ids(&[6, 1, 6]), ids(&[0])]).await.unwrap();
    let devices: Vec<&str> =
        answer.container_responses.iter().map(|response| response.envs["DEVICES"].as_str()).collect();
    assert_eq!(devices, ["GPU-6,GPU-1", "GPU-0"]);
    plugin.stop().await;
}

#[tokio::test]
async fn allocations_of_several_pods_run_at_the_same_time() {
    // Each waits for the other: one after the other, both would be given up.
    static BOTH: Barrier = Barrier::new(2);
    let meet = |_: &[String]| {
        BOTH.wait();
        Ok(Allocation::default())
    };
    let (_root, _kubelet, plugin, client) = with_client(Devices { allocate: meet, ..Devices::new(eight()) }).await;
    let (mut one, mut other) = (client.clone(), client);
    let answers = tokio::join!(allocate(&mut one, vec![ids(&[1])]), allocate(&mut other, vec![ids(&[2])]));
    assert!(answers.0.is_ok() && answers.1.is_ok(), "{answers:?}");
    plugin.stop().await;
}

#[tokio::test]
async fn ten_thousand_ids_are_taken_and_one_more_is_refused() {
    let list: Vec<Device> = (0..10_001).map(|index| device(&format!("GPU-{index:059}"), 0)).collect();
    let mut ids: Vec<String> = list.iter().map(|device| device.id.clone()).collect();
    let (_root, _kubelet, plugin, mut client) = with_client(Devices::new(list)).await;
    let status = allocate(&mut client, vec![ids.clone()]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "10001 device ids in one request: at most 10000 are taken");
    ids.pop();
    let answer = allocate(&mut client, vec![ids]).await.unwrap();
    assert_eq!(answer.container_responses[0].envs["DEVICES"].split(',').count(), 10_000);
    plugin.stop().await;
}

#[tokio::test]
async fn a_refusal_of_the_backend_and_a_fault_in_it_reach_kubelet_and_the_next_call_is_answered() {
    let answer = |ids: &[String]| match ids[0].as_str() {
        "GPU-0" => Err(AllocateError::Refused("GPU-0 fell off the bus".to_owned())),
        "GPU-1" => panic!("a fault in the backend"),
        _ => Ok(Allocation::default()),
    };
    let (_root, kubelet, plugin, mut client) = with_client(Devices { allocate: answer, ..Devices::new(eight()) }).await;
    let status = allocate(&mut client, vec![ids(&[0])]).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "GPU-0 fell off the bus"));
    let status = allocate(&mut client, vec![ids(&[1])]).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    allocate(&mut client, vec![ids(&[2])]).await.unwrap();
    assert_eq!(kubelet.view().registrations.len(), 1);
    plugin.stop().await;
}

#[tokio::test]
async fn a_container_that_restarts_gets_what_it_had_also_after_kubelet_and_plugin_restarted() {
    let (root, kubelet, plugin, _) = with_client(Devices::new(eight())).await;
    let first = kubelet.admit("pod", "train", &[(GPU, 3)], None).await.unwrap();
    assert_eq!(kubelet.start_container("pod", "train"), first);
    plugin.stop().await;
    kubelet.stop().await;
    let kubelet = Kubelet::start(root.path());
    // The pod is there before the plugin is: it keeps its devices, and nobody is asked.
    assert_eq!(kubelet.admit("pod", "train", &[(GPU, 3)], None).await.unwrap(), first);
    let refusal = kubelet.admit("new", "train", &[(GPU, 1)], None).await.unwrap_err();
    assert!(refusal.to_string().contains("no healthy devices present"), "{refusal}");
    let plugin = Plugin::start(root.path());
    kubelet.wait_for_allocatable(GPU, 8).await;
    assert_eq!(kubelet.start_container("pod", "train"), first);
    assert_eq!(kubelet.view().allocated, []);
    let second = kubelet.admit("new", "train", &[(GPU, 5)], None).await.unwrap();
    assert!(second.devices[GPU].iter().all(|id| !first.devices[GPU].contains(id)), "{second:?}");
    kubelet.admit("third", "train", &[(GPU, 1)], None).await.unwrap_err();
    kubelet.remove_pod("pod");
    kubelet.admit("third", "train", &[(GPU, 1)], None).await.unwrap();
    plugin.stop().await;
}

#[tokio::test]
async fn devices_of_an_init_container_are_a_must_for_the_next_one_and_asked_for_again() {
    let devices = Devices { prefer: |_, must, _| [must, &["GPU-6".to_owned()]].concat(), ..Devices::new(eight()) };
    let (_root, kubelet, plugin, _) = with_client(devices).await;
    let node = NodeSet::of(0);
    let first = kubelet.admit_as(Kind::Init, "pod", "prepare", &[(GPU, 1)], Some(&node)).await.unwrap();
    assert_eq!(first.devices[GPU], ids(&[6]));
    // As many: nobody is asked which, and the plugin gives them once more.
    let second = kubelet.admit_as(Kind::Init, "pod", "warm", &[(GPU, 1)], Some(&node)).await.unwrap();
    assert_eq!((second.devices[GPU].clone(), kubelet.view().preferred.len()), (ids(&[6]), 1));
    assert_eq!(second.response, first.response);
    let main = kubelet.admit("pod", "train", &[(GPU, 3)], Some(&node)).await.unwrap();
    let asked = kubelet.view().preferred.remove(1);
    assert_eq!((asked.must_include_device_i_ds, asked.allocation_size), (ids(&[6]), 3));
    assert_eq!(asked.available_device_i_ds, ids(&[6, 4, 5, 7]));
    assert_eq!(main.devices[GPU], ids(&[6, 4, 5]));
    assert_eq!(main.response.envs["DEVICES"], "GPU-6,GPU-4,GPU-5");
    // What the first of the others has is not the second's.
    let beside = kubelet.admit("pod", "beside", &[(GPU, 1)], Some(&node)).await.unwrap();
    assert_eq!(beside.devices[GPU], ids(&[7]));
    plugin.stop().await;
}

#[tokio::test]
async fn devices_of_an_init_container_that_goes_on_stay_its_own() {
    let (_root, kubelet, plugin, _) = with_client(Devices::new(eight())).await;
    let sidecar = kubelet.admit_as(Kind::Sidecar, "pod", "proxy", &[(GPU, 2)], None).await.unwrap();
    assert_eq!(sidecar.devices[GPU], ids(&[7, 6]));
    let main = kubelet.admit("pod", "train", &[(GPU, 6)], None).await.unwrap();
    assert!(main.devices[GPU].iter().all(|id| !sidecar.devices[GPU].contains(id)), "{main:?}");
    kubelet.admit("pod", "more", &[(GPU, 1)], None).await.unwrap_err();
    plugin.stop().await;
}

#[tokio::test]
async fn after_a_reboot_a_pod_fails_until_the_plugin_is_there_and_its_devices_are_healthy() {
    let (root, kubelet, plugin, _) = with_client(Devices::new(eight())).await;
    let first = kubelet.admit("pod", "train", &[(GPU, 2)], None).await.unwrap();
    assert_eq!(first.devices[GPU], ids(&[7, 6]));
    plugin.kill().await;
    kubelet.kill().await;
    let kubelet = Kubelet::start_with(root.path(), &KubeletOptions { rebooted: true, ..KubeletOptions::default() });
    let refusal = kubelet.admit("pod", "train", &[(GPU, 2)], None).await.unwrap_err();
    assert!(refusal.to_string().contains("no healthy devices present"), "{refusal}");
    let mut devices = eight();
    devices[6].healthy = false;
    let plugin = Plugin::serving(root.path(), GPU, Devices::new(devices));
    kubelet.wait_for_allocatable(GPU, 7).await;
    let refusal = kubelet.admit("pod", "train", &[(GPU, 2)], None).await.unwrap_err();
    assert!(refusal.to_string().contains("previously allocated devices are no longer healthy"), "{refusal}");
    plugin.devices.set(eight());
    kubelet.wait_for_allocatable(GPU, 8).await;
    // The ids are the same as before, and what was answered then holds.
    assert_eq!(kubelet.admit("pod", "train", &[(GPU, 2)], None).await.unwrap(), first);
    assert_eq!(kubelet.view().allocated, []);
    plugin.stop().await;
}

#[tokio::test]
async fn a_container_with_two_resources_gets_what_both_answer() {
    let root = tempdir().unwrap();
    let kubelet = Kubelet::start(root.path());
    let gpus = Plugin::start(root.path());
    let of_node = |ids: &[String]| {
        let mut allocation = Allocation::default();
        allocation.envs.insert("NODES".to_owned(), ids.join(","));
        Ok(allocation)
    };
    let nodes = Devices { allocate: of_node, ..Devices::new(vec![device("node-0", 0), device("node-1", 1)]) };
    let nodes = Plugin::serving(root.path(), NODE, nodes);
    kubelet.wait_for_allocatable(GPU, 8).await;
    kubelet.wait_for_allocatable(NODE, 2).await;
    let limits = [(GPU, 4), (NODE, 1)];
    let admitted = kubelet.admit("pod", "train", &limits, Some(&NodeSet::of(1))).await.unwrap();
    assert_eq!(admitted.response.envs["DEVICES"], "GPU-0,GPU-1,GPU-2,GPU-3");
    assert_eq!(admitted.response.envs["NODES"], "node-1");
    gpus.stop().await;
    nodes.stop().await;
}
