//! The messages of NRI, generated from `proto/` by `cargo xtask generate`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]

#[rustfmt::skip]
mod v1alpha1;

pub use v1alpha1::*;
