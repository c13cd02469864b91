//! What a guest says on its second serial port, line by line, and what that amounts to.
//!
//! `hello` | `check pass|fail NAME [DETAIL]` | `say [TEXT]` | `file NAME BASE64` | `end STATUS`. The first serial port is
//! the console: whatever else the guest prints is there.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// One line of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    /// The guest's first word: the scenario begins.
    Hello,
    /// One thing looked at.
    Check {
        /// Whether it was as it should be.
        passed: bool,
        /// What was looked at, and what was seen.
        what: String,
    },
    /// Words for whoever watches.
    Say(String),
    /// A file sent to the host.
    File {
        /// Its name, without folders.
        name: String,
        /// What is in it.
        content: Vec<u8>,
    },
    /// The scenario is over, with this exit status.
    End(i32),
}

/// A line that is none of the above.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest reported \"{0}\": a line is hello, check, say, file or end")]
pub(crate) struct NotALine(String);

impl Line {
    /// Reads one line, without its end.
    pub(crate) fn parse(line: &str) -> Result<Self, NotALine> {
        let wrong = || NotALine(line.chars().take(200).collect());
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        Ok(match word {
            "hello" => Self::Hello,
            "say" => Self::Say(rest.to_owned()),
            "check" => {
                let (verdict, what) = rest.split_once(' ').ok_or_else(wrong)?;
                let passed = match verdict {
                    "pass" => true,
                    "fail" => false,
                    _ => return Err(wrong()),
                };
                Self::Check { passed, what: what.trim_end().to_owned() }
            }
            "file" => {
                let (name, text) = rest.split_once(' ').ok_or_else(wrong)?;
                if name.is_empty() || name.starts_with('.') || name.contains('/') {
                    return Err(wrong());
                }
                Self::File { name: name.to_owned(), content: BASE64_STANDARD.decode(text).map_err(|_| wrong())? }
            }
            "end" => Self::End(rest.parse().map_err(|_| wrong())?),
            _ => return Err(wrong()),
        })
    }
}

/// Everything a guest has said so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Whether it has said its first word.
    pub(crate) began: bool,
    /// How many checks passed.
    pub(crate) passed: u32,
    /// The checks that failed.
    pub(crate) failed: Vec<String>,
    /// The files it sent.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// The scenario's exit status, once it is over.
    pub(crate) status: Option<i32>,
}

impl Report {
    /// Takes in one more line.
    pub(crate) fn add(&mut self, line: Line) {
        self.began = true;
        match line {
            Line::Hello | Line::Say(_) => {}
            Line::Check { passed: true, .. } => self.passed += 1,
            Line::Check { passed: false, what } => self.failed.push(what),
            Line::File { name, content } => {
                self.files.insert(name, content);
            }
            Line::End(status) => self.status = Some(status),
        }
    }

    /// Why this report is not a success; nothing where it is.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut complaints = self.failed.clone();
        match self.status {
            Some(0) if self.passed + self.failed.len() as u32 == 0 => {
                complaints.push("the scenario ended without a single check".to_owned());
            }
            Some(0) => {}
            Some(status) => complaints.push(format!("the scenario ended with status {status}")),
            None if self.began => complaints.push("the scenario did not come to its end".to_owned()),
            None => complaints.push("the guest never said a word".to_owned()),
        }
        complaints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &[&str]) -> Report {
        let mut report = Report::default();
        for line in lines {
            report.add(Line::parse(line).unwrap());
        }
        report
    }

    #[test]
    fn checks_files_and_the_end_make_a_success() {
        let report = report(&["hello", "check pass nodes", "say so far", "file plan.json e30K", "end 0"]);
        assert_eq!(report.complaints(), [""; 0]);
        assert_eq!((report.passed, report.files["plan.json"].as_slice()), (1, b"{}\n".as_slice()));
    }

    #[test]
    fn a_failed_check_an_odd_status_silence_and_emptiness_are_failures() {
        for (lines, complaint) in [
            (vec!["hello", "check fail nodes of gpu 3", "check pass b", "end 0"], "nodes of gpu 3"),
            (vec!["hello", "check pass a", "end 2"], "the scenario ended with status 2"),
            (vec!["hello", "check pass a"], "the scenario did not come to its end"),
            (vec![], "the guest never said a word"),
            (vec!["hello", "end 0"], "the scenario ended without a single check"),
        ] {
            assert_eq!(report(&lines).complaints(), [complaint], "{lines:?}");
        }
    }

    #[test]
    fn a_line_that_is_no_report_is_an_error() {
        for line in ["", "hullo", "check maybe x", "check pass", "file ../x e30K", "file x !", "file x", "end", "end x"]
        {
            assert_eq!(Line::parse(line), Err(NotALine(line.to_owned())));
        }
    }
}
