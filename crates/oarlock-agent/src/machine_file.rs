//! The machine file of this host, for the parts of Oarlock that must not take the time to look for themselves: what is
//! there, the boot that it is so in (`boot`), and which CPUs the system keeps (`reserved_cpus`).

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use oarlock_core::CpuSet;
use oarlock_discovery::{Found, machine_file};
use tempfile::NamedTempFile;

/// Its name in the agent's folder.
const NAME: &str = "machine.json";

/// Writes the machine into `folder`: whoever reads sees the old file or the new one, and no part of one.
pub(crate) fn write(folder: &Path, found: &Found, boot: &str, reserved: &CpuSet) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut extra = found.extra.clone();
    extra.insert("boot".to_owned(), boot.into());
    extra.insert("reserved_cpus".to_owned(), reserved.to_string().into());
    let mut file = NamedTempFile::with_prefix_in(".machine", folder)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    file.write_all(machine_file::write(&found.machine, &extra).as_bytes())?;
    file.persist(folder.join(NAME))?;
    Ok(())
}
