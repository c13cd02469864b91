//! A stand-in for `libnvidia-ml.so.1`: the part of NVML's C interface that Oarlock calls, answered from a machine file, so
//! that the real wrapper runs on a laptop. For development and tests only.
//!
//! `$OARLOCK_NVML_MACHINE` names the machine file, read at each initialisation; without it the driver is not loaded, and
//! when it goes away the driver does, for all who use the library then. Beside the form's own fields a GPU may have `mig`: the profiles of its MIG devices (`["3g.40gb", null, "1g.10gb"]`; null is a
//! gap in their numbers), MIG being enabled where the field is there. `$OARLOCK_NVML_CONTROL` names the control file, read
//! again at each call; its orders are in the module `control`. The number of a GPU is its place in the machine file's list, by index.
//!
//! Every function that Oarlock does not call is absent, as in a library of another version.

mod control;
mod ffi;
mod hardware;
mod library;
mod ports;

use std::env;
use std::fs;
use std::path::PathBuf;

use hardware::Hardware;

/// The machine of the environment, if there is one that can be read; the reason goes to standard error.
fn machine() -> Option<Hardware> {
    let path = PathBuf::from(env::var_os("OARLOCK_NVML_MACHINE")?);
    let complain = |reason: &dyn std::fmt::Display| eprintln!("oarlock-nvml-stub: {}: {reason}", path.display());
    let bytes = fs::read(&path).map_err(|error| complain(&error)).ok()?;
    Hardware::parse(&bytes, &path).map_err(|error| complain(&error)).ok()
}

/// Whether there is a machine file now.
fn machine_is_there() -> bool {
    env::var_os("OARLOCK_NVML_MACHINE").is_some_and(|path| fs::metadata(path).is_ok())
}

/// What the control file holds now; nothing where there is none.
fn control_text() -> String {
    let read = env::var_os("OARLOCK_NVML_CONTROL").and_then(|path| fs::read(path).ok());
    String::from_utf8_lossy(&read.unwrap_or_default()).into_owned()
}
