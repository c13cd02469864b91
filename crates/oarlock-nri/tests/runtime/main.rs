//! Plugins before a runtime that behaves as containerd does.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod changes;
mod endings;
mod events;
mod peers;
mod plugin;
mod registration;
mod updates;
