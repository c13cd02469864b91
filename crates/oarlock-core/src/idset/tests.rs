use super::*;

fn cpus(text: &str) -> CpuSet {
    text.parse().unwrap()
}

#[test]
fn list_form_round_trips_in_order_and_merged() {
    for (text, printed) in [
        ("", ""),
        ("\n", ""),
        ("0", "0"),
        ("0-2,4,6-7", "0-2,4,6-7"),
        ("7,0,1,6,2,4", "0-2,4,6-7"),
        ("48-63,176-191\n", "48-63,176-191"),
        ("8191", "8191"),
        ("62-65", "62-65"),
        ("0-1,2-3", "0-3"),
    ] {
        assert_eq!(cpus(text).to_string(), printed, "{text:?}");
    }
}

#[test]
fn what_is_no_list_is_refused_with_its_place() {
    for (text, words) in [
        ("0,,1", "empty entry at character 3"),
        (",0", "empty entry at character 1"),
        ("0,", "empty entry at character 3"),
        ("3-1", "\"3-1\" at character 1 is reversed"),
        ("0,x", "\"x\" at character 3 is not a cpu number"),
        ("0-", "\"0-\" at character 1 is not a cpu number"),
        ("-1", "\"-1\" at character 1 is not a cpu number"),
        ("+1", "\"+1\" at character 1 is not a cpu number"),
        ("0-1-2", "\"0-1-2\" at character 1 is not"),
        ("8192", "too large: the kernel's highest is 8191"),
        ("0-99999999999999999999", "too large"),
        ("0-3,2", "\"2\" at character 5 overlaps"),
        (" 1,1", "\"1\" at character 4 overlaps"),
        ("1 ,2", "\"1 \" at character 1 is not"),
    ] {
        let error = text.parse::<CpuSet>().unwrap_err().to_string();
        assert!(error.contains(words), "{text:?}: {error}");
    }
    assert!("1024".parse::<NodeSet>().unwrap_err().to_string().contains("node number in \"1024\""));
}

#[test]
fn an_error_shows_the_beginning_of_a_long_entry() {
    let error = "0-".repeat(1 << 20).parse::<CpuSet>().unwrap_err().to_string();
    assert!(error.len() < 200 && error.contains("0-0-") && error.contains('…'), "a short error");
}

#[test]
fn masks_of_the_kernel_and_of_hwloc_give_the_same_set() {
    assert_eq!(CpuSet::from_mask("ff").unwrap(), cpus("0-7"));
    assert_eq!(CpuSet::from_mask("0000ff00,00000000,00000001\n").unwrap(), cpus("0,72-79"));
    assert_eq!(CpuSet::from_mask("0x000000ff,0xffffffff").unwrap(), cpus("0-39"));
    assert_eq!(CpuSet::from_mask("0xff,,").unwrap(), cpus("64-71"));
    assert_eq!(CpuSet::from_mask("").unwrap(), CpuSet::new());
    for text in ["0xf...f", "xyz", "+f", "1ffffffff", "-1", "0x"] {
        assert!(CpuSet::from_mask(text).is_err(), "{text}");
    }
    let past = format!("1{}", ",0".repeat(256));
    assert!(CpuSet::from_mask(&past).unwrap_err().to_string().contains("below cpu 8192"));
}

#[test]
fn sets_order_by_their_ids() {
    let mut sets = vec![cpus("2"), cpus("0-1"), cpus("0"), cpus("")];
    sets.sort();
    assert_eq!(sets, [cpus(""), cpus("0"), cpus("0-1"), cpus("2")]);
}

#[test]
fn an_id_past_the_limit_is_never_in_a_set() {
    let mut set = NodeSet::new();
    assert!(!set.insert(1024));
    assert!(set.is_empty());
    assert!(set.insert(1023));
    assert_eq!(set.to_string(), "1023");
}
