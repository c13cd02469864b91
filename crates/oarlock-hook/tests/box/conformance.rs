//! In front of a real runtime: what it answers, returns and does is what the real one alone does. Both are called with the same
//! words about the same bundle, one after the other.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use crate::host::Host;

/// What the container does: it says so on its terminal or standard output, and ends as it is told to.
const MAIN: &str = "echo up; trap 'exit 7' TERM; while :; do sleep 0.05; done";

/// A bundle, and a runtime in front of its container or not.
struct Place {
    host: Host,
    real: PathBuf,
    id: String,
    in_front: bool,
    calls: Cell<usize>,
}

/// A call of a runtime, as whoever made it sees it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    what: String,
    status: Option<i32>,
    said: String,
}

/// Runs the same on the real runtime and on ours in front of it, with a bundle that asks for no place and with one that does, and
/// compares what both give; for each real runtime that is here.
fn same<T: PartialEq + std::fmt::Debug>(test: &str, life: impl Fn(&Place) -> T) -> Option<T> {
    let mut last = None;
    for real in ["runc", "crun"] {
        let Some(path) = here(real) else {
            println!(
                "SKIPPED: {test} with {real}: there is none, or this is not root, or the host has both versions of cgroups"
            );
            continue;
        };
        for asks in [false, true] {
            let [alone, fronted] = [false, true].map(|in_front| {
                let id = format!("oarlock-{}-{test}-{real}-{asks}", std::process::id());
                let place = Place { host: Host::new(), real: path.clone(), id, in_front, calls: Cell::new(0) };
                place.write(asks);
                println!("{}", place.id);
                let seen = life(&place);
                assert_eq!(place.is_edited(), asks && in_front, "{real}");
                seen
            });
            assert_eq!(fronted, alone, "{real}, asks for a place: {asks}");
            last = Some(alone);
        }
    }
    last
}

/// The runtime of this name, where it can make containers; crun does not where there is more than one cgroup tree.
fn here(real: &str) -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"].map(Path::new);
    let path = folders.iter().map(|folder| folder.join(real)).find(|path| path.is_file())?;
    let is_hybrid = fs::exists("/sys/fs/cgroup/unified/cgroup.procs").unwrap();
    (rustix::process::geteuid().is_root() && !(is_hybrid && real == "crun")).then_some(path)
}

impl Place {
    /// A bundle whose root is this system's programs, read-only. One that asks gets no cpuset, since this host has what CPUs it
    /// has: its environment and its hooks are ours all the same.
    fn write(&self, asks: bool) {
        let bind =
            |path: &str| json!({"destination": path, "source": path, "type": "none", "options": ["rbind", "ro"]});
        let folders = ["/usr", "/bin", "/lib", "/lib64"].into_iter().filter(|path| fs::exists(path).unwrap());
        let mount = |path: &str, kind: &str| json!({"destination": path, "source": kind, "type": kind});
        let mut mounts = vec![mount("/proc", "proc"), mount("/dev", "tmpfs"), mount("/dev/pts", "devpts")];
        mounts[2]["options"] = json!(["newinstance", "ptmxmode=0666"]);
        mounts.extend(folders.map(bind));
        let namespaces = ["pid", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
        let mut config = json!({
            "ociVersion": "1.0.2", "root": {"path": "rootfs"}, "mounts": mounts, "hostname": "box",
            "process": {"cwd": "/", "env": ["PATH=/usr/bin:/bin"], "args": ["sh", "-c", MAIN], "user": {"uid": 0, "gid": 0}},
            "linux": {"namespaces": namespaces, "cgroupsPath": format!("/{}", self.id)},
        });
        if asks {
            config["annotations"] =
                json!({"oarlock.dev/cpu-map": "none", "oarlock.dev/mem-map": "none", "oarlock.dev/ranks": "2"});
        }
        fs::create_dir_all(self.bundle().join("rootfs")).unwrap();
        self.put(&config);
    }

    fn put(&self, config: &Value) {
        fs::write(self.bundle().join("config.json"), config.to_string()).unwrap();
    }

    fn config(&self) -> Value {
        serde_json::from_slice(&fs::read(self.bundle().join("config.json")).unwrap()).unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut config = self.config();
        change(&mut config);
        self.put(&config);
    }

    fn is_edited(&self) -> bool {
        self.config()["process"]["env"].to_string().contains("OARLOCK_RANKS=2") && self.config().get("hooks").is_some()
    }

    fn bundle(&self) -> PathBuf {
        self.host.path("bundle")
    }

    /// The runtime, which keeps its state in a folder of this test.
    fn runtime(&self, arguments: &[&str]) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        if self.in_front {
            words.extend([env!("CARGO_BIN_EXE_oarlock-hook"), "runtime"].map(OsString::from));
            words.extend(self.host.flags().into_iter().map(OsString::from));
            words.push("--real".into());
        }
        words.push(self.real.clone().into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("--root").arg(self.host.path("state")).args(arguments);
        command.current_dir(self.bundle()).stdin(Stdio::null());
        command
    }

    /// Calls it, and gives what it says, without what differs between any two calls.
    fn call(&self, arguments: &[&str]) -> Seen {
        self.calls.update(|calls| calls + 1);
        let said = format!("said-{}", self.calls.get());
        // A file: a container that goes on living keeps what it is given.
        let file = File::create(self.bundle().join(&said)).unwrap();
        let mut call = self.runtime(arguments);
        let status = call.stdout(file.try_clone().unwrap()).stderr(file).status().unwrap();
        Seen { what: arguments.join(" "), status: status.code(), said: self.text(&said) }.without(&self.host)
    }

    /// A file of the bundle.
    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.bundle().join(name)).unwrap_or_default()
    }

    fn state(&self) -> Value {
        let output = self.runtime(&["state", &self.id]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    #[track_caller]
    fn becomes(&self, status: &str) {
        until(|| self.state()["status"] == status, || self.state().to_string());
    }

    #[track_caller]
    fn is_up(&self, name: &str) {
        until(|| self.text(name).contains("up"), || self.text(name));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.runtime(&["delete", "--force", &self.id]).stdout(Stdio::null()).stderr(Stdio::null()).status());
    }
}

impl Seen {
    /// Times, process ids and the folder of a test are its own.
    fn without(mut self, host: &Host) -> Self {
        for text in [&mut self.said, &mut self.what] {
            *text = text.replace(host.path("").to_str().unwrap(), "HOST/");
        }
        let masked = self.said.lines().map(|line| {
            let is_own = ["\"pid\":", "\"created\":", "time="].iter().any(|word| line.contains(word));
            // The rest of such a line is the same.
            if is_own { line.chars().filter(|c| !c.is_ascii_digit()).collect() } else { line.to_owned() }
        });
        self.said = masked.collect::<Vec<String>>().join("\n");
        self
    }
}

#[track_caller]
fn until(is_so: impl Fn() -> bool, instead: impl Fn() -> String) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "still {}", instead());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_containers_life_by_hand_is_the_same() {
    let seen = same("life", |place| {
        let id = place.id.as_str();
        let bundle = place.bundle().display().to_string();
        let mut seen = Vec::new();
        let log = place.bundle().join("log").display().to_string();
        let mut call = |arguments: &[&str]| seen.push(place.call(arguments));
        call(&["--log", &log, "--log-format", "json", "create", "--bundle", &bundle, "--pid-file", "pid", id]);
        call(&["state", id]);
        call(&["--log", &log, "--log-format", "json", "create", "--bundle", &bundle, id]);
        call(&["start", id]);
        place.is_up("said-1");
        call(&["start", id]);
        call(&["exec", id, "sh", "-c", "echo out; exit 5"]);
        call(&["exec", id, "sh", "-c", "echo err >&2; kill -9 $$"]);
        call(&["exec", id, "no-such-program"]);
        assert_eq!(place.text("pid"), place.state()["pid"].to_string());
        call(&["kill", id, "TERM"]);
        place.becomes("stopped");
        call(&["state", id]);
        call(&["kill", id, "KILL"]);
        call(&["delete", id]);
        call(&["state", id]);
        call(&["delete", id]);
        call(&["create", "--bundle", "/nowhere", id]);
        call(&["create"]);
        call(&["no-such-command"]);
        let log = Seen { what: "log".to_owned(), status: None, said: place.text("log") }.without(&place.host);
        // One runtime names the time as a field of JSON.
        let is_time = |part: &&str| !part.contains("\"time\"");
        let log = log.said.split(',').filter(is_time).map(|part| part.trim_end_matches('}').to_owned());
        (seen, log.collect::<Vec<_>>())
    });
    let Some((seen, log)) = seen else { return };
    let statuses = |what: &str| {
        let calls = seen.iter().filter(|seen| seen.what.starts_with(what));
        calls.map(|seen| seen.status.unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((statuses("start")[0], statuses("delete")[0]), (0, 0), "{seen:?}");
    assert_eq!(statuses("exec")[..2], [5, 128 + 9], "{seen:?}");
    assert_ne!(*statuses("state").last().unwrap(), 0, "{seen:?}");
    assert!(log.iter().any(|part| part.contains("exist")), "{log:?}");
}

#[test]
fn descriptors_and_signals_of_a_container_in_the_foreground_pass_through() {
    let seen = same("run", |place| {
        place.change(|config| config["process"]["args"][2] = format!("cat <&3; {MAIN}").into());
        fs::write(place.bundle().join("third"), "third\n").unwrap();
        let id = place.id.as_str();
        let mut shell = Command::new("sh");
        let call = place.runtime(&["run", "--preserve-fds", "1", id]);
        shell.args(["-c", "exec 3<third; exec \"$@\"", "sh"]).arg(call.get_program()).args(call.get_args());
        let out = File::create(place.bundle().join("out")).unwrap();
        let mut child = shell.current_dir(place.bundle()).stdin(Stdio::null()).stdout(out).spawn().unwrap();
        place.is_up("out");
        place.becomes("running");
        let status = ended_by_term(&mut child);
        (status, place.text("out"), place.call(&["state", id]).status)
    });
    let Some((status, out, state)) = seen else { return };
    assert_eq!((status, out.as_str()), (Some(7), "third\nup\n"));
    assert_ne!(state, Some(0), "it is gone");
}

fn ended_by_term(child: &mut Child) -> Option<i32> {
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    child.wait().unwrap().code()
}

#[test]
fn the_terminal_of_a_container_goes_to_whoever_waits_at_the_console_socket() {
    let seen = same("console", |place| {
        place.change(|config| {
            config["process"]["terminal"] = true.into();
            config["process"]["args"][2] = format!("tty; {MAIN}").into();
        });
        let console = UnixListener::bind(place.bundle().join("console")).unwrap();
        let id = place.id.as_str();
        let waiting = std::thread::spawn(move || terminal(&console));
        let created = place.call(&["create", "--console-socket", "console", id]);
        assert_eq!(created.status, Some(0), "{created:?}");
        let mut terminal = File::from(waiting.join().unwrap());
        let started = place.call(&["start", id]);
        let mut said = String::new();
        while !said.ends_with("up\r\n") {
            let mut bytes = [0; 256];
            let length = terminal.read(&mut bytes).unwrap();
            said.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
        }
        (created, started, said, place.call(&["delete", "--force", id]).status)
    });
    let Some((_, started, said, deleted)) = seen else { return };
    assert_eq!((started.status, said.contains("/dev/"), deleted), (Some(0), true, Some(0)), "{said}");
}

/// The descriptor that comes over a socket.
fn terminal(console: &UnixListener) -> OwnedFd {
    let (stream, _) = console.accept().unwrap();
    let (mut bytes, mut space) = ([0; 4096], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    let message = ancillary.drain().next();
    let Some(RecvAncillaryMessage::ScmRights(mut descriptors)) = message else { panic!("no terminal came") };
    descriptors.next().unwrap()
}
