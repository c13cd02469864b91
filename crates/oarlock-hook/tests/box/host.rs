//! A host made of files: two nodes with two GPUs each, this boot's machine file, and an empty ledger.

use std::fs;
use std::path::{Path, PathBuf};

use oarlock_testkit::Call;
use serde_json::{Value, json};

/// What begins every line of the program's.
pub(crate) const NAME: &str = "oarlock-hook";
/// This boot of the host.
const BOOT: &str = "0b007-1d";
/// A container's id, as podman makes them.
pub(crate) const ID: &str = "aaaabbbbccccddddeeeeffff0000111122223333444455556666777788889999";

/// The host.
pub(crate) struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        let host = Self { folder: tempfile::tempdir().unwrap() };
        host.write("proc/sys/kernel/random/boot_id", &format!("{BOOT}\n"));
        host.write("proc/self/uid_map", "         0          0 4294967295\n");
        host.write("sys/fs/cgroup/cgroup.controllers", "cpuset cpu memory\n");
        host.write_machine(BOOT, "0");
        host
    }

    /// A machine file whose second node's CPUs are 4 to 7. CPUs `reserved` are the system's.
    pub(crate) fn write_machine(&self, boot: &str, reserved: &str) {
        let gpu = |index: u32, node: u32| json!({"index": index, "pci": format!("0000:0{}:00.0", index + 1), "numa_node": node, "uuid": format!("GPU-{index}")});
        let machine = json!({
            "name": "m", "boot": boot, "reserved_cpus": reserved,
            "nodes": [{"id": 0, "cpulist": "0-3", "memory_mb": 1024}, {"id": 1, "cpulist": "4-7", "memory_mb": 1024}],
            "cores": ["0", "1", "2", "3", "4", "5", "6", "7"],
            "gpus": [gpu(0, 1), gpu(1, 1), gpu(2, 0), gpu(3, 0)],
        });
        self.write("run/machine.json", &machine.to_string());
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub(crate) fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// The flags that name this host.
    pub(crate) fn flags(&self) -> Vec<String> {
        let text = |path: &str| self.path(path).display().to_string();
        vec!["--run-dir".to_owned(), text("run"), "--host-root".to_owned(), text("")]
    }

    /// Calls the program in a stage.
    pub(crate) fn stage(&self, stage: &str, stdin: impl Into<Vec<u8>>) -> Call {
        program().arg(stage).args(self.flags()).write_stdin(stdin).output().unwrap().into()
    }

    /// What the ledger holds of the container.
    pub(crate) fn entry(&self) -> Option<Value> {
        let text = fs::read(self.path(&format!("run/ledger/{ID}.json"))).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    /// The names of what is in a folder.
    pub(crate) fn names_in(&self, path: &str) -> Vec<String> {
        names_in(&self.path(path))
    }
}

/// The program under test.
pub(crate) fn program() -> assert_cmd::Command {
    let mut program = assert_cmd::Command::new(env!("CARGO_BIN_EXE_oarlock-hook"));
    program.timeout(std::time::Duration::from_secs(60));
    program
}

pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

/// A container with two ranks next to GPUs 0 and 2, with more annotations.
pub(crate) fn config(annotations: &[(&str, &str)]) -> Value {
    let mut all = serde_json::Map::new();
    for (key, value) in [("cpu-map", "auto"), ("mem-map", "auto")].iter().chain(annotations) {
        all.insert(format!("oarlock.dev/{key}"), (*value).into());
    }
    json!({
        "ociVersion": "1.2.0", "x-later": {"kept": [true, 18_446_744_073_709_551_615_u64]},
        "process": {"args": ["true"], "env": ["PATH=/bin", "NVIDIA_VISIBLE_DEVICES=GPU-2,GPU-0"]},
        "annotations": all,
        "linux": {"cgroupsPath": format!("machine.slice:libpod:{ID}"), "namespaces": [{"type": "later"}]},
    })
}

/// The variables of a configuration that Oarlock gives.
pub(crate) fn variable(config: &Value, key: &str) -> Option<String> {
    let env = config["process"]["env"].as_array().unwrap().iter();
    env.filter_map(|entry| entry.as_str()?.strip_prefix(key)?.strip_prefix('=')).next_back().map(str::to_owned)
}
