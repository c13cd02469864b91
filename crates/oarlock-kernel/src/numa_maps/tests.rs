use std::fs;

use proptest::prelude::*;

use super::*;
use crate::proc::{Live, Proc};

/// From real kernels: a binary's text, its written data, the heap, huge pages, shared memory, a thread's stack, and a
/// mapping that is partly written.
const MAPS: &str = "\
55aa053ce000 bind:1 file=/usr/bin/a\\040b mapped=6 mapmax=3 active=0 N0=4 N1=2 kernelpagesize_kB=4
55aa053d7000 bind:1 file=/usr/bin/a\\040b anon=2 dirty=2 N1=2 kernelpagesize_kB=4
55aa15e9b000 bind:1 heap anon=700 dirty=700 active=688 N0=40 N1=660 kernelpagesize_kB=4
7f0000000000 prefer (many):2-3 file=/anon_hugepage\\040(deleted) huge anon=3 dirty=3 N1=3 kernelpagesize_kB=2048
7f1000000000 default file=/dev/shm/N9=9 dirty=5 N3=5 kernelpagesize_kB=4
7f2000000000 bind:1 file=/usr/lib/libc.so anon=5 dirty=5 mapped=9 N0=7 N1=2 kernelpagesize_kB=4
7fff00000000 bind:1 stack anon=3 dirty=3 N1=3 kernelpagesize_kB=4
7fff0a000000 weighted interleave:0-1
7fff0b000000 bind=static:0
";

fn maps(text: &str) -> Result<Option<NumaMaps>, ReadError> {
    let root = tempfile::tempdir().unwrap();
    let process = root.path().join("12");
    fs::create_dir(&process).unwrap();
    fs::write(process.join("numa_maps"), text).unwrap();
    let process = Proc::open_any_folder(root.path()).unwrap().process(12).unwrap().unwrap();
    process.numa_maps().map(|maps| maps.here().flatten())
}

fn pages(count: u64, kib: u64) -> Pages {
    Pages { count, kib }
}

#[test]
fn anonymous_pages_are_counted_by_node_apart_from_file_pages() {
    let maps = maps(MAPS).unwrap().unwrap();
    let anonymous: Vec<_> = maps.anonymous.into_iter().collect();
    assert_eq!(anonymous, [(0, pages(40, 160)), (1, pages(2 + 660 + 3 + 3, (2 + 660 + 3) * 4 + 3 * 2048))]);
    let file: Vec<_> = maps.file.into_iter().collect();
    assert_eq!(file, [(0, pages(4, 16)), (1, pages(2, 8)), (3, pages(5, 20))]);
    assert_eq!(maps.mixed, [Mixed { anonymous: 5, page_kib: 4, pages: vec![(0, 7), (1, 2)] }]);
}

#[test]
fn of_a_partly_written_mapping_only_the_pages_that_must_be_elsewhere_count_as_outside() {
    let maps = maps(MAPS).unwrap().unwrap();
    // 40 of the heap, and of the mixed mapping's 5 anonymous pages only 2 can be on node 1.
    assert_eq!(maps.anonymous_outside(&NodeSet::of(1)), pages(40 + 3, (40 + 3) * 4));
    assert_eq!(maps.anonymous_outside(&"0-1".parse().unwrap()), pages(0, 0));
    assert_eq!(maps.anonymous_total(), pages(40 + 668 + 5, 160 + 665 * 4 + 3 * 2048 + 20));
}

#[test]
fn every_policy_that_a_kernel_prints_is_understood() {
    let maps = maps(MAPS).unwrap().unwrap();
    let policies: Vec<(String, u64)> = maps.policies.iter().map(|(policy, n)| (policy.to_string(), *n)).collect();
    let expected =
        [("bind:1", 5), ("bind=static:0", 1), ("default", 1), ("prefer (many):2-3", 1), ("weighted interleave:0-1", 1)];
    assert_eq!(policies, expected.map(|(policy, count)| (policy.to_owned(), count)));
    let walls: Vec<_> = maps.policies.keys().filter_map(Policy::wall).map(ToString::to_string).collect();
    assert_eq!(walls, ["1", "0"]);
}

#[test]
fn a_line_that_makes_no_sense_is_an_error_with_path_and_text() {
    for (wrong, rule) in [
        ("hello", "address"),
        ("55aa", "has a policy"),
        ("55aa sometimes anon=1 N0=1", "the policies are"),
        ("55aa bind:5-1", "reversed"),
        ("55aa default anon=x N0=1", "number"),
        ("55aa default anon=2 N0=1", "some of the pages"),
        ("55aa default anon=1 N0=99999999999999999", "that many pages"),
    ] {
        let error = maps(&format!("7fff00000000 default\n{wrong}\n")).unwrap_err().to_string();
        assert!(error.contains("12/numa_maps") && error.contains(wrong) && error.contains(rule), "{error}");
    }
}

#[test]
fn a_process_without_memory_has_no_maps_and_one_without_a_status_has_vanished() {
    assert_eq!(maps("").unwrap(), None);
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("12")).unwrap();
    let process = Proc::open_any_folder(root.path()).unwrap().process(12).unwrap().unwrap();
    assert_eq!(process.numa_maps().unwrap(), Live::Vanished);
    fs::write(root.path().join("12/status"), "").unwrap();
    assert_eq!(process.numa_maps().unwrap(), Live::Here(None));
}

#[test]
fn the_test_process_has_its_own_memory_on_its_only_allowed_nodes() {
    let memory = std::hint::black_box(vec![7_u8; 8 << 20]);
    let process = Proc::open("/proc".as_ref()).unwrap().process(std::process::id()).unwrap().unwrap();
    let maps = process.numa_maps().unwrap().here().unwrap().unwrap();
    let allowed = process.status().unwrap().here().unwrap().mems_allowed.unwrap();
    assert!(maps.anonymous_total().kib >= 8 << 10, "{maps:?}");
    assert_eq!(maps.anonymous_outside(&allowed), Pages::default());
    assert_eq!(maps.anonymous_outside(&NodeSet::of(1023)), maps.anonymous_total());
    drop(memory);
}

/// Lines that are nearly right: the parts of real ones, with any numbers, in any order and number.
fn nearly_a_line() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        "[0-9a-f]{1,16}",
        "(default|bind|prefer|prefer \\(many\\)|weighted interleave|bind=static)(:[0-9,-]{0,8})?",
        "(anon|dirty|mapped|kernelpagesize_kB|N[0-9]{1,10})=[0-9]{0,20}",
        "(file=[^ ]{0,9}|heap|stack|huge|\\PC{0,4})",
    ];
    proptest::collection::vec(word, 0..12).prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn whatever_stands_there_is_added_up_or_refused_and_no_anonymous_page_is_lost(
        lines in proptest::collection::vec(nearly_a_line(), 0..6),
        first in prop::bool::ANY,
    ) {
        let mut maps = NumaMaps::default();
        let mut anonymous = 0;
        for line in lines.iter().filter_map(|line| Line::parse(&format!("{}{line}", if first { "7f00 bind:0 " } else { "" })).ok()) {
            anonymous += line.anonymous;
            maps.add(&line);
        }
        prop_assert_eq!(maps.anonymous_total().count, anonymous);
        prop_assert_eq!(maps.anonymous_outside(&NodeSet::new()).count, anonymous);
        let all: NodeSet = "0-1023".parse().unwrap();
        prop_assert!(maps.anonymous_outside(&all).count <= anonymous);
    }
}
