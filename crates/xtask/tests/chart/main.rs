//! The chart, rendered by the real helm with all sorts of values, and what comes out of it.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod admission;
#[path = "../../src/vm/api_server.rs"]
#[expect(dead_code, reason = "the emulated machines use all of it")]
mod api_server;
mod helm;
mod hook;
mod objects;
mod own_host;
mod privileges;
mod refusals;
mod server;
