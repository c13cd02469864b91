//! From a pod's annotations to a request.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use oarlock_core::Request;
use oarlock_core::request::{CpuMap, MemMap, OnFailure};

#[test]
fn a_pod_without_a_map_is_left_alone_whatever_else_it_says() {
    for annotations in [vec![], vec![("oarlock.dev/ranks", "8")], vec![("other.dev/cpu-map", "nonsense")]] {
        assert_eq!(Request::from_annotations(annotations).unwrap(), None);
    }
}

#[test]
fn the_annotations_and_the_flags_make_the_same_request() {
    let annotated = Request::from_annotations([
        ("oarlock.dev/cpu-map", "cpus:0-3;4-7"),
        ("oarlock.dev/mem-map", " auto "),
        ("oarlock.dev/on-failure", "refuse"),
        ("oarlock.dev/placement", "written by the agent, never read"),
        ("kubectl.kubernetes.io/default-container", "main"),
    ])
    .unwrap()
    .unwrap();
    let mut set = Request::default();
    for (key, value) in [("cpu-map", "cpus:0-3;4-7"), ("mem-map", "auto"), ("on-failure", "refuse")] {
        set.set(key, value).unwrap();
    }
    assert_eq!(annotated, set);
    assert_eq!((annotated.mem_map, annotated.on_failure), (MemMap::Auto, OnFailure::Refuse));
    assert_eq!(annotated.cpu_map.to_string(), "cpus:0-3;4-7");
}

#[test]
fn an_unknown_key_of_ours_is_refused_even_beside_a_good_map() {
    let refusal =
        Request::from_annotations([("oarlock.dev/cpu-map", "auto"), ("oarlock.dev/cpumap", "auto")]).unwrap_err();
    assert_eq!(refusal.key, "oarlock.dev/cpumap");
    assert!(refusal.rule.contains("cpu-map, mem-map"), "{refusal}");
}

#[test]
fn maps_print_as_they_are_written() {
    for text in ["none", "auto", "numa", "node", "socket", "exclusive", "core-complex", "0,0+1,1", "cpus:0-11,48-59;12"]
    {
        assert_eq!(CpuMap::parse(text).unwrap().to_string(), text);
    }
}

#[test]
fn a_hostile_value_is_shortened_in_the_line_and_whole_in_the_object() {
    let value = "x".repeat(200_000);
    let refusal = CpuMap::parse(&value).unwrap_err();
    assert!(refusal.to_string().len() < 600);
    assert_eq!(refusal.value.len(), value.len());
    let escape = CpuMap::parse("\u{1b}[31m\nred").unwrap_err().to_string();
    assert!(!escape.contains('\u{1b}') && !escape.contains('\n'), "{escape}");
}

#[test]
fn endless_annotations_are_refused_in_a_line_that_names_the_place() {
    // As long as all annotations of a pod may be, together.
    const LONG: usize = 256 << 10;
    let list = |entry: &str| entry.repeat(LONG / entry.len());
    for (key, value, place) in [
        ("cpu-map", list("0,"), "entry 131073 (rank 131072) is empty"),
        ("cpu-map", format!("{}0", list("0,")), "131073 entries are more than 8192 ranks"),
        ("mem-map", format!("{}0", "1,".repeat(1_000_000)), "1000001 entries are more than 8192 ranks"),
        ("cpu-map", format!("0,{}", list("9")), "entry 2 (rank 1)"),
        ("mem-map", format!("0,0+{}", list("x")), "entry 2 (rank 1)"),
        ("cpu-map", format!("0,{}", list("0+")), "entry 2 (rank 1)"),
        ("cpu-map", format!("cpus:0;{}", list("-")), "entry 2 (rank 1)"),
        ("cpu-map", format!("cpus:0-3;{}", list("0,")), "entry 2 (rank 1)"),
        ("rank-gpus", format!("0;{}", list("7")), "entry 2 (rank 1)"),
        ("rank-gpus", format!("0;1,{}", list("y")), "entry 2 (rank 1)"),
        ("containers", format!("main,{}", list("z")), "zzz…\" is not the name of a container"),
        ("ranks", list("1"), "is not one"),
        ("omp-threads", list("1"), "is not one of them"),
        ("smt", list("one"), "is not one of them"),
    ] {
        let map = ("oarlock.dev/cpu-map", "auto");
        let refusal =
            Request::from_annotations([map, (&*format!("oarlock.dev/{key}"), &*value)]).unwrap_err().to_string();
        assert!(refusal.contains(&format!("oarlock.dev/{key}")) && refusal.contains(place), "{refusal:.600}");
        assert!(refusal.len() < 700, "{key}: {} bytes", refusal.len());
    }
}

#[test]
fn the_launchers_environment_states_ranks_only_where_it_is_a_number() {
    let ranks = |pairs: &'static [(&'static str, &'static str)]| {
        Request::ranks_from_env(|key| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value))
    };
    assert_eq!(ranks(&[("PET_NPROC_PER_NODE", "8"), ("NPROC_PER_NODE", "4")]), Some(8));
    assert_eq!(ranks(&[("PET_NPROC_PER_NODE", "auto"), ("NPROC_PER_NODE", "4")]), Some(4));
    assert_eq!(ranks(&[("PET_NPROC_PER_NODE", "gpu")]), None);
    assert_eq!(ranks(&[("NPROC_PER_NODE", "0")]), None);
    assert_eq!(ranks(&[("NPROC_PER_NODE", "999999999999")]), None);
}
