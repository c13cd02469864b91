//! hwloc's XML export, formats 2 and 3.

mod objects;

use std::path::Path;

use oarlock_core::idset::{IdSet, Kind, Node as NodeKind};
use oarlock_core::machine::{Node, Package};
use oarlock_core::{CpuSet, Machine};
use roxmltree::{Document, Node as Element, ParsingOptions};

use crate::{Allowed, DiscoveryError, Found, devices, sysfs};

/// The largest export that is read, in MiB: a machine of 4,096 CPUs makes about 4.
pub(crate) const LIMIT_MIB: u64 = 64;
/// Elements in such a file, with room.
const ELEMENT_LIMIT: u32 = 4_000_000;

/// Reads an exported topology. `path` is for errors, and names the machine where the file does not.
pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Found, DiscoveryError> {
    if bytes.len() as u64 > LIMIT_MIB << 20 {
        return Err(DiscoveryError::TooLarge { path: path.to_owned(), limit_mib: LIMIT_MIB });
    }
    let text = String::from_utf8_lossy(bytes);
    let text = text.split('\0').next().unwrap_or_default();
    let options = ParsingOptions { allow_dtd: true, nodes_limit: ELEMENT_LIMIT, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).map_err(|source| malformed(source, text, path))?;
    Reader { document: &document, path }.read()
}

/// The parser gives no place for what is missing at the end.
fn malformed(source: roxmltree::Error, text: &str, path: &Path) -> DiscoveryError {
    use roxmltree::Error::{NoRootNode, UnclosedRootNode, UnexpectedEndOfStream};
    let path = path.to_owned();
    match source {
        NoRootNode | UnclosedRootNode | UnexpectedEndOfStream => {
            let last = text.rsplit('\n').next().unwrap_or_default();
            let line = text.bytes().filter(|&byte| byte == b'\n').count() + 1;
            DiscoveryError::XmlCut { path, line, column: last.chars().count() + 1 }
        }
        source => DiscoveryError::Xml { path, source },
    }
}

/// The document with the path for errors.
pub(crate) struct Reader<'a> {
    document: &'a Document<'a>,
    path: &'a Path,
}

impl<'a> Reader<'a> {
    fn read(&self) -> Result<Found, DiscoveryError> {
        let root = self.document.root_element();
        if root.tag_name().name() != "topology" {
            return Err(self.error(root, format!("the root element is {}, not topology", root.tag_name().name())));
        }
        match root.attribute("version").and_then(|version| version.split('.').next()) {
            Some("2" | "3") => {}
            other => {
                let version = other.unwrap_or("1");
                let message = format!(
                    "the format's version is {version}: versions 2 and 3 are read, as hwloc 2 and 3 write them"
                );
                return Err(self.error(root, message));
            }
        }
        let mut warnings = Vec::new();
        let Some(top) = self.objects("Machine").next() else {
            return Err(self.error(root, "no object of type Machine".to_owned()));
        };
        let mut nodes = self.nodes(&mut warnings)?;
        let distances = self.distances(&nodes)?;
        let memory = self.gpu_memory(&mut nodes)?;
        let facts = self.pci(&mut warnings)?;
        let (gpus, devices) = devices::sort_out(&nodes, facts, &memory, &[], &mut warnings);
        let machine = Machine {
            links: None,
            cores_assumed: false,
            name: self.name(top),
            cores: self.groups("Core")?,
            l3: self.last_level_caches(&nodes)?,
            packages: self.packages()?,
            nodes,
            distances,
            gpus,
            devices,
        };
        let machine = machine
            .checked()
            .map_err(|source| DiscoveryError::Contradiction { source_name: self.path.display().to_string(), source })?;
        let allowed = Allowed { cpus: self.mask(top, "allowed_cpuset")?, mems: self.mask(top, "allowed_nodeset")? };
        let allowed = sysfs::cut(allowed, &machine);
        Ok(Found { machine, allowed, warnings, extra: serde_json::Map::new() })
    }

    /// Objects in document order, whatever their depth, without recursion.
    pub(crate) fn objects(&self, kind: &'static str) -> impl Iterator<Item = Element<'a, 'a>> + use<'a> {
        self.document
            .descendants()
            .filter(move |element| element.has_tag_name("object") && element.attribute("type") == Some(kind))
    }

    fn name(&self, machine: Element<'a, 'a>) -> String {
        // Format 3 has them on the topology.
        info(machine, "HostName").or_else(|| info(self.document.root_element(), "HostName")).map_or_else(
            || self.path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned()),
            str::to_owned,
        )
    }

    /// hwloc gives a node without CPUs the CPUs that it is near to. The kernel lists each CPU in one node, so of several
    /// nodes around the same CPUs the ordinary one with the lowest id has them.
    fn nodes(&self, warnings: &mut Vec<String>) -> Result<Vec<Node>, DiscoveryError> {
        let mut elements = Vec::new();
        for element in self.objects("NUMANode") {
            let id = self.os_index(element)?;
            if id >= NodeKind::LIMIT {
                let message = format!("NUMANode {id}: the kernel numbers nodes below {}", NodeKind::LIMIT);
                return Err(self.error(element, message));
            }
            elements.push((element.attribute("subtype").is_some_and(|kind| kind != "DRAM"), id, element));
        }
        elements.sort_by_key(|(special, id, _)| (*special, *id));
        let any_size = elements.iter().any(|(.., element)| element.has_attribute("local_memory"));
        let mut nodes = Vec::with_capacity(elements.len());
        let mut taken = CpuSet::new();
        for (special, id, element) in elements {
            let near: CpuSet = self.mask(element, "cpuset")?.unwrap_or_default();
            let cpus = near.difference(&taken);
            if near.intersects(&taken) && !special {
                warnings.push(format!(
                    "node {id} is around cpus {near}, as a node before it is: it is taken as memory without cpus"
                ));
            }
            taken.extend(&near);
            // A size of 0 is not written; a file without any size tells of none.
            let bytes: Option<u64> = self.number(element, "local_memory")?;
            let memory_mb = bytes.map(|bytes| bytes >> 20).or(any_size.then_some(0));
            nodes.push(Node { id, cpus, memory_mb, gpu_memory: element.attribute("subtype") == Some("GPUMemory") });
        }
        nodes.sort_by_key(|node| node.id);
        Ok(nodes)
    }

    fn packages(&self) -> Result<Option<Vec<Package>>, DiscoveryError> {
        let mut packages = Vec::new();
        for element in self.objects("Package") {
            let cpus: CpuSet = self.mask(element, "cpuset")?.unwrap_or_default();
            if !cpus.is_empty() {
                packages.push(Package { id: self.os_index(element)?, cpus });
            }
        }
        Ok((!packages.is_empty()).then_some(packages))
    }

    fn groups(&self, kind: &'static str) -> Result<Option<Vec<CpuSet>>, DiscoveryError> {
        let mut groups = Vec::new();
        for element in self.objects(kind) {
            groups.extend(self.mask(element, "cpuset")?.filter(|cpus: &CpuSet| !cpus.is_empty()));
        }
        Ok((!groups.is_empty()).then_some(groups))
    }

    fn last_level_caches(&self, nodes: &[Node]) -> Result<Option<Vec<CpuSet>>, DiscoveryError> {
        let mut caches = Vec::new();
        let mut covered = CpuSet::new();
        for kind in ["L5Cache", "L4Cache", "L3Cache", "L2Cache", "L1Cache"] {
            let at_this_level = self.groups(kind)?.unwrap_or_default();
            let above = covered.clone();
            for cache in at_this_level.into_iter().filter(|cache| !cache.intersects(&above)) {
                covered.extend(&cache);
                caches.push(cache);
            }
        }
        // Half an answer would make a plan that looks right.
        let complete = nodes.iter().all(|node| node.cpus.is_subset(&covered));
        Ok(complete.then_some(caches))
    }

    /// The `os_index` of an object, which nodes and packages always have.
    fn os_index(&self, element: Element<'a, 'a>) -> Result<u32, DiscoveryError> {
        let kind = element.attribute("type").unwrap_or("object");
        self.number(element, "os_index")?.ok_or_else(|| self.error(element, format!("a {kind} without an os_index")))
    }

    pub(crate) fn number<T: std::str::FromStr>(
        &self,
        element: Element<'a, 'a>,
        name: &str,
    ) -> Result<Option<T>, DiscoveryError> {
        let Some(text) = element.attribute(name) else { return Ok(None) };
        text.parse()
            .map(Some)
            .map_err(|_| self.error(element, format!("{name} \"{}\" is not a number", crate::error::excerpt(text))))
    }

    pub(crate) fn mask<K: Kind>(
        &self,
        element: Element<'a, 'a>,
        name: &str,
    ) -> Result<Option<IdSet<K>>, DiscoveryError> {
        let Some(text) = element.attribute(name) else { return Ok(None) };
        IdSet::from_mask(text).map(Some).map_err(|_| {
            let text = crate::error::excerpt(text);
            self.error(element, format!("{name} \"{text}\" is not a mask of 32-bit hexadecimal words"))
        })
    }

    pub(crate) fn error(&self, element: Element<'a, 'a>, message: String) -> DiscoveryError {
        let at = self.document.text_pos_at(element.range().start);
        DiscoveryError::HwlocXml { path: self.path.to_owned(), line: at.row, column: at.col, message }
    }
}

/// The value of an object's `<info name=… value=…/>`.
pub(crate) fn info<'a>(element: Element<'a, 'a>, name: &str) -> Option<&'a str> {
    element
        .children()
        .find(|child| child.has_tag_name("info") && child.attribute("name") == Some(name))
        .and_then(|child| child.attribute("value"))
}
