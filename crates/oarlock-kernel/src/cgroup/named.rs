//! Cgroups as container runtimes name them.

/// The path below the tree's root of a cgroup that a runtime names: a path, or with systemd's driver a slice, or
/// `slice:prefix:name` for a scope (`runc`'s form, which every runtime took over).
pub fn path_named(name: &str) -> String {
    if let Some((slice, scope)) = name.split_once(':')
        && let Some((prefix, name)) = scope.split_once(':')
    {
        let scope = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
        return format!("{}/{scope}", slice_path(slice.strip_suffix(".slice").unwrap_or(slice)));
    }
    if let Some(slice) = name.strip_suffix(".slice").filter(|slice| !slice.contains('/')) {
        return slice_path(slice);
    }
    format!("/{}", name.trim_matches('/'))
}

/// Slice `a-b` is below slice `a` (`systemd.slice(5)`).
fn slice_path(name: &str) -> String {
    if name.is_empty() || name == "-" {
        return String::new();
    }
    let ends = name.match_indices('-').map(|(end, _)| end).chain([name.len()]);
    ends.flat_map(|end| ["/", &name[..end], ".slice"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_either_cgroup_driver_are_paths_in_the_tree() {
        for (name, expected) in [
            ("/kubepods/burstable/pod1/abc", "/kubepods/burstable/pod1/abc"),
            ("kubepods/pod1", "/kubepods/pod1"),
            (
                "kubepods-burstable-pod1_2.slice:cri-containerd:abc",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-abc.scope",
            ),
            ("system.slice::abc", "/system.slice/abc.scope"),
            ("-.slice:crio:abc", "/crio-abc.scope"),
            ("kubepods-pod1.slice", "/kubepods.slice/kubepods-pod1.slice"),
            ("", "/"),
        ] {
            assert_eq!(path_named(name), expected, "{name:?}");
        }
    }
}
