//! The host's own look at what a guest sent: plans against the declaration, and the captured machine against the plan.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use oarlock_core::idset::{CpuSet, NodeSet};
use serde::Deserialize;

use super::report::Report;
use super::shape::Shape;
use crate::command::capture;

/// The part of a plan in JSON that is judged.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct PlanJson {
    container: ContainerJson,
    ranks: Vec<RankJson>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct ContainerJson {
    cpus: CpuSet,
    mems: NodeSet,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct RankJson {
    #[serde(rename = "rank")]
    number: u32,
    cpus: Option<CpuSet>,
    cpu_nodes: NodeSet,
    mems: Option<NodeSet>,
    reason: String,
}

/// What is wrong with the files of this report. `folder` is where they lie on the host.
pub(crate) fn complaints(shape: &Shape, report: &Report, oarlock: &Path, folder: &Path) -> Result<Vec<String>> {
    let Some(plan) = report.files.get("plan.json") else { return Ok(Vec::new()) };
    let plan = PlanJson::read(plan).context("plan.json is no plan")?;
    let mut complaints = against_declaration(shape, &plan);
    if report.files.contains_key("machine.json") {
        let again = plan_again(shape, oarlock, &folder.join("machine.json"))?;
        if again != plan {
            complaints
                .push(format!("the captured machine plans otherwise than the machine did: {again:?}, not {plan:?}"));
        }
    }
    Ok(complaints)
}

/// Writes what a guest sent into a folder.
pub(crate) fn keep_files(report: &Report, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, content) in &report.files {
        let path = folder.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

impl PlanJson {
    fn read(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }
}

fn against_declaration(shape: &Shape, plan: &PlanJson) -> Vec<String> {
    let expected = shape.ranks_on();
    if plan.ranks.len() != expected.len() {
        return vec![format!("the plan has {} ranks, and the shape {}", plan.ranks.len(), expected.len())];
    }
    let mut complaints = Vec::new();
    for (number, (rank, node)) in (0..).zip(plan.ranks.iter().zip(expected)) {
        let nodes = NodeSet::of(node as u32);
        let cpus = &shape.nodes[node as usize].cpus;
        let as_declared = rank.number == number
            && rank.cpu_nodes == nodes
            && rank.cpus.as_ref() == Some(cpus)
            && rank.mems.as_ref() == Some(&nodes);
        if !as_declared {
            complaints.push(format!("rank {number} belongs on node {node}, cpus {cpus}, and was planned as {rank:?}"));
        }
    }
    complaints
}

fn plan_again(shape: &Shape, oarlock: &Path, machine: &Path) -> Result<PlanJson> {
    let gpus: Vec<String> = shape.gpu_addresses().iter().map(ToString::to_string).collect();
    let mut command = Command::new(oarlock);
    command.args(["plan", "--cpu-map", "auto", "--mem-map", "auto", "--format", "json", "--machine"]).arg(machine);
    let text = capture(command.args(["--gpus", &gpus.join(",")]))?;
    PlanJson::read(text.as_bytes()).context("oarlock plan --format json printed no plan")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(nodes: &[u32]) -> PlanJson {
        let rank = |(number, &node): (u32, &u32)| RankJson {
            number,
            cpus: Some(if node == 0 { "0-7" } else { "8-15" }.parse().unwrap()),
            cpu_nodes: NodeSet::of(node),
            mems: Some(NodeSet::of(node)),
            reason: String::new(),
        };
        let container = ContainerJson { cpus: "0-15".parse().unwrap(), mems: "0-1".parse().unwrap() };
        PlanJson { container, ranks: (0..).zip(nodes).map(rank).collect() }
    }

    #[test]
    fn a_plan_is_held_against_the_declaration_and_not_against_itself() {
        let shape = Shape::read(&crate::workspace().join("tests/vm/shapes/uneven.toml")).unwrap();
        assert_eq!(against_declaration(&shape, &plan(&[1, 1, 1, 1, 1, 1, 0, 0])), [""; 0]);
        let halves = against_declaration(&shape, &plan(&[1, 1, 1, 1, 0, 0, 0, 0]));
        assert_eq!(halves.len(), 2, "{halves:?}");
        assert!(halves[0].starts_with("rank 4 belongs on node 1, cpus 8-15"), "{halves:?}");
        assert_eq!(against_declaration(&shape, &plan(&[1])), ["the plan has 1 ranks, and the shape 8"]);
        let mut elsewhere = plan(&[1, 1, 1, 1, 1, 1, 0, 0]);
        elsewhere.ranks[7].mems = None;
        assert_eq!(against_declaration(&shape, &elsewhere).len(), 1);
    }
}
