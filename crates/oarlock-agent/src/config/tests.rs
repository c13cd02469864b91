use super::*;

const DOCUMENTED: &str = include_str!("../../config.yaml");

fn refusal(text: &str) -> String {
    match Config::parse(text) {
        Ok(config) => config.check().unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_documented_file_holds_every_field_with_its_default() {
    assert_eq!(Config::parse(DOCUMENTED).unwrap(), Config::default());
    for line in Config::default().to_yaml().unwrap().lines() {
        let Some((key, _)) = line.split_once(':') else { continue };
        assert!(DOCUMENTED.contains(&format!("{}:", key.trim())), "{key} is not documented");
    }
}

#[test]
fn an_empty_file_is_the_defaults_and_they_are_in_order() {
    for text in ["", "\n", "# nothing\n", "---\n", "{}"] {
        assert_eq!(Config::parse(text).unwrap(), Config::default(), "{text:?}");
    }
    Config::default().check().unwrap();
}

#[test]
fn what_is_printed_reads_back_the_same() {
    let changed = "
kubeletRoot: /var/snap/kubelet
nvmlLibrary: /usr/lib/libnvidia-ml.so.1
reservedCpus: 0-1,64
metricsAddress: '[::1]:0'
gpu:
  mode: observe
  resource: example.com/gpu
  deviceListStrategy: [cdi-cri, device-specs]
  migStrategy: mixed
  numaNodes: { '0000000F:07:00.0': 1 }
numaNode: { enabled: false, slotsPerNode: 4 }
nri: { enabled: false, socket: /run/nri.sock, index: '07' }
containerCpuset: leave
kubernetes: { enabled: false, events: false, placementAnnotation: false, hostName: gpu-7 }
health: { probeInterval: 250ms, ignoredXids: [94, 63], recoverAfter: 1m 30s }
";
    let config = Config::parse(changed).unwrap();
    config.check().unwrap();
    assert_ne!(config, Config::default());
    assert_eq!(Config::parse(&config.to_yaml().unwrap()).unwrap(), config);
    assert_eq!(config.gpu.numa_nodes.keys().next().unwrap().to_string(), "000f:07:00.0");
    assert_eq!(config.health.recover_after, Duration::from_secs(90));
    assert_eq!(Config::parse(&Config::default().to_yaml().unwrap()).unwrap(), Config::default());
}

#[test]
fn a_misspelt_key_is_refused_with_its_line_and_one_line_of_text() {
    let error = refusal("gpu:\n  mode: own\n  resorce: a.b/c\n");
    assert!(error.contains("resorce") && error.contains("line 3") && !error.contains('\n'), "{error}");
    let error = refusal("kubeletroot: /x\n");
    assert!(error.contains("kubeletroot") && error.contains("line 1"), "{error}");
}

#[test]
fn wrong_values_are_refused_with_value_and_rule() {
    for (text, words) in [
        ("gpu: { resource: gpu }", ["\"gpu\"", "domain/name"]),
        ("gpu: { resource: kubernetes.io/gpu }", ["kubernetes.io/gpu", "kubernetes.io"]),
        ("gpu: { mode: on }", ["on", "auto"]),
        ("gpu: { deviceListStrategy: [] }", ["deviceListStrategy", "at least one way"]),
        ("gpu: { deviceListStrategy: [env] }", ["env", "envvar"]),
        ("gpu: { deviceListStrategy: [device-specs], migStrategy: single }", ["device-specs", "MIG"]),
        ("gpu: { cdiKind: nvidia }", ["nvidia", "vendor/class"]),
        ("gpu: { migResourcePrefix: mig- }", ["mig-", "domain/name"]),
        ("numaNode: { slotsPerNode: 0 }", ["slotsPerNode is 0", "at least 1"]),
        ("numaNode: { slotsPerNode: -1 }", ["line 1", "column 27"]),
        ("numaNode: { resource: oarlock.dev/gpu }", ["oarlock.dev/gpu", "of its own"]),
        ("health: { probeInterval: 5 parsecs }", ["5 parsecs", "30s"]),
        ("health: { probeInterval: 0s }", ["probeInterval", "10ms"]),
        ("health: { hiccups: 0 }", ["hiccups is 0", "at least 1"]),
        ("nri: { index: '7' }", ["nri.index is 7", "two digits"]),
        ("nri: { socket: nri.sock }", ["nri.socket is nri.sock", "absolute"]),
        ("kubernetes: { event: true }", ["event", "placementAnnotation"]),
        ("containerCpuset: mine", ["mine", "leave"]),
        ("reservedCpus: 3-1", ["3-1", "reversed"]),
        ("kubeletRoot: kubelet", ["kubeletRoot is kubelet", "absolute"]),
        ("metricsAddress: localhost", ["socket address", "line 1"]),
    ] {
        let error = refusal(text);
        assert!(words.iter().all(|word| error.contains(word)) && !error.contains('\n'), "{text}: {error}");
    }
}
