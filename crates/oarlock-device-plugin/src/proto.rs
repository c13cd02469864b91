//! The messages and services of kubelet's sockets, generated from `proto/` by `cargo xtask generate`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]

/// The device-plugin API.
#[rustfmt::skip]
pub mod v1beta1;

/// The pod-resources API.
#[rustfmt::skip]
pub mod v1;
