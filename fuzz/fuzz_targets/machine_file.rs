//! A machine file that is taken is written and read again as the same machine.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use oarlock_discovery::machine_file::{parse, write};

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("machine.json");
    let Ok(found) = parse(bytes, path) else { return };
    let written = write(&found.machine, &found.extra);
    let again = parse(written.as_bytes(), path).expect("what we write, we read");
    assert_eq!(again.machine, found.machine, "{written}");
});
