//! The stand-in for NVML: where it is, and tests in a process of their own that it answers.

use std::env;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use escargot::CargoBuild;
use escargot::format::Message;

/// The variables that the stand-in reads.
pub const MACHINE: &str = "OARLOCK_NVML_MACHINE";
/// See [`MACHINE`].
pub const CONTROL: &str = "OARLOCK_NVML_CONTROL";

/// Tells a test in its own process where the stand-in is.
const BUILT: &str = "OARLOCK_TESTKIT_NVML_STUB";

/// The stand-in library, built on the first call.
///
/// # Panics
/// Where it does not build.
pub fn library() -> &'static Path {
    static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
        if let Some(built) = env::var_os(BUILT) {
            return built.into();
        }
        let build = CargoBuild::new().package("oarlock-nvml-stub").current_release().exec();
        let messages = build.expect("the stand-in for NVML builds");
        for message in messages {
            let message = message.expect("a message of cargo");
            if let Ok(Message::CompilerArtifact(artifact)) = message.decode()
                && artifact.target.name == "oarlock_nvml_stub"
                && artifact.target.crate_types.iter().any(|kind| kind == "cdylib")
                && let Some(file) = artifact.filenames.first()
            {
                return file.to_path_buf();
            }
        }
        panic!("cargo names no library of oarlock-nvml-stub")
    });
    &LIBRARY
}

/// The machine and the control file of a stand-in, in a folder that is the caller's.
#[derive(Debug, Clone)]
pub struct Stub {
    /// What `$OARLOCK_NVML_MACHINE` names.
    pub machine: PathBuf,
    /// What `$OARLOCK_NVML_CONTROL` names.
    pub control: PathBuf,
}

impl Stub {
    /// Writes this machine file and an empty control file into `folder`.
    ///
    /// # Panics
    /// Where they cannot be written.
    pub fn new(folder: &Path, machine: &str) -> Self {
        let stub = Self { machine: folder.join("machine.json"), control: folder.join("control") };
        fs::write(&stub.machine, machine).expect("the machine file is written");
        fs::write(&stub.control, "").expect("the control file is written");
        stub
    }

    /// The environment of a process that the stand-in answers.
    pub fn env(&self) -> [(&'static str, OsString); 2] {
        [(MACHINE, self.machine.clone().into()), (CONTROL, self.control.clone().into())]
    }

    /// Adds a line to the control file (`lost 3`).
    ///
    /// # Panics
    /// Where it cannot be written.
    pub fn order(&self, line: &str) {
        let file = OpenOptions::new().append(true).open(&self.control);
        file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())).expect("the control file is written");
    }

    /// Runs the body of a test in a process of its own: the stand-in reads its machine from the environment, and keeps its
    /// state as long as the process. `test` is the test's full name.
    ///
    /// # Panics
    /// Where the test fails in its process.
    pub fn in_own_process(test: &str, folder: &Path, machine: &str, body: impl FnOnce(&Self)) {
        if let (Some(machine), Some(control)) = (env::var_os(MACHINE), env::var_os(CONTROL)) {
            return body(&Self { machine: machine.into(), control: control.into() });
        }
        let stub = Self::new(folder, machine);
        let own = env::current_exe().expect("the test's own path");
        let run =
            Command::new(own).args(["--exact", test, "--nocapture"]).env(BUILT, library()).envs(stub.env()).output();
        let output = run.expect("the test starts again");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{test} failed in its own process:\n{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
