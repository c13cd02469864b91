use oarlock_core::CpuSet;

use super::*;

fn access(strategies: &[DeviceListStrategy]) -> GpuAccess {
    GpuAccess {
        strategies: strategies.to_vec(),
        cdi_kind: "nvidia.com/gpu".to_owned(),
        resource: "oarlock.dev/gpu".parse().unwrap(),
        sets_gpus: true,
    }
}

fn nvidia(minor: u32) -> DeviceNodes {
    let present = BTreeSet::from(["/dev/nvidia-modeset".to_owned()]);
    DeviceNodes::decide(&DeviceFacts { minor: Some(minor), present, ..DeviceFacts::default() })
}

fn node(id: &str, node: u32, slot: Option<u32>) -> Item {
    Item { id: id.to_owned(), nodes: NodeSet::of(node), thing: Thing::Node { node, slot, cpus: CpuSet::new() } }
}

fn paths(allocation: &Allocation) -> Vec<&str> {
    allocation.devices.iter().map(|device| device.host_path.as_str()).collect()
}

#[test]
fn the_variable_of_nvidias_runtime_and_our_own_name_uuids() {
    let allocation = gpus(&access(&[DeviceListStrategy::Envvar]), &[("GPU-b", &nvidia(1)), ("GPU-a", &nvidia(0))]);
    let expected = [("NVIDIA_VISIBLE_DEVICES", "GPU-b,GPU-a"), ("OARLOCK_GPUS", "GPU-b,GPU-a")];
    assert_eq!(allocation.envs, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    assert_eq!((allocation.devices.len(), allocation.cdi_devices.len(), allocation.annotations.len()), (0, 0, 0));
}

#[test]
fn every_strategy_of_the_list_is_used_and_only_those() {
    use DeviceListStrategy::{CdiAnnotations, CdiCri, DeviceSpecs};
    let chosen: [(&str, &DeviceNodes); 2] = [("GPU-a", &nvidia(3)), ("MIG-b", &nvidia(3))];
    let cdi = gpus(&access(&[CdiCri]), &chosen);
    assert_eq!(
        cdi.cdi_devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>(),
        ["nvidia.com/gpu=GPU-a", "nvidia.com/gpu=MIG-b"]
    );
    assert!(cdi.devices.is_empty() && cdi.annotations.is_empty() && cdi.envs.len() == 1, "{cdi:?}");

    let both = gpus(&access(&[CdiAnnotations, DeviceSpecs]), &chosen);
    let annotation = ("cdi.k8s.io/oarlock.dev_gpu".to_owned(), "nvidia.com/gpu=GPU-a,nvidia.com/gpu=MIG-b".to_owned());
    assert_eq!(both.annotations, [annotation].into());
    assert!(both.cdi_devices.is_empty() && both.envs.len() == 1, "{both:?}");
    assert_eq!(paths(&both), ["/dev/nvidia3", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-modeset"]);
    assert!(both.devices.iter().all(|device| device.container_path == device.host_path && device.permissions == "rw"));
}

#[test]
fn a_gpu_that_has_no_uuid_is_given_by_its_device_nodes() {
    let amd = DeviceFacts {
        driver: Some("amdgpu".to_owned()),
        drm: vec!["card1".to_owned(), "renderD129".to_owned()],
        ..DeviceFacts::default()
    };
    let (amd, nvidia) = (DeviceNodes::decide(&amd), nvidia(0));
    let allocation = gpus(
        &access(&[DeviceListStrategy::Envvar]),
        &[("0000:03:00.0", &amd), ("GPU-a", &nvidia), ("0000:04:00.0", &amd)],
    );
    assert_eq!(allocation.envs["NVIDIA_VISIBLE_DEVICES"], "GPU-a");
    assert_eq!(allocation.envs[GPUS], "0000:03:00.0,GPU-a,0000:04:00.0");
    assert_eq!(paths(&allocation), ["/dev/dri/card1", "/dev/dri/renderD129", "/dev/kfd"]);
    let intel =
        DeviceFacts { driver: Some("xe".to_owned()), drm: vec!["renderD128".to_owned()], ..DeviceFacts::default() };
    assert_eq!(DeviceNodes::decide(&intel).shared, Vec::<String>::new());
}

#[test]
fn two_resources_of_one_container_set_no_variable_of_ours_twice_and_no_annotation_twice() {
    use DeviceListStrategy::CdiAnnotations;
    let gpu = gpus(&access(&[CdiAnnotations]), &[("GPU-a", &nvidia(0))]);
    let resource = "oarlock.dev/mig-1g.10gb".parse().unwrap();
    let mig = GpuAccess { resource, sets_gpus: false, ..access(&[CdiAnnotations]) };
    let mig = gpus(&mig, &[("MIG-a", &nvidia(1))]);
    let nodes = nodes(&[&node("node-0-slot-1", 0, Some(1))]);
    let mut seen = BTreeSet::new();
    for allocation in [&gpu, &mig, &nodes] {
        for key in allocation.envs.keys().chain(allocation.annotations.keys()) {
            assert!(seen.insert(key.clone()), "{key} is set twice");
        }
    }
    assert_eq!(seen.len(), 5, "{seen:?}");
}

#[test]
fn an_annotations_name_is_never_longer_than_63_characters() {
    let resource: ResourceName = format!("{}/{}", "a.b".repeat(30), "x-".repeat(20) + "y").parse().unwrap();
    let key = cdi_annotation(&resource);
    let name = key.strip_prefix("cdi.k8s.io/").unwrap();
    assert!(name.len() <= 63 && name.starts_with(|c: char| c.is_ascii_alphanumeric()), "{name}");
}

#[test]
fn nodes_are_told_in_list_form_and_slots_by_name() {
    let whole = [node("node-1", 1, None), node("node-0", 0, None), node("node-3", 3, None)];
    let allocation = nodes(&whole.iter().collect::<Vec<_>>());
    assert_eq!(allocation.envs, [(NUMA_NODES.to_owned(), "0-1,3".to_owned())].into());
    let slots = [node("node-1-slot-0", 1, Some(0)), node("node-1-slot-2", 1, Some(2))];
    let allocation = nodes(&slots.iter().collect::<Vec<_>>());
    assert_eq!(allocation.envs[NUMA_NODES], "1");
    assert_eq!(allocation.envs[NUMA_SLOTS], "node-1-slot-0,node-1-slot-2");
}

#[test]
fn ids_are_taken_once_in_the_order_of_the_resource_and_unknown_ones_are_refused_by_name() {
    let items = [node("node-2", 2, None), node("node-1", 1, None), node("node-0", 0, None)];
    let ids = |list: &[&str]| list.iter().map(|&id| id.to_owned()).collect::<Vec<_>>();
    let chosen = select(&items, &ids(&["node-0", "node-2", "node-0"])).unwrap();
    assert_eq!(chosen.iter().map(|item| item.id.as_str()).collect::<Vec<_>>(), ["node-2", "node-0"]);
    let error = select(&items, &ids(&["node-0", "node-9", "GPU-x", "node-9"])).unwrap_err();
    assert_eq!(error.to_string(), "unknown devices: \"GPU-x\", \"node-9\"");
}
