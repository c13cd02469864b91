//! The hook as a whole process, beside `/bin/true` and beside what an OCI runtime takes to create a container.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{RUNS, three_digits};
use crate::command;

/// Rows of the table: what, goal, measured.
pub(super) fn rows(hook: &Path, machine: &Path) -> Result<Vec<[String; 3]>> {
    let host = tempfile::tempdir().context("cannot make a folder")?;
    let config = host.path().join("config.json");
    write_host(host.path(), &config)?;
    let idle = measure(|| quiet(Command::new("/bin/true")))?;
    let placed = measure(|| {
        let mut call = Command::new(hook);
        call.arg("precreate").arg("--host-root").arg(host.path()).arg("--run-dir").arg(host.path().join("run"));
        call.arg("--machine").arg(machine);
        // A file that cannot be opened is told by the call itself.
        call.stdin(File::open(&config).map_or_else(|_| Stdio::null(), Stdio::from));
        quiet(call)
    })?;
    let entries = fs::read_dir(host.path().join("run/ledger")).context("the hook has placed nothing")?.count();
    ensure!(entries == 1, "the hook has left {entries} files for one container");
    let size = fs::metadata(hook).with_context(|| format!("cannot read {}", hook.display()))?.len();
    let goal = format!("≤ 5 ms, ≤ 3 × {}", three_digits(idle.0));
    Ok(vec![
        ["`/bin/true`, whole process: p50, p99".to_owned(), "–".to_owned(), both(idle)],
        ["`oarlock-hook`, whole process, 8 ranks on a DGX-size machine: p50, p99".to_owned(), goal, both(placed)],
        crun(&host.path().join("bundle"), hook)?,
        [
            "`oarlock-hook`, the program, static".to_owned(),
            "–".to_owned(),
            format!("{:.1} MiB", size as f64 / f64::from(1 << 20)),
        ],
    ])
}

fn both((median, high): (Duration, Duration)) -> String {
    format!("{}, {}", three_digits(median), three_digits(high))
}

/// A host with cgroup v2 and an empty ledger, and a configuration as long as runtimes write them.
fn write_host(host: &Path, config: &Path) -> Result<()> {
    let write = |path: &str, text: &str| -> std::io::Result<()> {
        let path = host.join(path);
        fs::create_dir_all(path.parent().unwrap_or(host))?;
        fs::write(path, text)
    };
    let mounts: Vec<_> = (0..40)
        .map(|number| {
            json!({"destination": format!("/mnt/{number}"), "type": "bind", "source": format!("/var/lib/kubelet/{number}"),
                "options": ["rbind", "rprivate", "rw"]})
        })
        .collect();
    let services = (0..80).map(|number| format!("SERVICE_{number}_PORT=tcp://10.0.0.{number}:443"));
    let env: Vec<String> = services.chain(["NVIDIA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7".to_owned()]).collect();
    let calls: Vec<String> = (0..400).map(|number| format!("call_{number}")).collect();
    let configuration = json!({
        "ociVersion": "1.2.0", "process": {"args": ["train"], "env": env}, "mounts": mounts,
        "annotations": {"oarlock.dev/cpu-map": "auto", "oarlock.dev/mem-map": "auto"},
        "linux": {
            "cgroupsPath": format!("machine.slice:libpod:{}", "0".repeat(64)),
            "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": calls, "action": "SCMP_ACT_ALLOW"}]},
        },
    });
    write("proc/sys/kernel/random/boot_id", "b007")
        .and_then(|()| write("proc/self/uid_map", "0 0 4294967295"))
        .and_then(|()| write("sys/fs/cgroup/cgroup.controllers", "cpuset"))
        .and_then(|()| fs::write(config, configuration.to_string()))
        .with_context(|| format!("cannot write below {}", host.display()))
}

/// What crun takes to create a container of this program, which is the whole of its root.
fn crun(bundle: &Path, program: &Path) -> Result<[String; 3]> {
    const ID: &str = "oarlock-bench";
    let row = |measured| ["`crun create`, whole process: p50, p99".to_owned(), "–".to_owned(), measured];
    if !rustix::process::geteuid().is_root() {
        return Ok(row("not measured: only root makes containers".to_owned()));
    }
    if Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists() {
        return Ok(row("not measured: crun makes no containers where there is more than one cgroup tree".to_owned()));
    }
    let root = bundle.join("rootfs");
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    fs::copy(program, root.join("program")).with_context(|| format!("cannot copy {}", program.display()))?;
    command::capture(Command::new("crun").arg("spec").current_dir(bundle))?;
    let path = bundle.join("config.json");
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut config: Value = serde_json::from_slice(&text).context("crun's own configuration is no JSON")?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = json!(["/program", "--version"]);
    fs::write(&path, config.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
    let crun = |arguments: &[&str]| {
        let mut call = Command::new("crun");
        // The container keeps what it is given.
        call.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir(bundle);
        call
    };
    let measured = measure(|| {
        let began = Instant::now();
        command::run(&mut crun(&["create", ID]))?;
        let took = began.elapsed();
        command::run(&mut crun(&["delete", "--force", ID]))?;
        Ok(took)
    })?;
    Ok(row(both(measured)))
}

/// What a call takes that says nothing.
fn quiet(mut call: Command) -> Result<Duration> {
    let began = Instant::now();
    let output = call.stdout(Stdio::null()).stderr(Stdio::piped()).output().context("cannot run the hook")?;
    let took = began.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.is_empty(), "{call:?} ended with {}: {said}", output.status);
    Ok(took)
}

/// The median, and what one call of a hundred takes longer than.
fn measure(call: impl Fn() -> Result<Duration>) -> Result<(Duration, Duration)> {
    let mut times = (0..RUNS).map(|_| call()).collect::<Result<Vec<_>>>()?;
    times.sort_unstable();
    Ok((times[times.len() / 2], times[times.len() * 99 / 100]))
}
