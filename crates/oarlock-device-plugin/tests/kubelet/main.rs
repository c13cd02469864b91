//! The plugin before a kubelet that behaves as the real one does, and before peers that do not.
#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod allocation;
mod authority;
mod contender;
mod devices;
mod folder;
mod peers;
mod plugin;
mod pod_resources;
mod registration;
