//! How soon a rank is bound after it was told to execute while the host executes a thousand other programs a second, how much
//! memory one touches until then, which may be on another node first, and what the agent holds and uses with 100 containers
//! of 8 living ranks. Prints a line for each, in three columns: what, goal, measured. Takes root, a cgroup v2 tree and the
//! host's network namespace, as the agent does.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

#[path = "../tests/host/mod.rs"]
mod host;
mod tree;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use host::{Agent, Host};
use oarlock_testkit::runtime::{NriRuntime, RuntimeOptions};
use rustix::time::{ClockId, clock_gettime};
use tree::{Tree, create};

/// What this program is when it is not the benchmark itself.
const ROLE: &str = "OARLOCK_BENCH_ROLE";
/// When the rank was told to execute, in nanoseconds of the monotonic clock.
const SINCE: &str = "OARLOCK_BENCH_SINCE";
/// Ranks that start: enough for a 99th percentile that is more than one odd rank.
const STARTS: usize = 400;
/// One after the other so slowly that the agent takes it for no loop: twice as many as there are ranks, and 8, between two
/// sweeps.
const BETWEEN_STARTS: Duration = Duration::from_millis(100);
/// A rank that is not bound in this time never will be.
const NEVER: Duration = Duration::from_secs(10);
const EXECS_A_SECOND: u32 = 1000;
/// What a rank touches between two looks at its CPUs: 16 pages.
const STRIDE: usize = 64 * 1024;
/// More than a rank can touch until it is bound, as it seems.
const MOST_TOUCHED: usize = 1 << 30;
/// So long the agent is left alone.
const IDLE: Duration = Duration::from_secs(30);

fn main() {
    match env::var(ROLE).as_deref() {
        Ok("launcher of waiting") => launch("waiting"),
        Ok("launcher of touching") => launch("touching"),
        Ok("waiting") => println!("{}", until_bound()),
        Ok("touching") => println!("{}", touched_until_bound()),
        _ => tokio::runtime::Runtime::new().unwrap().block_on(Box::pin(measure())),
    }
}

fn now() -> u128 {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::try_from(now).unwrap().as_nanos()
}

/// Starts a rank of this role after the other, as a launcher that restarts a failing rank does.
fn launch(role: &str) {
    for _ in 0..STARTS {
        let mut rank = Command::new(env::current_exe().unwrap());
        rank.env(ROLE, role).env("LOCAL_RANK", "1").env("LOCAL_WORLD_SIZE", "8").env(SINCE, now().to_string());
        assert!(rank.status().unwrap().success());
        thread::sleep(BETWEEN_STARTS);
    }
}

/// Waits until this process may run on one CPU only. Returns the nanoseconds since it was told to execute.
fn until_bound() -> u128 {
    let since: u128 = env::var(SINCE).unwrap().parse().unwrap();
    loop {
        let cpus = rustix::thread::sched_getaffinity(None).unwrap().count();
        let passed = now() - since;
        if cpus == 1 {
            return passed;
        }
        assert!(passed < NEVER.as_nanos(), "the rank was never bound");
        thread::sleep(Duration::from_micros(50));
    }
}

/// Touches memory as fast as it can until this process may run on one CPU only. Returns how many bytes that were.
fn touched_until_bound() -> usize {
    // Zeroed memory of this size is mapped, and not touched.
    let mut memory = vec![0_u8; MOST_TOUCHED];
    let mut touched = 0;
    for part in memory.chunks_mut(STRIDE) {
        if rustix::thread::sched_getaffinity(None).unwrap().count() == 1 {
            return touched;
        }
        part.fill(1);
        touched += part.len();
    }
    panic!("the rank was never bound, or after {MOST_TOUCHED} bytes");
}

async fn measure() {
    let tree = match Tree::new("bind") {
        Ok(tree) => tree,
        Err(why) => return println!("a rank's exec → bound: p50, p99\t≤ 10 ms\tnot measured: {why}"),
    };
    let host = Host::of_two_cpus();
    tree.lend(&host.path("host"));
    let socket = host.path("nri.sock");
    let runtime = NriRuntime::start(&socket, RuntimeOptions::default());
    let agent = host.start_with(&format!("nri: {{ socket: {} }}\n", socket.display()));
    runtime.until_plugins(1).await;

    Box::pin(create(&runtime, &tree, "starts")).await;
    let how = if tree.has_cpuset() { "in its cgroup" } else { "by affinity" };
    let (rate, [half, most]) = start_ranks(&tree, "launcher of waiting", 1e6);
    println!("a rank's exec → bound {how}, at {rate} execs a second: p50, p99\t≤ 10 ms\t{half:.2}, {most:.2} ms");
    let (rate, [half, most]) = start_ranks(&tree, "launcher of touching", f64::from(1 << 20));
    println!(
        "memory that a rank touches before, where it does nothing else, at {rate} execs a second: p50, p99\t–\t\
         {half:.2}, {most:.2} MiB"
    );
    runtime.remove_pod("sandbox-starts").await.unwrap();

    let mut ranks: Vec<Child> = Vec::new();
    for number in 0..100 {
        let name = format!("stays-{number}");
        Box::pin(create(&runtime, &tree, &name)).await;
        for rank in 0..8 {
            let mut sleep = tree.command(&name, Path::new("/bin/sleep"));
            ranks.push(sleep.arg("1000").env("LOCAL_RANK", rank.to_string()).spawn().unwrap());
        }
    }
    println!("agent, resident with 100 containers of 8 living ranks\t≤ 15 MiB\t{:.1} MiB", resident(&agent));
    let before = used(&agent);
    thread::sleep(IDLE);
    let an_hour = used(&agent).saturating_sub(before).as_secs_f64() * 3600.0 / IDLE.as_secs_f64();
    println!("agent, CPU time with these while nothing happens\t–\t{an_hour:.1} s an hour");
    drop(tree);
    for mut rank in ranks {
        rank.wait().unwrap();
    }
}

/// Starts ranks in a container while the host executes other programs. Returns how many of these a second, and of what the
/// ranks told the half and the 99th percentile, in this unit.
fn start_ranks(tree: &Tree, role: &str, unit: f64) -> (u32, [f64; 2]) {
    let others = Others::start();
    let mut launcher = tree.command("starts", &env::current_exe().unwrap());
    let mut launcher = launcher.env(ROLE, role).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(launcher.stdout.take().unwrap()).lines();
    let mut told: Vec<u64> = lines.map(|line| line.unwrap().parse().unwrap()).collect();
    assert!(launcher.wait().unwrap().success());
    let rate = others.stop();
    told.sort_unstable();
    (rate, [STARTS / 2, STARTS * 99 / 100].map(|at| told[at] as f64 / unit))
}

/// Programs that execute all over the host.
struct Others {
    stop: Arc<AtomicBool>,
    done: thread::JoinHandle<u32>,
}

impl Others {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let done = thread::spawn(move || {
            let (since, mut count) = (Instant::now(), 0);
            while !stopped.load(Ordering::Relaxed) {
                let due = since + Duration::from_secs(1) * count / EXECS_A_SECOND;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                Command::new("/bin/true").status().unwrap();
                count += 1;
            }
            (f64::from(count) / since.elapsed().as_secs_f64()) as u32
        });
        Self { stop, done }
    }

    /// How many a second there were.
    fn stop(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.done.join().unwrap()
    }
}

/// The agent's resident memory in MiB.
fn resident(agent: &Agent) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: f64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    kib / 1024.0
}

/// The CPU time that the agent has used: fields 14 and 15 of `proc_pid_stat(5)`, in ticks.
fn used(agent: &Agent) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.id())).unwrap();
    let (_, after_name) = stat.rsplit_once(") ").unwrap();
    let ticks: u64 = after_name.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
