//! The values of a chart, with what the comments in `values.yaml` say of them.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value as Json};

/// What begins a line of a comment that is JSON to be merged into the key's schema.
const SCHEMA: &str = "@schema ";

/// All values, in the order of the file.
#[derive(Debug)]
pub(super) struct Values {
    /// One for each key that has a comment or others below it.
    pub(super) all: Vec<Value>,
}

/// One key.
#[derive(Debug)]
pub(super) struct Value {
    /// The keys that lead to it.
    pub(super) path: Vec<String>,
    /// The comment above it, as one line.
    pub(super) description: String,
    /// What the comment adds to its schema.
    pub(super) schema: Map<String, Json>,
    /// What the file sets it to.
    pub(super) default: Json,
}

impl Values {
    /// Reads a file in which keys are words, each on a line of its own, indented by two spaces a level.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let defaults: Json = serde_saphyr::from_str(text).context("it is no YAML")?;
        let mut all: Vec<Value> = Vec::new();
        let mut comment = Comment::default();
        for line in text.lines() {
            let content = line.trim_start();
            if let Some(words) = content.strip_prefix('#') {
                comment.add(words.trim()).with_context(|| format!("in the line {line:?}"))?;
                continue;
            }
            let said = std::mem::take(&mut comment);
            let level = (line.len() - content.len()) / 2;
            let Some((key, _)) = content.split_once(':').filter(|(key, _)| is_key(key)) else { continue };
            // Below a leaf is its default.
            let above = all.iter().rev().find(|value| value.path.len() <= level);
            if above.is_some_and(|value| value.path.len() == level && value.is_leaf()) || above.is_none() && level > 0 {
                continue;
            }
            let mut path = above.map(|value| value.path[..level.min(value.path.len())].to_vec()).unwrap_or_default();
            if path.len() != level {
                continue;
            }
            path.push(key.to_owned());
            let pointer = format!("/{}", path.join("/"));
            let default = defaults.pointer(&pointer).with_context(|| format!("no value at {pointer}"))?.clone();
            let value = Value { path, description: said.words.join(" "), schema: said.schema, default };
            ensure!(!value.is_leaf() || !value.description.is_empty(), "{pointer} has no comment above it");
            all.push(value);
        }
        let described = all.iter().filter(|value| value.path.len() == 1).count();
        ensure!(Some(described) == defaults.as_object().map(Map::len), "not every key is on a line of its own");
        Ok(Self { all })
    }

    /// The values directly below a path.
    pub(super) fn below<'a>(&'a self, path: &'a [String]) -> impl Iterator<Item = &'a Value> {
        self.all.iter().filter(move |value| value.path.len() == path.len() + 1 && value.path.starts_with(path))
    }
}

impl Value {
    /// Whether it is set as a whole: it has no keys of ours below it.
    pub(super) fn is_leaf(&self) -> bool {
        !self.default.is_object() || self.schema.contains_key("additionalProperties")
    }

    /// Its own key.
    pub(super) fn key(&self) -> &str {
        self.path.last().map_or("", String::as_str)
    }
}

fn is_key(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The lines of a comment, so far.
#[derive(Debug, Default)]
struct Comment {
    words: Vec<String>,
    schema: Map<String, Json>,
}

impl Comment {
    fn add(&mut self, line: &str) -> Result<()> {
        match line.strip_prefix(SCHEMA) {
            None => self.words.push(line.to_owned()),
            Some(json) => match serde_json::from_str(json).context("what follows @schema is no JSON")? {
                Json::Object(schema) => self.schema.extend(schema),
                other => bail!("{other} after @schema is no object"),
            },
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# About the file.

# How many.
# Of all.
# @schema {\"minimum\": 1}
many: 3
one:
  # Whether.
  two:
    # Deep.
    three: false
  # Free.
  # @schema {\"additionalProperties\": true}
  labels:
    three: four
# The last.
rest:
  - key: value
";

    #[test]
    fn a_key_has_the_comment_right_above_it_and_none_that_is_further_away() {
        let values = Values::parse(TEXT).unwrap();
        let told: Vec<_> = values.all.iter().map(|v| (v.path.join("."), v.description.as_str())).collect();
        let expected = [
            ("many", "How many. Of all."),
            ("one", ""),
            ("one.two", "Whether."),
            ("one.two.three", "Deep."),
            ("one.labels", "Free."),
            ("rest", "The last."),
        ];
        assert_eq!(told, expected.map(|(path, words)| (path.to_owned(), words)));
        assert_eq!(values.all[0].schema["minimum"], 1);
        assert_eq!(values.all[3].default, false);
    }

    #[test]
    fn a_value_that_nobody_explains_and_a_schema_that_is_no_json_are_refused() {
        for (text, words) in [
            ("a:\n  b: 1\n", "/a/b has no comment above it"),
            ("# Far away.\n\na: 1\n", "/a has no comment above it"),
            ("# @schema {min\na: 1\n", "what follows @schema is no JSON"),
            ("# @schema 3\na: 1\n", "3 after @schema is no object"),
            ("{a: 1}\n", "not every key is on a line of its own"),
        ] {
            let error = format!("{:#}", Values::parse(text).unwrap_err());
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }
}
