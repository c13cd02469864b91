//! The binary, called as a user would.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unused_imports,
    reason = "each test binary uses its part, and fails by panicking"
)]

pub(crate) use oarlock_testkit::Call;

/// Calls `oarlock` with these arguments and an empty standard input.
pub(crate) fn oarlock(args: &[&str]) -> Call {
    assert_cmd::Command::cargo_bin("oarlock").unwrap().args(args).output().unwrap().into()
}
