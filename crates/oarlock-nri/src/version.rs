//! Which version of NRI a runtime has: it says so itself since 0.12.0; before, it follows from the runtime's own version.

use std::fmt;

/// A version of NRI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NriVersion {
    major: u32,
    minor: u32,
    patch: u32,
}

impl NriVersion {
    /// The version that this library speaks.
    pub const OWN: Self = Self::new(0, 12, 2);

    /// A version by its three numbers.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Reads `v1.2.3`, `1.2.3~ds1`, `1.2`; what follows the numbers is of no account.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let mut numbers = text[..end].split('.').map(str::parse);
        let version =
            Self::new(numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next().and_then(Result::ok).unwrap_or(0));
        Some(version)
    }

    /// The version of a runtime: what it told, unless that is nothing or a placeholder; else what its own name and version
    /// say; else `None`.
    pub fn of_runtime(told: &str, runtime: &str, runtime_version: &str) -> Option<Self> {
        let told = Self::parse(told).filter(|version| *version > Self::new(0, 0, 0));
        told.or_else(|| {
            let releases = RELEASES.iter().find(|(name, _)| *name == runtime)?.1;
            let own = Self::parse(runtime_version)?;
            let with = |numbers: [u32; 3]| Self::new(numbers[0], numbers[1], numbers[2]);
            releases.iter().rev().find(|(since, _)| with(*since) <= own).map(|(_, nri)| with(*nri))
        })
    }
}

impl fmt::Display for NriVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "v{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Per runtime, its release and the version of NRI since then, from the module files of each release.
type Releases = &'static [([u32; 3], [u32; 3])];

const RELEASES: [(&str, Releases); 2] = [
    (
        "containerd",
        &[
            ([1, 7, 0], [0, 3, 0]),
            ([1, 7, 7], [0, 4, 0]),
            ([1, 7, 14], [0, 6, 0]),
            ([1, 7, 16], [0, 6, 1]),
            ([1, 7, 26], [0, 8, 0]),
            ([2, 2, 0], [0, 10, 0]),
            ([2, 2, 1], [0, 11, 0]),
            ([2, 3, 0], [0, 12, 0]),
        ],
    ),
    (
        "cri-o",
        &[
            ([1, 26, 0], [0, 2, 0]),
            ([1, 26, 2], [0, 3, 0]),
            ([1, 29, 0], [0, 5, 0]),
            ([1, 29, 2], [0, 6, 0]),
            ([1, 31, 0], [0, 6, 1]),
            ([1, 32, 0], [0, 9, 0]),
            ([1, 33, 0], [0, 9, 1]),
            ([1, 34, 0], [0, 10, 0]),
            ([1, 35, 0], [0, 11, 0]),
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_runtime_tells_counts() {
        assert_eq!(NriVersion::of_runtime("v0.12.1", "containerd", "v1.7.0"), Some(NriVersion::new(0, 12, 1)));
        assert_eq!(NriVersion::of_runtime("0.13.0-rc.1+x", "other", ""), Some(NriVersion::new(0, 13, 0)));
    }

    #[test]
    fn where_it_tells_nothing_its_own_version_counts() {
        for (told, runtime, version, nri) in [
            ("", "containerd", "1.7.24~ds1", Some([0, 6, 1])),
            ("", "containerd", "v1.7.26", Some([0, 8, 0])),
            ("", "containerd", "2.1.4~ds2", Some([0, 8, 0])),
            ("(devel)", "containerd", "v2.2.0-225-ge9dc15b7a.m", Some([0, 10, 0])),
            ("0.0.0-unknown", "containerd", "v2.9.1", Some([0, 12, 0])),
            ("unknown", "cri-o", "1.33.5", Some([0, 9, 1])),
            ("", "cri-o", "1.36.0", Some([0, 11, 0])),
            ("", "cri-o", "1.25.9", None),
            ("", "containerd", "1.6.20", None),
            ("", "containerd", "main", None),
            ("", "containerd", "", None),
            ("", "other", "v2.2.0", None),
        ] {
            let expected = nri.map(|[major, minor, patch]| NriVersion::new(major, minor, patch));
            assert_eq!(NriVersion::of_runtime(told, runtime, version), expected, "{told:?} {runtime} {version}");
        }
    }
}
