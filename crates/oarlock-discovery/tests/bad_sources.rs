//! Sources that are none: each a one-line error with the path and the rule.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::fs;

use oarlock_discovery::{Options, Source, discover};

fn refusal(source: &str) -> String {
    let error = discover(&Source::parse(Some(source)), &Options::default()).unwrap_err();
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    assert!(!line.contains('\n'), "one line: {line}");
    line
}

#[test]
fn a_missing_path_an_empty_folder_and_a_file_of_no_kind_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    assert_eq!(refusal(&path("none")), format!("cannot read {}: No such file or directory (os error 2)", path("none")));

    fs::create_dir(folder.path().join("empty")).unwrap();
    let rule = "holds no sys/devices/system: a folder must be a machine's root, with sys/ and proc/ in it";
    assert_eq!(refusal(&path("empty")), format!("{} {rule}", path("empty")));
    fs::create_dir_all(folder.path().join("half/sys/bus/pci")).unwrap();
    assert_eq!(refusal(&path("half")), format!("{} {rule}", path("half")));

    fs::write(folder.path().join("notes.txt"), "two sockets").unwrap();
    let rule = "is neither a machine file (JSON), an hwloc export (XML) nor a folder with sys/";
    assert_eq!(refusal(&path("notes.txt")), format!("{} {rule}", path("notes.txt")));
    fs::write(folder.path().join("nothing"), "").unwrap();
    assert_eq!(refusal(&path("nothing")), format!("{} {rule}", path("nothing")));
}

#[test]
fn a_machine_without_any_cpu_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("sys/devices/system/node/node0")).unwrap();
    assert_eq!(
        refusal(&folder.path().display().to_string()),
        format!("{} contradicts itself: no node has a cpu", folder.path().display())
    );
}

#[test]
fn synthetic_nonsense_is_refused_with_the_description() {
    for description in ["", "foo", "node:", "node:0 pu:1", "node:2 core:99999999999999999999", "pu:2\0node:2"] {
        let line = refusal(&format!("synthetic:{description}"));
        assert!(line.starts_with(&format!("\"synthetic:{description}\" is not a topology")), "{line}");
    }
}

#[test]
fn a_synthetic_machine_has_its_nodes_cores_and_caches() {
    let source = Source::parse(Some("synthetic:package:2 node:2 l3:1 core:2 pu:2"));
    let machine = discover(&source, &Options::default()).unwrap().machine;
    let nodes: Vec<_> = machine.nodes.iter().map(|node| (node.id, node.cpus.to_string())).collect();
    assert_eq!(nodes, [(0, "0-3".into()), (1, "4-7".into()), (2, "8-11".into()), (3, "12-15".into())]);
    assert_eq!(machine.cores.unwrap().len(), 8);
    assert_eq!(machine.l3.unwrap().len(), 4);
    assert_eq!(machine.packages.unwrap()[1].cpus.to_string(), "8-15");
    assert_eq!(machine.name, "synthetic:package:2 node:2 l3:1 core:2 pu:2");
}

fn xml(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("box.xml");
    fs::write(&path, text).unwrap();
    let line = refusal(&path.display().to_string());
    line.replace(&path.display().to_string(), "box.xml")
}

fn topology(inside: &str) -> String {
    format!("<topology version=\"2.0\">\n  <object type=\"Machine\">\n{inside}\n  </object>\n</topology>\n")
}

#[test]
fn xml_that_is_cut_malformed_or_something_else_says_where() {
    assert_eq!(xml(""), "box.xml:1:1: the XML is cut here");
    assert_eq!(xml("<topology version=\"2.0\">\n  <object"), "box.xml:2:10: the XML is cut here");
    assert_eq!(
        xml("<topology version=\"2.0\">\n  <object></topology>"),
        "box.xml is not well-formed XML: expected 'object' tag, not 'topology' at 2:11"
    );
    assert_eq!(xml("<html/>"), "box.xml:1:1: the root element is html, not topology");
    assert_eq!(
        xml("<topology/>"),
        "box.xml:1:1: the format's version is 1: versions 2 and 3 are read, as hwloc 2 and 3 write them"
    );
    assert_eq!(xml("<topology version=\"2.0\"/>"), "box.xml:1:1: no object of type Machine");
}

#[test]
fn xml_with_wrong_values_says_which() {
    let node = |attributes: &str| xml(&topology(&format!("<object type=\"NUMANode\" {attributes}/>")));
    assert_eq!(node("cpuset=\"0x3\""), "box.xml:3:1: a NUMANode without an os_index");
    assert_eq!(node("os_index=\"x\""), "box.xml:3:1: os_index \"x\" is not a number");
    assert_eq!(node("os_index=\"1024\""), "box.xml:3:1: NUMANode 1024: the kernel numbers nodes below 1024");
    assert_eq!(
        node("os_index=\"0\" cpuset=\"0xz\""),
        "box.xml:3:1: cpuset \"0xz\" is not a mask of 32-bit hexadecimal words"
    );
    assert_eq!(
        node("os_index=\"0\" cpuset=\"0xf...f\""),
        "box.xml:3:1: cpuset \"0xf...f\" is not a mask of 32-bit hexadecimal words"
    );
    assert_eq!(xml(&topology("")), "box.xml contradicts itself: no NUMA node is described: nodes is empty");
    let device =
        topology("<object type=\"PCIDev\" pci_busid=\"a\"/><object type=\"NUMANode\" os_index=\"0\" cpuset=\"0x3\"/>");
    assert_eq!(xml(&device), "box.xml:3:1: pci_busid \"a\" is not a PCI address like 0000:07:00.0");
}

#[test]
fn hostile_xml_ends_in_an_error_and_not_in_the_memory_or_the_stack() {
    // Entities that multiply.
    let mut text = "<!DOCTYPE topology [<!ENTITY a \"aaaaaaaaaa\">".to_owned();
    for (name, of) in ["b", "c", "d", "e", "f", "g", "h"].iter().zip(["a", "b", "c", "d", "e", "f", "g"]) {
        let entity = format!("<!ENTITY {name} \"{}\">", format!("&{of};").repeat(10));
        text.push_str(&entity);
    }
    text += "]><topology version=\"2.0\"><object type=\"&h;\"/></topology>";
    assert!(xml(&text).starts_with("box.xml is not well-formed XML"), "{}", xml(&text));
    // Elements in elements.
    let deep = format!("<topology version=\"2.0\">{}", "<object type=\"Machine\">".repeat(200_000));
    assert!(xml(&deep).ends_with("the XML is cut here"), "{}", xml(&deep));
    let closed = deep + &"</object>".repeat(200_000) + "</topology>";
    assert_eq!(xml(&closed), "box.xml contradicts itself: no NUMA node is described: nodes is empty");
}

#[test]
fn devices_nested_without_end_are_read_in_no_time() {
    let device =
        |at: u32| format!("<object type=\"PCIDev\" pci_busid=\"{at:x}:00:00.0\" pci_type=\"0302 [10de:2342]\">");
    let count = 20_000;
    let objects = (0..count).map(device).collect::<String>() + &"</object>".repeat(count as usize);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("box.xml");
    fs::write(&path, topology(&format!("<object type=\"NUMANode\" os_index=\"0\" cpuset=\"0x3\"/>{objects}"))).unwrap();
    // Quadratic work on this would take minutes.
    let found = discover(&Source::File(path), &Options::default()).unwrap();
    assert_eq!(found.machine.gpus.len(), count as usize);
}
