//! The messages that kubelet sends to a container runtime, generated from `proto/` by `cargo xtask generate`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]

/// CRI.
#[rustfmt::skip]
pub mod v1;
