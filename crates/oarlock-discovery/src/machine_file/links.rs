//! `link_matrix`: the paths between the GPUs, in the words of topology printouts.
//!
//! `columns` names the columns (`GPU0`, and what else the printout has), `rows` has a row of words for each name. A number
//! in such a name is the GPU's index.

use std::collections::HashMap;

use oarlock_core::link::Link;
use oarlock_core::machine::Gpu;
use serde_json::{Map, Value, json};

use super::Problem;
use super::fields::{Fields, wrong};

/// The links between `gpus`, in their order; `None` where the file has no matrix. A pair that the matrix does not have, or
/// has in a word that means nothing here, is unknown. The field stays in the file's rest: it can say more than this.
pub(super) fn read(file: &Fields, gpus: &[Gpu]) -> Result<Option<Vec<Vec<Link>>>, Problem> {
    let Some(matrix) = file.get("link_matrix").filter(|_| !gpus.is_empty()) else { return Ok(None) };
    let Value::Object(matrix) = matrix else {
        return Err(wrong("link_matrix".to_owned(), matrix, "an object with columns and rows"));
    };
    let columns = texts("link_matrix.columns", matrix.get("columns").unwrap_or(&Value::Null))?;
    let rows = match matrix.get("rows") {
        Some(Value::Object(rows)) => rows,
        other => {
            let found = other.unwrap_or(&Value::Null);
            return Err(wrong("link_matrix.rows".to_owned(), found, "an object with a row for each name"));
        }
    };
    let names: Vec<String> = gpus.iter().map(|gpu| name(gpu.index)).collect();
    let places: HashMap<&str, usize> = columns.iter().enumerate().map(|(at, column)| (*column, at)).collect();
    let position: Vec<Option<usize>> = names.iter().map(|name| places.get(name.as_str()).copied()).collect();
    let mut links = Vec::with_capacity(gpus.len());
    for name in &names {
        let words = match rows.get(name) {
            Some(row) => texts(&format!("link_matrix.rows.{name}"), row)?,
            None => Vec::new(),
        };
        let word = |at: &Option<usize>| at.and_then(|at| words.get(at).copied()).unwrap_or_default();
        links.push(position.iter().map(|at| Link::from_word(word(at))).collect::<Vec<_>>());
    }
    Ok(Some(completed(&links)))
}

/// A path is the same from both ends: where one end's word is missing, the other's counts.
fn completed(stated: &[Vec<Link>]) -> Vec<Vec<Link>> {
    let link = |from: usize, to: usize| match stated[from][to] {
        Link::Unknown => stated[to][from],
        known => known,
    };
    (0..stated.len()).map(|from| (0..stated.len()).map(|to| link(from, to)).collect()).collect()
}

/// The field as [`read`] takes it.
pub(super) fn write(gpus: &[Gpu], links: &[Vec<Link>]) -> Value {
    let names: Vec<String> = gpus.iter().map(|gpu| name(gpu.index)).collect();
    let row = |(at, words): (usize, &Vec<Link>)| {
        let word = |(to, link): (usize, &Link)| if at == to { "X".to_owned() } else { link.to_string() };
        (names[at].clone(), words.iter().enumerate().map(word).collect::<Value>())
    };
    let rows: Map<String, Value> = links.iter().enumerate().take(names.len()).map(row).collect();
    json!({"columns": names, "rows": rows})
}

fn name(index: u32) -> String {
    format!("GPU{index}")
}

fn texts<'a>(place: &str, value: &'a Value) -> Result<Vec<&'a str>, Problem> {
    let Value::Array(values) = value else { return Err(wrong(place.to_owned(), value, "an array of texts")) };
    let text = |(at, value): (usize, &'a Value)| match value {
        Value::String(text) => Ok(text.trim()),
        Value::Null => Ok(""),
        other => Err(wrong(format!("{place}[{at}]"), other, "a text")),
    };
    values.iter().enumerate().map(text).collect()
}
