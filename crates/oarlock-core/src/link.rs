//! How two GPUs are joined.

use std::fmt;

/// The path between two GPUs, in NVML's classes, the closest first. It chooses sets of GPUs, never a rank's node: `SYS` is
/// printed between GPUs of one node on some machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Link {
    /// This many NVLinks, directly or through NVSwitches (`NV12`).
    NvLink(u32),
    /// At most one PCIe switch (`PIX`).
    Switch,
    /// Several PCIe switches below one host bridge (`PXB`).
    Switches,
    /// A PCIe host bridge (`PHB`).
    HostBridge,
    /// Host bridges of one NUMA node (`NODE`).
    Node,
    /// The interconnect between NUMA nodes (`SYS`, in old printouts `SOC`).
    System,
    /// Nothing is known, or in a word that means nothing here.
    Unknown,
}

impl Link {
    /// Reads the word that topology printouts use; any other is [`Link::Unknown`].
    pub fn from_word(word: &str) -> Self {
        match word.trim() {
            "PIX" => Self::Switch,
            "PXB" => Self::Switches,
            "PHB" => Self::HostBridge,
            "NODE" => Self::Node,
            "SYS" | "SOC" => Self::System,
            word => match word.strip_prefix("NV").and_then(|count| count.parse().ok()) {
                Some(count) if count > 0 => Self::NvLink(count),
                _ => Self::Unknown,
            },
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NvLink(count) => write!(f, "NV{count}"),
            Self::Switch => f.write_str("PIX"),
            Self::Switches => f.write_str("PXB"),
            Self::HostBridge => f.write_str("PHB"),
            Self::Node => f.write_str("NODE"),
            Self::System => f.write_str("SYS"),
            Self::Unknown => f.write_str("?"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_printouts_read_back_and_unknown_ones_are_unknown() {
        for word in ["NV12", "NV18", "PIX", "PXB", "PHB", "NODE", "SYS"] {
            assert_eq!(Link::from_word(word).to_string(), word);
        }
        assert_eq!(Link::from_word("SOC"), Link::System);
        for word in ["", "X", "INTE", "IX#", "NV", "NV0", "NV-1", "NV99999999999"] {
            assert_eq!(Link::from_word(word), Link::Unknown, "{word}");
        }
        assert!(Link::Switch < Link::Switches && Link::Node < Link::System);
    }
}
