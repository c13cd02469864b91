use oarlock_core::CpuSet;
use oarlock_core::machine::Node;

use super::*;

fn gpu(index: u32, uuid: Option<&str>) -> Gpu {
    Gpu {
        index,
        pci: Some(address(index)),
        uuid: uuid.map(str::to_owned),
        model: None,
        locality: Locality::Unknown { why: "-1".to_owned() },
        local_cpus: None,
        memory_node: None,
    }
}

fn address(index: u32) -> PciAddress {
    PciAddress { domain: 0, bus: index as u8, device: 0, function: 0 }
}

/// GPU 0 has a UUID; 1 is NVIDIA's without one, 2 is AMD's, 3 has no driver.
fn machine() -> Machine {
    let node = |id, cpu| Node { id, cpus: CpuSet::of(cpu), memory_mb: None, gpu_memory: false };
    Machine {
        nodes: vec![node(3, 0), node(5, 1)],
        gpus: vec![gpu(0, Some("GPU-0")), gpu(1, None), gpu(2, None), gpu(3, None)],
        ..Machine::default()
    }
}

fn facts() -> BTreeMap<PciAddress, DeviceFacts> {
    let driver = |name: &str| DeviceFacts { driver: Some(name.to_owned()), ..DeviceFacts::default() };
    [(address(0), driver("nvidia")), (address(1), driver("nvidia")), (address(2), driver("amdgpu"))].into()
}

fn ids(nvml: &Nvml) -> Vec<String> {
    let (serving, _) = gpus(&Config::default(), &machine(), nvml, &facts()).unwrap();
    serving[0].offer.items.iter().map(|item| item.id.clone()).collect()
}

#[test]
fn a_gpu_of_nvidias_is_not_offered_by_address_while_nvml_may_still_name_it() {
    let (uuid, amd) = ("GPU-0", "0000:02:00.0");
    assert_eq!(ids(&Nvml::Waiting), [uuid, amd]);
    assert_eq!(ids(&Nvml::Here(Vec::new())), [uuid, amd]);
    assert_eq!(ids(&Nvml::Missing), [uuid, "0000:01:00.0", amd, "0000:03:00.0"]);
}

#[test]
fn only_the_gpu_resource_sets_the_variable_and_each_item_has_its_own_device_nodes() {
    let mut facts = facts();
    facts.insert(address(0), DeviceFacts { minor: Some(7), ..DeviceFacts::default() });
    let mut config = Config::default();
    config.gpu.mig_strategy = advertise::MigStrategy::Mixed;
    let part = nvml::MigDevice { number: 0, uuid: "MIG-a".to_owned(), profile: Some("1g.10gb".to_owned()) };
    let cut = nvml::Gpu {
        index: 0,
        pci: address(0),
        uuid: Some("GPU-0".to_owned()),
        name: None,
        minor: Some(7),
        memory_node: None,
        memory_affinity: None,
        mig: Some(vec![part]),
    };
    let nvml = Nvml::Here(vec![cut]);
    let (serving, _) = gpus(&config, &machine(), &nvml, &facts).unwrap();
    let given: Vec<_> = serving
        .iter()
        .map(|serving| match &serving.giving {
            Giving::Gpus { access, nodes } => (serving.offer.name.as_str(), access.sets_gpus, nodes[0].own.clone()),
            Giving::Nodes => panic!("{serving:?}"),
        })
        .collect();
    assert_eq!(
        given,
        [("oarlock.dev/gpu", true, vec![]), ("oarlock.dev/mig-1g.10gb", false, vec!["/dev/nvidia7".to_owned()]),]
    );
    let gpu = Some("GPU-0".to_owned());
    assert_eq!(watched(&nvml), [("GPU-0".to_owned(), None), ("MIG-a".to_owned(), gpu)]);
}

#[test]
fn a_lost_gpu_keeps_the_uuid_that_it_had() {
    let lost = nvml::Gpu {
        index: 1,
        pci: address(1),
        uuid: Some("GPU-1".to_owned()),
        name: None,
        minor: None,
        memory_node: None,
        memory_affinity: None,
        mig: None,
    };
    let mut machine = machine();
    name_lost_gpus(&mut machine, &[lost]);
    let uuids: Vec<_> = machine.gpus.iter().map(|gpu| gpu.uuid.as_deref()).collect();
    assert_eq!(uuids, [Some("GPU-0"), Some("GPU-1"), None, None]);
}

#[test]
fn the_operators_word_counts_where_the_host_does_not_tell_and_names_a_node_that_is_there() {
    let mut machine = machine();
    machine.gpus[0].locality = Locality::Node { node: 3, from: Evidence::NumaNode };
    let said = [(address(0), 5), (address(1), 5), (address(2), 4)].into();
    place_unknown_gpus(&mut machine, &said);
    let nodes: Vec<_> = machine.gpus.iter().map(|gpu| gpu.locality.node()).collect();
    assert_eq!(nodes, [Some(3), Some(5), None, None]);
}
