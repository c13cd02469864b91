//! `cargo xtask bench`: the table of goals and measurements that the README shows.

mod hook;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::build::{self, cargo, target_folder};
use crate::command;
use crate::packages::{self, For};
use crate::progress::Progress;
use crate::workspace;

/// Runs of the whole process: enough for a median that stays.
const RUNS: usize = 201;
const MACHINE_FILE: &str = "tests/fixtures/topologies/dgx-a100-nps4.json";

/// What is promised, and the benchmark (a folder below `target/criterion`) that shows it.
struct Goal {
    what: &'static str,
    promised: &'static str,
    benchmark: &'static str,
}

const GOALS: [Goal; 13] = [
    Goal {
        what: "plan: 8 ranks, 8 nodes, 256 CPUs, `auto`",
        promised: "≤ 20 µs",
        benchmark: "plan/auto/8 ranks, 8 nodes, 256 cpus",
    },
    Goal {
        what: "the same, `exclusive`", promised: "≤ 20 µs", benchmark: "plan/exclusive/8 ranks, 8 nodes, 256 cpus"
    },
    Goal {
        what: "plan: 128 ranks, 32 nodes, 2,048 CPUs, `auto`",
        promised: "linear",
        benchmark: "plan/auto/128 ranks, 32 nodes, 2048 cpus",
    },
    Goal {
        what: "the same, `exclusive`",
        promised: "linear",
        benchmark: "plan/exclusive/128 ranks, 32 nodes, 2048 cpus",
    },
    Goal {
        what: "plan: 256 ranks, 64 nodes, 4,096 CPUs, `auto`",
        promised: "≤ 5 ms",
        benchmark: "plan/auto/256 ranks, 64 nodes, 4096 cpus",
    },
    Goal {
        what: "the same, `exclusive`",
        promised: "≤ 5 ms",
        benchmark: "plan/exclusive/256 ranks, 64 nodes, 4096 cpus",
    },
    Goal {
        what: "GetPreferredAllocation: 8 of 16 GPUs, no two alike (the slowest of all sizes)",
        promised: "≤ 100 µs",
        benchmark: "prefer/mixed links, of 16/8",
    },
    Goal { what: "the same, all joined alike", promised: "≤ 100 µs", benchmark: "prefer/all alike, of 16/8" },
    Goal { what: "the same, 4 of 8", promised: "≤ 100 µs", benchmark: "prefer/mixed links, of 8/4" },
    Goal { what: "a CPU list of 256 CPUs, read", promised: "–", benchmark: "idset/parse 256 cpus" },
    Goal { what: "the same, printed", promised: "–", benchmark: "idset/print 256 cpus" },
    Goal {
        what: "the ledger of 100 containers, read where nothing changed",
        promised: "–",
        benchmark: "ledger/nothing changed",
    },
    Goal { what: "the same, where one entry changed", promised: "–", benchmark: "ledger/one of 100 entries changed" },
];

/// Measures everything, or the hook alone, and prints the table in Markdown.
pub(crate) fn run(hook_alone: bool) -> Result<()> {
    let mut progress = Progress::begin();
    progress.step("packages for building");
    packages::require(&[For::Building, For::Benchmarks])?;
    let machine = machine(Path::new("/"));
    if hook_alone {
        println!("{}", hook_rows(&mut progress, &machine)?.join("\n"));
        return Ok(());
    }
    progress.step("benchmarks: cargo bench");
    let packages = ["--package", "oarlock-core", "--package", "oarlock-kernel", "--package", "oarlock-device-plugin"];
    command::run(cargo().arg("bench").args(packages).args(["--locked", "--bench", "*"]))?;
    progress.step("the agent: cargo bench -p oarlock-agent");
    let agent = agent()?;
    progress.step(format!("the whole process, {RUNS} times"));
    let programs = build::release_programs(&[("oarlock-cli", "oarlock")])?;
    let process = process_median(&programs[0], &workspace().join(MACHINE_FILE))?;

    let mut rows = vec![
        "| what | goal | measured | machine |".to_owned(),
        "|---|---|---|---|".to_owned(),
        row("`oarlock plan`, whole process, on a saved machine file", "≤ 10 ms", process, &machine),
    ];
    rows.extend(agent_rows(&agent, &machine)?);
    rows.extend(hook_rows(&mut progress, &machine)?);
    let criterion = target_folder().join("criterion");
    for goal in &GOALS {
        rows.push(row(goal.what, goal.promised, criterion_median(&criterion, goal.benchmark)?, &machine));
    }
    progress.step("the table");
    println!("\n{}", rows.join("\n"));
    Ok(())
}

fn hook_rows(progress: &mut Progress, machine: &str) -> Result<Vec<String>> {
    progress.step(format!("the hook, {RUNS} times"));
    let rows = hook::rows(&build::hook()?, &workspace().join(MACHINE_FILE))?;
    let row = |[what, promised, measured]: [String; 3]| format!("| {what} | {promised} | {measured} | {machine} |");
    Ok(rows.into_iter().map(row).collect())
}

/// What the agent's benchmark prints: three columns a line.
fn agent() -> Result<String> {
    let mut bench = cargo();
    bench.args(["bench", "--package", "oarlock-agent", "--locked", "--bench", "agent", "--bench", "bind"]);
    let output = bench.stderr(Stdio::inherit()).output().context("cannot run cargo bench")?;
    ensure!(output.status.success(), "the agent's benchmark ended with {}", output.status);
    String::from_utf8(output.stdout).context("the agent's benchmark prints what is no text")
}

fn agent_rows(printed: &str, machine: &str) -> Result<Vec<String>> {
    let row = |line: &str| match line.split('\t').collect::<Vec<_>>()[..] {
        [what, promised, measured] => Ok(format!("| {what} | {promised} | {measured} | {machine} |")),
        _ => bail!("the agent's benchmark printed {line:?}: a line has three columns"),
    };
    printed.lines().filter(|line| !line.trim().is_empty()).map(row).collect()
}

fn row(what: &str, promised: &str, measured: Duration, machine: &str) -> String {
    format!("| {what} | {promised} | {} | {machine} |", three_digits(measured))
}

/// A time to three digits, in the unit that reads best.
fn three_digits(time: Duration) -> String {
    let nanoseconds = time.as_nanos() as f64;
    let (value, unit) = match nanoseconds {
        n if n < 1e3 => (n, "ns"),
        n if n < 1e6 => (n / 1e3, "µs"),
        n if n < 1e9 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

/// What criterion wrote about a benchmark, as far as it is read here.
#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    /// Nanoseconds.
    point_estimate: f64,
}

fn criterion_median(folder: &Path, benchmark: &str) -> Result<Duration> {
    let path = folder.join(benchmark).join("new/estimates.json");
    let text =
        fs::read(&path).with_context(|| format!("cannot read {}: was the benchmark renamed?", path.display()))?;
    let estimates: Estimates = serde_json::from_slice(&text).with_context(|| format!("{} is odd", path.display()))?;
    Ok(Duration::from_nanos(estimates.median.point_estimate as u64))
}

fn process_median(oarlock: &Path, machine: &Path) -> Result<Duration> {
    let mut times = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let mut plan = Command::new(oarlock);
        plan.args(["plan", "--cpu-map", "auto", "--mem-map", "auto", "--format", "json", "--machine"]).arg(machine);
        let began = Instant::now();
        let status = plan.stdout(Stdio::null()).status().context("cannot run oarlock plan")?;
        times.push(began.elapsed());
        ensure!(status.success(), "oarlock plan on {} ended with {status}", machine.display());
    }
    Ok(median(times))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The processor's name and how many of it this process sees.
fn machine(root: &Path) -> String {
    let text = fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| rest.trim_start_matches([' ', '\t', ':']).trim());
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{name}, {cpus} CPUs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_unit_that_reads_well() {
        for (nanoseconds, text) in [
            (7, "7.00 ns"),
            (87, "87.0 ns"),
            (1_234, "1.23 µs"),
            (12_345, "12.3 µs"),
            (9_876_543, "9.88 ms"),
            (123_456_789, "123 ms"),
        ] {
            assert_eq!(three_digits(Duration::from_nanos(nanoseconds)), text);
        }
    }

    #[test]
    fn the_agents_columns_are_rows_and_another_line_is_an_error() {
        let rows = agent_rows("a\t≤ 1 s\t26.0 ms\n\n", "here").unwrap();
        assert_eq!(rows, ["| a | ≤ 1 s | 26.0 ms | here |"]);
        assert!(agent_rows("panicked\n", "here").is_err());
    }

    #[test]
    fn the_median_of_what_was_measured_is_its_middle() {
        let times = [5, 1, 100].map(Duration::from_millis);
        assert_eq!(median(times.to_vec()), Duration::from_millis(5));
    }

    #[test]
    fn criterions_median_is_read_and_a_missing_benchmark_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("plan/auto/new");
        fs::create_dir_all(&new).unwrap();
        fs::write(new.join("estimates.json"), r#"{"mean":{"point_estimate":9e9},"median":{"point_estimate":2.5e6}}"#)
            .unwrap();
        assert_eq!(criterion_median(folder.path(), "plan/auto").unwrap(), Duration::from_micros(2500));
        let error = criterion_median(folder.path(), "plan/numa").unwrap_err().to_string();
        assert!(error.contains("plan/numa/new/estimates.json"), "{error}");
    }
}
