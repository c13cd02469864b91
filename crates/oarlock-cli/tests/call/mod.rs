//! The binary, called as a user would.

#![allow(clippy::unwrap_used, dead_code, reason = "each test binary uses its part, and fails by panicking")]

use std::process::Output;

/// What a call printed and returned.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Call {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Calls `oarlock` with these arguments and an empty standard input.
pub(crate) fn oarlock(args: &[&str]) -> Call {
    assert_cmd::Command::cargo_bin("oarlock").unwrap().args(args).output().unwrap().into()
}

impl Call {
    /// The one line on standard error, after checking that it is one, and the exit status.
    #[track_caller]
    pub(crate) fn fails(&self, status: i32) -> &str {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.stderr.starts_with("oarlock: ") && self.stderr.matches('\n').count() == 1, "{self:?}");
        self.stderr.trim_end()
    }
}
