//! The command line of the agent.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use tracing::level_filters::LevelFilter;

use crate::config::{Config, ConfigError, ContainerCpuset};

/// Offers this host's GPUs and NUMA nodes to kubelet, holds the ranks of annotated pods at theirs, and says how all are.
#[derive(Debug, Parser)]
#[command(name = "oarlock-agent", version, max_term_width = 100)]
pub(crate) struct Args {
    /// The settings, in YAML; what the flags below say comes before what the file says
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the settings in effect, as YAML, and end
    #[arg(long)]
    pub(crate) print_config: bool,
    /// kubelet's folder
    #[arg(long, value_name = "FOLDER")]
    kubelet_root: Option<PathBuf>,
    /// Where the agent keeps what other parts of Oarlock read
    #[arg(long, value_name = "FOLDER")]
    run_dir: Option<PathBuf>,
    /// Where the host's /sys, /proc and /dev are
    #[arg(long, value_name = "FOLDER")]
    host_root: Option<PathBuf>,
    /// Where metrics and health are answered over HTTP
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_address: Option<SocketAddr>,
    /// The NVML library
    #[arg(long, value_name = "FILE", env = "OARLOCK_NVML_LIBRARY")]
    nvml_library: Option<PathBuf>,
    /// The container runtime's NRI socket
    #[arg(long, value_name = "SOCKET")]
    nri_socket: Option<PathBuf>,
    /// The place among the runtime's plugins: two digits
    #[arg(long, value_name = "NN")]
    nri_index: Option<String>,
    /// Be no plugin of the container runtime: annotated pods are not placed
    #[arg(long, conflicts_with_all = ["nri_socket", "nri_index"])]
    no_nri: bool,
    /// Whose the cpuset of an annotated container is
    #[arg(long, value_name = "WHOSE")]
    container_cpuset: Option<ContainerCpuset>,
    /// Tell the Kubernetes API nothing: pods get no events and no annotation
    #[arg(long)]
    no_kubernetes: bool,
    /// This host's name, which events on pods bear
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    host_name: Option<String>,
    /// How much is logged: off, error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) log_level: LevelFilter,
}

impl Args {
    /// The settings in effect: defaults, over them the file, over that the flags that are given.
    pub(crate) fn settings(&self) -> Result<Config, ConfigError> {
        let mut config = self.config.as_deref().map_or_else(|| Ok(Config::default()), Config::read)?;
        let over = |flag: &Option<PathBuf>, value: &mut PathBuf| {
            if let Some(path) = flag {
                value.clone_from(path);
            }
        };
        over(&self.kubelet_root, &mut config.kubelet_root);
        over(&self.run_dir, &mut config.run_dir);
        over(&self.host_root, &mut config.host_root);
        config.metrics_address = self.metrics_address.unwrap_or(config.metrics_address);
        config.nvml_library = self.nvml_library.clone().or(config.nvml_library);
        over(&self.nri_socket, &mut config.nri.socket);
        config.nri.index = self.nri_index.clone().unwrap_or(config.nri.index);
        config.nri.enabled &= !self.no_nri;
        config.container_cpuset = self.container_cpuset.unwrap_or(config.container_cpuset);
        config.kubernetes.enabled &= !self.no_kubernetes;
        config.kubernetes.host_name = self.host_name.clone().or(config.kubernetes.host_name);
        config.check()?;
        Ok(config)
    }
}
