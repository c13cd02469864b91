//! `oarlock-agent`: the daemon of a host. It offers GPUs and NUMA nodes to kubelet, watches over the GPUs, keeps the machine
//! file for the other parts of Oarlock, and answers over HTTP how all this is.

mod agent;
mod api;
mod args;
mod beside;
mod binder;
mod cgroups;
mod config;
mod desk;
mod device_files;
mod http;
mod machine_file;
mod metrics;
mod nvml;
mod offers;
mod place;
mod placing;
mod plugins;
mod ranks;
mod resource;
mod runtime;
mod status;
mod tell;
mod view;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use args::Args;

/// 0 ended as told; 1 cannot run; 2 the call or the settings are wrong. Each with one line.
fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            drop(error.print());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let text = error.render().to_string();
            let words: Vec<&str> = text.lines().take_while(|line| !line.starts_with("Usage:")).map(str::trim).collect();
            return failed(2, words.join(" ").trim().trim_start_matches("error: "));
        }
    };
    let config = match args.settings() {
        Ok(config) => config,
        Err(error) => return failed(2, &format!("{:#}", anyhow::Error::new(error))),
    };
    if args.print_config {
        return match config.to_yaml() {
            Ok(text) => {
                drop(std::io::stdout().write_all(text.as_bytes()));
                ExitCode::SUCCESS
            }
            Err(error) => failed(1, &format!("failed to print the settings: {error}")),
        };
    }
    listen_to_logs(args.log_level);
    match agent::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(1, &format!("{error:#}")),
    }
}

/// The log goes to standard error. What goes wrong with a request to the API server is said by who sent it, once.
fn listen_to_logs(level: LevelFilter) {
    let of_client = if level >= LevelFilter::DEBUG { level } else { LevelFilter::OFF };
    let targets = Targets::new().with_default(level).with_target("kube_client", of_client);
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false);
    log.finish().with(targets).init();
}

fn failed(status: u8, line: &str) -> ExitCode {
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    drop(writeln!(std::io::stderr(), "oarlock-agent: {line}"));
    ExitCode::from(status)
}
