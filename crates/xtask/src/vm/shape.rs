//! What an emulated machine looks like, as declared in `tests/vm/shapes`, and what follows from that for its GPUs.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use oarlock_core::idset::CpuSet;
use oarlock_core::pci::PciAddress;
use serde::Deserialize;

use super::scenario::Scenario;

/// One declared machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Shape {
    /// The file's stem.
    #[serde(skip)]
    pub(crate) name: String,
    /// CPU packages.
    pub(crate) sockets: u32,
    /// Dies of each package; a last-level cache belongs to a package all the same, as QEMU has it.
    #[serde(default = "one")]
    pub(crate) dies_per_socket: u32,
    /// Physical cores of each die.
    pub(crate) cores_per_die: u32,
    /// Hardware threads of each core.
    pub(crate) threads_per_core: u32,
    /// The SLIT distances, in node order.
    pub(crate) distances: Vec<Vec<u8>>,
    /// The node that GPU i is attached to, the GPUs in the order of their PCI addresses; -1 where the firmware is silent.
    pub(crate) gpus: Vec<i64>,
    /// The node that `auto` gives rank i; left out where it is the node of its GPU.
    pub(crate) ranks_on: Option<Vec<i64>>,
    /// The scenarios that `cargo xtask test` runs on this shape.
    pub(crate) scenarios: Vec<Scenario>,
    /// Others that are tried on it by name: they take long, or need what only their user has.
    #[serde(default)]
    pub(crate) by_name: Vec<Scenario>,
    /// The nodes, numbered from 0.
    pub(crate) nodes: Vec<NodeShape>,
}

/// One NUMA node of a shape.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct NodeShape {
    /// Its CPUs; none for a node that is memory only.
    #[serde(default)]
    pub(crate) cpus: CpuSet,
    /// Its memory in MiB.
    pub(crate) memory_mb: u32,
}

/// A run of GPUs on one node: one PCI expander bridge, as QEMU gives a node to a bridge and not to a device.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bridge {
    /// The node, where the firmware names one.
    pub(crate) node: Option<u32>,
    /// The number of its PCI bus.
    pub(crate) bus: u32,
    /// How many GPUs it holds.
    pub(crate) gpus: u32,
}

const fn one() -> u32 {
    1
}

impl Shape {
    /// Reads one declaration and checks that its parts fit together.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&name, &text).with_context(|| format!("{} declares no machine", path.display()))
    }

    /// All declarations of a folder, by name.
    pub(crate) fn read_all(folder: &Path) -> Result<Vec<Self>> {
        let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
        let mut paths = Vec::new();
        for entry in entries {
            paths.push(entry.with_context(|| format!("cannot read {}", folder.display()))?.path());
        }
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let mut shape: Self = toml::from_str(text)?;
        name.clone_into(&mut shape.name);
        let nodes = shape.nodes.len();
        ensure!(
            shape.distances.len() == nodes && shape.distances.iter().all(|row| row.len() == nodes),
            "distances is no matrix of {nodes} by {nodes}: one row and one column per node"
        );
        let cpus = shape.nodes.iter().map(|node| node.cpus.len()).sum::<usize>();
        ensure!(cpus == shape.cpus() as usize, "the nodes hold {cpus} cpus, and the sockets {}", shape.cpus());
        if let Some(node) = shape.gpus.iter().find(|&&node| node < -1 || node >= nodes as i64) {
            anyhow::bail!("gpus names node {node}: there are {nodes} nodes, and -1 for none");
        }
        let ranks_on = shape.ranks_on();
        ensure!(ranks_on.len() == shape.gpus.len(), "ranks-on has {} entries: one per gpu", ranks_on.len());
        for node in ranks_on {
            let cpus = usize::try_from(node).ok().and_then(|node| shape.nodes.get(node)).map(|node| &node.cpus);
            ensure!(cpus.is_some_and(|cpus| !cpus.is_empty()), "ranks-on names node {node}, which has no cpu");
        }
        Ok(shape)
    }

    /// How many CPUs the machine has.
    pub(crate) fn cpus(&self) -> u32 {
        self.sockets * self.dies_per_socket * self.cores_per_die * self.threads_per_core
    }

    /// The node that `auto` gives rank i.
    pub(crate) fn ranks_on(&self) -> Vec<i64> {
        self.ranks_on.as_ref().unwrap_or(&self.gpus).clone()
    }

    /// The expander bridges, in the order of the GPUs. Bus numbers ascend by 16 and leave room for the GPUs below each.
    pub(crate) fn bridges(&self) -> Vec<Bridge> {
        self.gpus
            .chunk_by(|a, b| a == b)
            .zip(1..)
            .map(|(run, place)| Bridge { node: u32::try_from(run[0]).ok(), bus: 16 * place, gpus: run.len() as u32 })
            .collect()
    }

    /// The PCI addresses of the GPUs: the firmware numbers the buses below a bridge one after the other, and each GPU is
    /// alone on its bus.
    pub(crate) fn gpu_addresses(&self) -> Vec<PciAddress> {
        self.bridges()
            .iter()
            .flat_map(|bridge| (1..=bridge.gpus).map(|place| bridge.bus + place))
            .map(|bus| PciAddress { domain: 0, bus: bus as u8, device: 0, function: 0 })
            .collect()
    }

    /// The declaration as variables of the guest's shell.
    pub(crate) fn shell_variables(&self) -> String {
        let spaced = |nodes: &[i64]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let addresses: Vec<String> = self.gpu_addresses().iter().map(ToString::to_string).collect();
        let mut lines = vec![
            format!("SHAPE={}", self.name),
            format!("GPUS={}", addresses.join(",")),
            format!("GPU_NODES='{}'", spaced(&self.gpus)),
            format!("MAPS='--cpu-map auto --mem-map auto --gpus {}'", addresses.join(",")),
            format!("RANKS={}", self.gpus.len()),
            "AVERAGE=hand".to_owned(),
            format!("RANKS_ON='{}'", spaced(&self.ranks_on())),
        ];
        lines.extend((0..).zip(&self.nodes).map(|(id, node): (u32, _)| format!("NODE_{id}_CPUS={}", node.cpus)));
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODD: &str = r#"
        sockets = 2
        cores-per-die = 2
        threads-per-core = 1
        distances = [[10, 21, 21], [21, 10, 21], [21, 21, 10]]
        gpus = [2, 2, 0, -1, 2]
        ranks-on = [2, 2, 0, 0, 2]
        scenarios = ["discover"]
        nodes = [{ cpus = "2-3", memory-mb = 64 }, { memory-mb = 32 }, { cpus = "0-1", memory-mb = 64 }]
    "#;

    #[test]
    fn gpus_of_one_node_that_follow_each_other_share_a_bridge() {
        let shape = Shape::parse("odd", ODD).unwrap();
        let bridge = |node, bus, gpus| Bridge { node, bus, gpus };
        assert_eq!(
            shape.bridges(),
            [bridge(Some(2), 16, 2), bridge(Some(0), 32, 1), bridge(None, 48, 1), bridge(Some(2), 64, 1)]
        );
        let addresses: Vec<String> = shape.gpu_addresses().iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["0000:11:00.0", "0000:12:00.0", "0000:21:00.0", "0000:31:00.0", "0000:41:00.0"]);
    }

    #[test]
    fn a_scenario_is_told_what_the_shape_declares() {
        let shape = Shape::parse("odd", ODD).unwrap();
        let text = shape.shell_variables();
        assert_eq!(
            text,
            "SHAPE=odd\nGPUS=0000:11:00.0,0000:12:00.0,0000:21:00.0,0000:31:00.0,0000:41:00.0\nGPU_NODES='2 2 0 -1 2'\n\
             MAPS='--cpu-map auto --mem-map auto --gpus 0000:11:00.0,0000:12:00.0,0000:21:00.0,0000:31:00.0,0000:41:00.0'\n\
             RANKS=5\nAVERAGE=hand\nRANKS_ON='2 2 0 0 2'\nNODE_0_CPUS=2-3\nNODE_1_CPUS=\nNODE_2_CPUS=0-1\n"
        );
    }

    #[test]
    fn a_shape_whose_parts_do_not_fit_is_refused() {
        for (right, wrong, why) in [
            ("sockets = 2", "sockets = 3", "the nodes hold 4 cpus, and the sockets 6"),
            ("[[10, 21, 21], ", "[", "distances is no matrix of 3 by 3"),
            ("gpus = [2,", "gpus = [3,", "gpus names node 3"),
            ("ranks-on = [2, 2,", "ranks-on = [2,", "ranks-on has 4 entries"),
            ("ranks-on = [2,", "ranks-on = [1,", "ranks-on names node 1, which has no cpu"),
            ("ranks-on = [2, 2, 0, 0, 2]", "", "ranks-on names node -1, which has no cpu"),
            ("sockets", "colour = 1\nsockets", "unknown field `colour`"),
        ] {
            let text = ODD.replacen(right, wrong, 1);
            let error = Shape::parse("odd", &text).unwrap_err();
            assert!(error.to_string().contains(why), "{error} should contain {why}");
        }
    }

    #[test]
    fn every_committed_shape_fits_and_names_scenarios_that_exist() {
        let folder = crate::workspace().join("tests/vm");
        let shapes = Shape::read_all(&folder.join("shapes")).unwrap();
        assert!(shapes.len() >= 5, "{} shapes", shapes.len());
        for shape in shapes {
            for scenario in shape.scenarios.iter().chain(&shape.by_name) {
                let path = folder.join(format!("scenarios/{}.sh", scenario.script));
                assert!(path.exists(), "{} names {scenario}, and {} is not there", shape.name, path.display());
            }
        }
    }
}
