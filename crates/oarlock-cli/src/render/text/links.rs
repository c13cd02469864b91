//! The paths between GPUs, as a matrix.

use oarlock_core::link::Link;
use oarlock_core::machine::Machine;

use super::{Row, Section, WIDEST_MATRIX};

/// A row and a column for each GPU. Nothing where no path is known, or the matrix is too wide to be read.
pub(super) fn links(machine: &Machine) -> Section {
    let known = machine.links.as_ref().filter(|links| links.iter().flatten().any(|link| *link != Link::Unknown));
    let Some(links) = known.filter(|links| links.len() <= WIDEST_MATRIX) else {
        return Section { header: vec![], rows: vec![] };
    };
    let gpus: Vec<String> = machine.gpus.iter().map(|gpu| gpu.index.to_string()).collect();
    // The GPUs of the columns are a row of their own under the word, since a header is fixed text.
    let mut header = vec!["LINKS"];
    header.resize(links.len() + 1, "");
    let cells = |first: &str, rest: Vec<String>| [vec![first.to_owned()], rest].concat();
    let mut rows = vec![Row { cells: cells("gpu", gpus.clone()), alarming: false }];
    for (at, (gpu, links)) in gpus.iter().zip(links).enumerate() {
        let word = |(to, link): (usize, &Link)| if at == to { "-".to_owned() } else { link.to_string() };
        rows.push(Row { cells: cells(gpu, links.iter().enumerate().map(word).collect()), alarming: false });
    }
    Section { header, rows }
}
