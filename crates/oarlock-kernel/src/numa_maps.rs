//! `/proc/PID/numa_maps`: the memory policy of each mapping, and its pages by node.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use oarlock_core::NodeSet;

use crate::folder::{Folder, ReadError, gone_while_reading};

/// A memory policy as the kernel prints it (`mpol_to_str`): `default`, `bind:0-1`, `prefer (many):2`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Policy {
    /// `default`, `local`, `bind`, `prefer`, `prefer (many)`, `interleave`, `weighted interleave`; flags follow an equals
    /// sign (`bind=static`).
    pub mode: String,
    /// The nodes that it names; empty where it names none.
    pub nodes: NodeSet,
}

impl Policy {
    /// The nodes outside which no page can come from, where the policy is such a wall.
    pub fn wall(&self) -> Option<&NodeSet> {
        (self.mode == "bind" || self.mode.starts_with("bind=")).then_some(&self.nodes)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mode)?;
        if self.nodes.is_empty() { Ok(()) } else { write!(f, ":{}", self.nodes) }
    }
}

/// A number of pages, of whatever size each has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pages {
    /// How many. A transparent huge page counts as its 4 KiB parts, as the kernel counts it.
    pub count: u64,
    /// Their size together, in KiB.
    pub kib: u64,
}

impl Pages {
    fn add(&mut self, count: u64, page_kib: u64) {
        self.count = self.count.saturating_add(count);
        self.kib = self.kib.saturating_add(count.saturating_mul(page_kib));
    }
}

/// What `numa_maps` says, added up over the mappings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NumaMaps {
    /// How many mappings have each policy.
    pub policies: BTreeMap<Policy, u64>,
    /// Anonymous pages by node: the process's own memory.
    pub anonymous: BTreeMap<u32, Pages>,
    /// Pages of files and of shared memory by node: others may have put them where they are.
    pub file: BTreeMap<u32, Pages>,
    /// Mappings with pages of both kinds on several nodes (a file's private mapping, partly written): the kernel does not
    /// say which are where.
    pub mixed: Vec<Mixed>,
}

/// A mapping with anonymous and file pages, not told apart by node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mixed {
    /// How many of the pages are anonymous.
    pub anonymous: u64,
    /// The size of a page in KiB.
    pub page_kib: u64,
    /// All pages by node.
    pub pages: Vec<(u32, u64)>,
}

impl NumaMaps {
    /// All anonymous pages.
    pub fn anonymous_total(&self) -> Pages {
        let mut total = Pages::default();
        for pages in self.anonymous.values() {
            total.count = total.count.saturating_add(pages.count);
            total.kib = total.kib.saturating_add(pages.kib);
        }
        for mapping in &self.mixed {
            total.add(mapping.anonymous, mapping.page_kib);
        }
        total
    }

    /// The anonymous pages that are certainly on other nodes than these. Where the kernel does not tell a mapping's
    /// anonymous pages from its file pages, only those count that cannot be on these nodes.
    pub fn anonymous_outside(&self, nodes: &NodeSet) -> Pages {
        let mut outside = Pages::default();
        for (_, pages) in self.anonymous.iter().filter(|(node, _)| !nodes.contains(**node)) {
            outside.count = outside.count.saturating_add(pages.count);
            outside.kib = outside.kib.saturating_add(pages.kib);
        }
        for mapping in &self.mixed {
            let inside = mapping.pages.iter().filter(|(node, _)| nodes.contains(*node)).map(|(_, count)| count).sum();
            outside.add(mapping.anonymous.saturating_sub(inside), mapping.page_kib);
        }
        outside
    }

    pub(crate) fn read(folder: &Folder) -> Result<Option<Self>, ReadError> {
        let path = folder.path().join("numa_maps");
        let mut maps = Self::default();
        let read = each_line(folder, &path, 64 << 10, &mut |line| {
            maps.add(&Line::parse(line).map_err(|rule| ReadError::malformed(&path, line, rule))?);
            Ok(true)
        })?;
        // The file of a process without memory (a zombie, a kernel thread) is empty.
        Ok((read && !maps.policies.is_empty()).then_some(maps))
    }

    fn add(&mut self, line: &Line) {
        *self.policies.entry(line.policy.clone()).or_default() += 1;
        let total: u64 = line.pages.iter().map(|(_, count)| count).sum();
        // On a single node there is nothing to tell apart.
        match line.pages[..] {
            [] => {}
            [(node, count)] => {
                put(&mut self.anonymous, node, line.anonymous, line.page_kib);
                put(&mut self.file, node, count - line.anonymous, line.page_kib);
            }
            _ if line.anonymous == total => {
                line.pages.iter().for_each(|&(node, count)| put(&mut self.anonymous, node, count, line.page_kib));
            }
            _ if line.anonymous == 0 => {
                line.pages.iter().for_each(|&(node, count)| put(&mut self.file, node, count, line.page_kib));
            }
            _ => {
                self.mixed.push(Mixed {
                    anonymous: line.anonymous,
                    page_kib: line.page_kib,
                    pages: line.pages.clone(),
                });
            }
        }
    }
}

fn put(by_node: &mut BTreeMap<u32, Pages>, node: u32, count: u64, page_kib: u64) {
    if count > 0 {
        by_node.entry(node).or_default().add(count, page_kib);
    }
}

/// The policy of the first mapping; `None` where there is no mapping or no such file.
pub(crate) fn first_policy(folder: &Folder) -> Result<Option<Policy>, ReadError> {
    let path = folder.path().join("numa_maps");
    let mut policy = None;
    // The kernel counts the pages of as many mappings as it is asked bytes for: a small buffer makes it one.
    each_line(folder, &path, 64, &mut |line| {
        policy = Some(Line::parse(line).map_err(|rule| ReadError::malformed(&path, line, rule))?.policy);
        Ok(false)
    })?;
    Ok(policy)
}

/// Hands out line after line until `take` has enough; returns whether the file is there. The file is not held in memory:
/// a process may have a million mappings.
fn each_line(
    folder: &Folder,
    path: &Path,
    buffer: usize,
    take: &mut dyn FnMut(&str) -> Result<bool, ReadError>,
) -> Result<bool, ReadError> {
    // A path of 4,096 bytes, each escaped to four, and the numbers of 1,024 nodes.
    const LONGEST: u64 = 64 << 10;
    let Some(file) = folder.file("numa_maps")? else { return Ok(false) };
    let mut reader = BufReader::with_capacity(buffer, file);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(LONGEST).read_until(b'\n', &mut line) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if gone_while_reading(&error) => return Ok(false),
            Err(source) => return Err(ReadError::Io { path: path.to_owned(), source }),
        }
        // File names may hold anything; nothing else in the line is other than ASCII.
        if !take(String::from_utf8_lossy(&line).trim_end_matches('\n'))? {
            return Ok(true);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Line {
    policy: Policy,
    anonymous: u64,
    pages: Vec<(u32, u64)>,
    page_kib: u64,
}

impl Line {
    /// Parses one line, or says which rule it breaks. White space in file names is escaped by the kernel.
    fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split(' ').filter(|word| !word.is_empty()).peekable();
        let address = words.next().unwrap_or_default();
        if u64::from_str_radix(address, 16).is_err() {
            return Err("a line begins with a mapping's address".to_owned());
        }
        let first = words.next().ok_or("a mapping has a policy")?;
        let policy = match words.next_if(|next| first == "weighted" || next.starts_with("(many)")) {
            Some(second) => parse_policy(&format!("{first} {second}"))?,
            None => parse_policy(first)?,
        };
        // Old kernels do not print the size.
        let mut parsed = Self { policy, anonymous: 0, pages: Vec::new(), page_kib: 4 };
        for word in words {
            let Some((key, value)) = word.split_once('=') else { continue };
            let number = || value.parse::<u64>().map_err(|_| format!("{key} is followed by a number"));
            match key {
                "anon" => parsed.anonymous = number()?,
                "kernelpagesize_kB" => parsed.page_kib = number()?,
                _ => {
                    if let Some(node) = key.strip_prefix('N').and_then(|node| node.parse().ok()) {
                        parsed.pages.push((node, number()?));
                    }
                }
            }
        }
        // 2^40 KiB are a PiB, and addresses end at 128 PiB. A line has room for 2^14 nodes, and sums stay below 2^64.
        let bounded = |count: u64| count.checked_mul(parsed.page_kib.max(1)).is_some_and(|kib| kib < 1 << 40);
        if !parsed.pages.iter().all(|&(_, count)| bounded(count)) {
            return Err("no machine has that many pages".to_owned());
        }
        if parsed.anonymous > parsed.pages.iter().map(|(_, count)| count).sum() {
            return Err("anon counts some of the pages of the nodes".to_owned());
        }
        Ok(parsed)
    }
}

fn parse_policy(text: &str) -> Result<Policy, String> {
    let (mode, nodes) = text.split_once(':').unwrap_or((text, ""));
    let known = ["default", "prefer", "bind", "interleave", "local", "weighted interleave", "prefer (many)"];
    if !known.contains(&mode.split('=').next().unwrap_or_default()) {
        return Err(format!("the policies are {}", known.join(", ")));
    }
    let nodes = nodes.parse().map_err(|error| format!("a policy's nodes are a list ({error})"))?;
    Ok(Policy { mode: mode.to_owned(), nodes })
}

#[cfg(test)]
mod tests;
