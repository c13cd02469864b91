//! Why no plan is possible.

use std::fmt;

use crate::request::PREFIX;

/// A refused request: which key, which value, which rule, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, thiserror::Error)]
pub struct Refusal {
    /// The annotation (`oarlock.dev/cpu-map`), also where the value came from a flag.
    pub key: String,
    /// The value as given.
    pub value: String,
    /// The rule that it breaks.
    pub rule: String,
    /// What is wrong, and where in the value.
    pub message: String,
}

impl Refusal {
    /// A refusal of `value` for the annotation `key` (without prefix).
    pub fn new(key: &str, value: impl Into<String>, rule: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: format!("{PREFIX}{key}"), value: value.into(), rule: rule.into(), message: message.into() }
    }

    /// A refusal because of something that is no annotation: the GPUs held, the CPUs allowed.
    pub(crate) fn of_fact(
        key: &str,
        value: impl Into<String>,
        rule: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { key: key.to_owned(), ..Self::new(key, value, rule, message) }
    }

    /// A refusal of one rank's entry in a list.
    pub(crate) fn of_entry(key: &str, value: String, rule: &str, rank: usize, what: &str) -> Self {
        Self::new(key, value, rule, format!("entry {} (rank {rank}): {what}", rank + 1))
    }

    /// A list that does not have one entry per rank.
    pub(crate) fn wrong_length(key: &str, value: String, entries: usize, ranks: u32) -> Self {
        Self::new(key, value, "a list has one entry per local rank", format!("has {entries} entries for {ranks} ranks"))
    }

    pub(crate) fn unknown_key(key: &str, value: &str) -> Self {
        Self::new(key, value, format!("the keys are {}", crate::request::KEYS.join(", ")), "is not a known key")
    }
}

impl fmt::Display for Refusal {
    /// `oarlock.dev/cpu-map "0,0,1": has 3 entries for 4 ranks (rule: one entry per local rank)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}: {} (rule: {})", self.key, Shortened(&self.value).to_string(), self.message, self.rule)
    }
}

/// A value cut to what a person reads in one line: an annotation may hold 256 KiB.
struct Shortened<'a>(&'a str);

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 120;
        match self.0.char_indices().nth(MOST) {
            Some((end, _)) => write!(f, "{}…", &self.0[..end]),
            None => f.write_str(self.0),
        }
    }
}
