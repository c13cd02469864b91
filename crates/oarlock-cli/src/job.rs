//! The local ranks of a job on this host: planned here, or as an agent has placed them.

use oarlock_core::launcher;
use oarlock_core::ledger::Ledger;
use oarlock_core::rankenv::RankEnv;
use oarlock_core::request::{GpuChoice, MemPolicy, Request};
use oarlock_core::visible;
use oarlock_kernel::cgroup::{Hierarchy, Limit};
use oarlock_kernel::placement::Placement;
use oarlock_kernel::{Live, Proc};

use crate::failure::Failure;
use crate::source::NvmlFlags;

/// Where the ranks of a job go.
#[derive(Debug)]
pub(crate) struct Job {
    env: RankEnv,
    /// What `OMP_NUM_THREADS` becomes, per rank; empty where somebody else has placed the ranks.
    omp_threads: Vec<Option<u32>>,
    /// What a person should know about the plan.
    pub(crate) warnings: Vec<String>,
}

impl Job {
    /// The placement that the environment states, where it does: then an agent has planned, and knows more.
    pub(crate) fn placed() -> Result<Option<Self>, Failure> {
        let env = RankEnv::read(variable).map_err(|error| Failure::Usage(error.into()))?;
        Ok(env.map(|env| Self { env, omp_threads: Vec::new(), warnings: Vec::new() }))
    }

    /// Plans the job on what this process may use of this host.
    pub(crate) fn planned(mut request: Request, nvml: &NvmlFlags) -> Result<Self, Failure> {
        let found = nvml.read_this_machine()?;
        request.allowed_cpus = found.allowed.cpus;
        request.allowed_mems = found.allowed.mems;
        request.memory_limit = memory_limit();
        if request.gpus == GpuChoice::All {
            request.gpus = visible::gpus(&found.machine, variable);
            one_gpu_each(&mut request);
        }
        let plan = oarlock_core::plan(&found.machine, &Ledger::default(), &request)?;
        Ok(Self {
            env: RankEnv::from(&plan),
            omp_threads: plan.ranks.iter().map(|rank| rank.omp_threads).collect(),
            warnings: plan.warnings.iter().map(ToString::to_string).collect(),
        })
    }

    /// How many ranks the job has.
    pub(crate) fn ranks(&self) -> usize {
        self.env.ranks.len()
    }

    /// What the rank is bound to. The policy `preferred` binds no memory: pages go where they are first touched.
    pub(crate) fn placement(&self, rank: usize) -> Placement {
        let entry = &self.env.ranks[rank];
        let bind = self.env.mem_policy == MemPolicy::Bind;
        Placement { cpus: entry.cpus.clone(), mems: entry.mems.clone().filter(|_| bind) }
    }

    /// The environment of the rank: how all ranks were placed, and `OMP_NUM_THREADS` where it is asked for and not set.
    pub(crate) fn environment(&self, rank: usize) -> Vec<(&'static str, String)> {
        const OMP_NUM_THREADS: &str = "OMP_NUM_THREADS";
        let mut environment = self.env.variables();
        if let Some(Some(threads)) = self.omp_threads.get(rank)
            && std::env::var_os(OMP_NUM_THREADS).is_none()
        {
            environment.push((OMP_NUM_THREADS, threads.to_string()));
        }
        environment
    }

    /// The first rank whose memory is bound: of the ranks of one launcher, the one that speaks for all when that fails.
    pub(crate) fn first_with_memory(&self) -> Option<usize> {
        (0..self.ranks()).find(|&rank| self.placement(rank).mems.is_some())
    }
}

/// A launcher that gives each rank an environment of its own with a single GPU (Ray does) has paired them already: the
/// GPU is this rank's, whichever rank it is.
fn one_gpu_each(request: &mut Request) {
    let listed = visible::VISIBLE_DEVICES.iter().any(|key| variable(key).is_some());
    if let (GpuChoice::Some(gpus), Some(ranks), None) = (&request.gpus, request.ranks, &request.rank_gpus)
        && listed
        && gpus.len() == 1
    {
        request.rank_gpus = Some(vec![vec![0]; ranks as usize]);
    }
}

/// A variable of this process's environment. What is not UTF-8 in it will not have its form either.
pub(crate) fn variable(key: &str) -> Option<String> {
    std::env::var_os(key).map(|value| value.to_string_lossy().into_owned())
}

/// The local rank that a launcher gave to this process.
pub(crate) fn local_rank() -> Result<(&'static str, u32), Failure> {
    launcher::local_rank(variable).map_err(|error| Failure::Usage(error.into()))?.ok_or_else(|| {
        let others = launcher::LOCAL_RANK[1..].join(", ");
        Failure::usage(format!("LOCAL_RANK is not set: the launcher names each rank in it, or in one of {others}"))
    })
}

/// The memory limit of this process's cgroup, the tightest on the way up; `None` where there is none or none is to be
/// seen. It only serves a warning, so that nothing fails here.
fn memory_limit() -> Option<u64> {
    let process = Proc::open("/proc".as_ref()).ok()?.process(std::process::id()).ok()??;
    let Ok(Live::Here(Some(membership))) = process.cgroup() else { return None };
    let hierarchy = Hierarchy::open("/sys/fs/cgroup".as_ref()).ok()??;
    let path = membership.unified?;
    let up = std::path::Path::new(&path).ancestors();
    up.filter_map(|path| hierarchy.cgroup(path.to_str()?).ok()??.memory_max().ok()?)
        .filter_map(|limit| match limit {
            Limit::Max => None,
            Limit::Bytes(bytes) => Some(bytes),
        })
        .min()
}
