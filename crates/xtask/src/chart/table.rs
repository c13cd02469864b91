//! The table of values in the chart's README.

use anyhow::{Context as _, Result};

use super::values::Values;

/// The lines that the table stands between.
const BEGIN: &str = "<!-- values: cargo xtask generate writes this table -->\n";
const END: &str = "<!-- end of values -->\n";

/// The README with a fresh table between its marks.
pub(super) fn put_into(readme: &str, values: &Values) -> Result<String> {
    let (before, rest) = readme.split_once(BEGIN).context("the mark before the table is missing")?;
    let (_, after) = rest.split_once(END).context("the mark after the table is missing")?;
    Ok(format!("{before}{BEGIN}{}{END}{after}", of(values)))
}

fn of(values: &Values) -> String {
    let rows: Vec<String> = values
        .all
        .iter()
        .filter(|value| value.is_leaf())
        .map(|value| {
            let default = value.default.to_string();
            let row = [value.path.join("."), default, value.description.clone()].map(|cell| cell.replace('|', "\\|"));
            format!("| `{}` | `{}` | {} |\n", row[0], row[1], row[2])
        })
        .collect();
    format!("| value | default | what it is |\n|---|---|---|\n{}", rows.concat())
}
