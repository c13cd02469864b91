//! The program, called as runtimes call it, on a host made of files.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod conformance;
mod host;
mod install;
mod stages;
mod wrapper;
