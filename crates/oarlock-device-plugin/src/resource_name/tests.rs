use std::path::Path;

use super::*;

fn refusal(text: &str) -> String {
    text.parse::<ResourceName>().unwrap_err().to_string()
}

#[test]
fn names_of_extended_resources_are_taken_as_they_are() {
    let longest = format!("{}.{}/{}", "a".repeat(122), "b".repeat(121), "n".repeat(63));
    for name in ["oarlock.dev/gpu", "nvidia.com/mig-1g.10gb", "a/B_c.D", "x.kubernetes.io.example/y", &longest] {
        assert_eq!(name.parse::<ResourceName>().unwrap().as_str(), name);
    }
}

#[test]
fn each_rule_that_kubernetes_has_is_named_by_the_name_that_breaks_it() {
    for (name, rule) in [
        ("gpu", "it has the form domain/name"),
        ("a/b/c", "it has one slash"),
        ("/gpu", "the domain before the slash is not empty"),
        ("oarlock.dev/", "the name after the slash is not empty"),
        ("requests.oarlock.dev/gpu", "it does not begin with \"requests.\""),
        ("kubernetes.io/gpu", "the domain is not kubernetes.io, nor ends so"),
        ("node.kubernetes.io/gpu", "the domain is not kubernetes.io, nor ends so"),
        (&format!("{}.b/gpu", "a".repeat(243)), "the domain has at most 244 characters"),
        ("Oarlock.dev/gpu", "the domain is lower-case letters"),
        ("oarlock..dev/gpu", "the domain is lower-case letters"),
        ("-oarlock.dev/gpu", "the domain is lower-case letters"),
        ("oarlock_x.dev/gpu", "the domain is lower-case letters"),
        (&format!("oarlock.dev/{}", "n".repeat(64)), "the name after the slash has at most 63 characters"),
        ("oarlock.dev/gpu_", "the name after the slash is letters"),
        ("oarlock.dev/g pu", "the name after the slash is letters"),
        ("oarlock.dev/gpü", "the name after the slash is letters"),
    ] {
        let refusal = refusal(name);
        assert!(refusal.starts_with(&format!("\"{name}\" is no resource name: {rule}")), "{refusal}");
    }
}

#[test]
fn a_refusal_is_one_readable_line_whatever_was_given() {
    let refusal = refusal(&"a\n".repeat(1000));
    assert!(!refusal.contains('\n') && refusal.len() < 1100, "{refusal}");
}

#[test]
fn distinct_resources_have_distinct_sockets() {
    let endpoint = |name: &str| name.parse::<ResourceName>().unwrap().endpoint();
    assert_eq!(endpoint("oarlock.dev/numa-node"), "oarlock.dev_numa-node.sock");
    assert_ne!(endpoint("a/b_c"), endpoint("a.b/c"));
}

#[test]
fn a_socket_path_of_the_kernels_length_is_taken_and_one_more_is_refused() {
    let name: ResourceName = "a/b".parse().unwrap();
    let folder = |bytes: usize| format!("/{}", "f".repeat(bytes - "//a_b.sock".len()));
    let path = name.socket_in(Path::new(&folder(107))).unwrap();
    assert_eq!(path.as_os_str().len(), 107);
    std::os::unix::net::SocketAddr::from_pathname(&path).unwrap();
    let refused = name.socket_in(Path::new(&folder(108))).unwrap_err();
    std::os::unix::net::SocketAddr::from_pathname(&refused.0).unwrap_err();
    assert!(refused.to_string().ends_with("a_b.sock has 108 bytes: the kernel allows 107"), "{refused}");
}
