//! A list of ids that parses is printed in the kernel's form, and that form parses to the same set.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oarlock_core::{CpuSet, NodeSet};

fuzz_target!(|text: &str| {
    if let Ok(set) = text.parse::<CpuSet>() {
        let printed = set.to_string();
        assert_eq!(printed.parse().as_ref(), Ok(&set));
        assert_eq!(set.iter().count(), set.len());
        assert_eq!(set.iter().collect::<CpuSet>(), set);
    }
    if let Ok(set) = text.parse::<NodeSet>() {
        assert_eq!(set.to_string().parse().as_ref(), Ok(&set));
    }
    if let Ok(set) = CpuSet::from_mask(text) {
        assert_eq!(set.to_string().parse().as_ref(), Ok(&set));
    }
});
