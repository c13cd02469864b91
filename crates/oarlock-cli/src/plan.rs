//! `oarlock plan`: where each rank would go, before anything runs.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use oarlock_core::explain::Warning;
use oarlock_core::ledger::Ledger;
use oarlock_core::{Plan, Refusal, Request, plan};
use oarlock_discovery::Found;
use serde::Serialize;

use crate::failure::Failure;
use crate::flags::MapFlags;
use crate::output::{Format, print, style};
use crate::render;
use crate::source::{AllowedFlags, SourceFlags};
use crate::workload::{self, LeftAlone, Template, Workload};

/// Plans the ranks of one container, or of every pod template in a file
#[derive(Debug, Args)]
pub(crate) struct PlanCommand {
    #[command(flatten)]
    source: SourceFlags,
    #[command(flatten)]
    maps: MapFlags,
    /// The number of local ranks [default: the number of GPUs, else 1]
    #[arg(long, value_name = "N")]
    ranks: Option<String>,
    #[command(flatten)]
    allowed: AllowedFlags,
    /// CPUs kept for the system, in the kernel's list form
    #[arg(long, value_name = "LIST")]
    reserved_cpus: Option<String>,
    /// A file of Kubernetes objects: Pod, Job, `JobSet`, `StatefulSet`, Deployment, `PyTorchJob`, `TrainJob`; - for standard
    /// input
    #[arg(
        short, long, value_name = "FILE",
        conflicts_with_all = ["cpu_map", "mem_map", "mem_policy", "ranks", "rank_gpus", "smt", "omp_threads", "on_failure"]
    )]
    file: Option<PathBuf>,
    /// text, json or svg
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub(crate) format: Format,
}

impl PlanCommand {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        // What was typed is checked before anything is read.
        let mut request = self.maps.request()?;
        if let Some(ranks) = &self.ranks {
            request.set("ranks", ranks)?;
        }
        let gpus = request.gpus.clone();
        let workload = self.file.as_ref().map(read_workload).transpose()?;
        let found = self.source.read()?;
        let (cpus, mems) = self.allowed.resolve(&found)?;
        let reserved = self.reserved_cpus.as_deref().map(|list| crate::flags::parse_cpus("--reserved-cpus", list));
        let reserved = reserved.transpose()?.unwrap_or_default();
        let plan_one = |request: Request| {
            let request = Request {
                allowed_cpus: cpus.clone(),
                allowed_mems: mems.clone(),
                reserved_cpus: reserved.clone(),
                ..request
            };
            plan_on(&found, &request)
        };
        let text = match workload {
            None => one(&found, &plan_one(request)?, self.format)?,
            Some(mut workload) => {
                // Which GPUs kubelet gives is not in the file; who knows it may say so.
                for template in workload.templates.iter_mut().filter(|_| self.maps.gpus.is_some()) {
                    template.request.gpus = gpus.clone();
                }
                many(&found, workload, plan_one, self.format)?
            }
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The plan on a machine as found, with what its source made doubtful among the warnings.
pub(crate) fn plan_on(found: &Found, request: &Request) -> Result<Plan, Refusal> {
    let mut answer = plan(&found.machine, &Ledger::default(), request)?;
    answer.warnings.extend(found.warnings.iter().cloned().map(Warning::Source));
    Ok(answer)
}

fn read_workload(path: &PathBuf) -> Result<Workload, Failure> {
    if path.as_os_str() == "-" {
        return Ok(workload::read("standard input", std::io::stdin().lock())?);
    }
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| format!("opening {name}"))?;
    Ok(workload::read(&name, file)?)
}

fn one(found: &Found, plan: &Plan, format: Format) -> Result<String, Failure> {
    Ok(match format {
        Format::Text => render::text::plan(&found.machine, plan, style()),
        Format::Svg => render::svg::plan(&found.machine, plan),
        Format::Json => serde_json::to_string(plan).context("writing the plan as JSON")?,
    })
}

/// What `plan -f` prints as JSON.
#[derive(Serialize)]
struct FilePlans<'a> {
    plans: Vec<TemplatePlan<'a>>,
    left_alone: &'a [LeftAlone],
}

#[derive(Serialize)]
struct TemplatePlan<'a> {
    source: &'a str,
    place: &'a str,
    replicas: Option<u32>,
    container: &'a str,
    notes: &'a [String],
    plan: &'a Plan,
}

/// Plans every template. A refusal of one is the answer to the file: it would be refused when submitted.
fn many(
    found: &Found,
    workload: Workload,
    plan_one: impl Fn(Request) -> Result<Plan, Refusal>,
    format: Format,
) -> Result<String, Failure> {
    let plans: Vec<(Template, Plan)> = workload
        .templates
        .into_iter()
        .map(|template| match plan_one(template.request.clone()) {
            Ok(plan) => Ok((template, plan)),
            Err(refusal) => {
                let message = format!("{}, container {}: {}", template.place, template.container, refusal.message);
                Err(Failure::Refused(Refusal { message, ..refusal }))
            }
        })
        .collect::<Result<_, _>>()?;
    match format {
        Format::Json => {
            let plans = plans.iter().map(|(template, plan)| TemplatePlan {
                source: &template.source,
                place: &template.place,
                replicas: template.replicas,
                container: &template.container,
                notes: &template.notes,
                plan,
            });
            let object = FilePlans { plans: plans.collect(), left_alone: &workload.left_alone };
            Ok(serde_json::to_string(&object).context("writing the plans as JSON")?)
        }
        Format::Svg if plans.is_empty() => {
            Err(Failure::Failed(anyhow::anyhow!("nothing to draw: nothing in the file asks for a plan")))
        }
        Format::Svg => {
            let plans: Vec<_> = plans.iter().map(|(template, plan)| (whose(template), plan)).collect();
            Ok(render::svg::plans(&found.machine, &plans))
        }
        Format::Text => {
            let mut parts = Vec::new();
            for (template, plan) in &plans {
                let notes: Vec<String> = template.notes.iter().map(|note| format!("note: {note}\n")).collect();
                let plan = render::text::plan(&found.machine, plan, style());
                parts.push(format!("{}\n{}{plan}", whose(template), notes.concat()));
            }
            parts.extend(
                workload.left_alone.iter().map(|left| format!("{} is left alone: {}\n", left.source, left.why)),
            );
            Ok(parts.join("\n"))
        }
    }
}

/// `PyTorchJob train/Worker × 3, container pytorch`.
fn whose(template: &Template) -> String {
    let replicas = template.replicas.map_or(String::new(), |count| format!(" × {count}"));
    format!("{}{replicas}, container {}", template.source, template.container)
}
