//! What the tests of commands on the live host share.

#![allow(dead_code, reason = "each test file uses its part")]
#![expect(clippy::unwrap_used, reason = "part of tests, where clippy does not see that")]

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use oarlock_core::CpuSet;
use oarlock_kernel::affinity;

use crate::call::Call;

/// No step of a test takes longer, unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The variables that launchers and agents set: no test inherits any.
const LAUNCHER: [&str; 16] = [
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "SLURM_LOCALID",
    "SLURM_NTASKS_PER_NODE",
    "MPI_LOCALRANKID",
    "MPI_LOCALNRANKS",
    "OARLOCK_RANKS",
    "OARLOCK_MEM_POLICY",
    "OARLOCK_RANK_CPUS",
    "OARLOCK_RANK_MEMS",
    "OARLOCK_RANK_GPUS",
    "OARLOCK_RANK_GPU_MEMS",
    "MASTER_PORT",
    "OMP_NUM_THREADS",
];

/// The command, with these arguments and an environment free of launchers. Signals are not ignored in it, whoever runs the
/// tests: under nohup, or in the background of a shell, some would be, and then stay so.
pub(crate) fn oarlock<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal", env!("CARGO_BIN_EXE_oarlock")]);
    for key in LAUNCHER {
        command.env_remove(key);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs the command with these arguments to its end.
pub(crate) fn run<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Call {
    oarlock(arguments).output().unwrap().into()
}

/// A program that touches memory and stays.
pub(crate) static TOUCH_MEMORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let build = escargot::CargoBuild::new().package("oarlock-testkit").bin("touch-memory").current_release().run();
    build.expect("touch-memory builds").path().to_owned()
});

/// A command that runs beside the test, killed when the test is over.
pub(crate) struct Running {
    pub(crate) child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its standard output, without its end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for its end; the rest of its output is in the answer.
    pub(crate) fn end(mut self) -> Call {
        use std::io::Read as _;
        let mut said = Call { status: 0, stdout: String::new(), stderr: String::new() };
        self.out.read_to_string(&mut said.stdout).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut said.stderr).unwrap();
        said.status = self.child.wait().unwrap().code().unwrap();
        said
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args(["-s", name, "--", &pid.to_string()]).status().unwrap().success());
}

/// Waits until `happened` says so.
pub(crate) fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether the process is there and no zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    stat.contains("State:") && !stat.contains("State:\tZ")
}

/// The first and the last CPU that the test may use; the same one twice on a machine that has only one for it.
pub(crate) fn two_cpus() -> (u32, u32) {
    let cpus: CpuSet = affinity::of_thread(0).unwrap().here().unwrap();
    (cpus.first().unwrap(), cpus.iter().last().unwrap())
}

/// Runs the command as in a container without `CAP_SYS_NICE`: the runtimes' default seccomp profile denies the memory
/// policy calls. Children inherit the filter of the thread that starts them.
pub(crate) fn without_memory_policy(command: &mut Command) -> Call {
    use seccompiler::{SeccompAction, SeccompFilter};
    let output = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let calls = [libc::SYS_set_mempolicy, libc::SYS_get_mempolicy, libc::SYS_mbind];
            let filter = SeccompFilter::new(
                calls.map(|call| (call, Vec::new())).into(),
                SeccompAction::Allow,
                SeccompAction::Errno(libc::EPERM as u32),
                std::env::consts::ARCH.try_into().unwrap(),
            );
            let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
            seccompiler::apply_filter(&program).unwrap();
            command.output().unwrap()
        });
        thread.join().unwrap()
    });
    output.into()
}

/// The address of a PCI device of this host, to stand for a GPU.
pub(crate) fn a_pci_device() -> Option<String> {
    let mut names: Vec<_> =
        std::fs::read_dir("/sys/bus/pci/devices").ok()?.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    names.pop()?.into_string().ok()
}
