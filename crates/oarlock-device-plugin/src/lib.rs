//! Kubelet's side: a device plugin for one resource or several, and what kubelet says it gave to whom.
//!
//! This crate speaks the protocols and decides nothing about placement by itself: a [`Backend`] holds the devices and
//! answers for them. [`serve`] does the rest: socket, registration, and all that a host does to them.

pub mod advertise;
pub mod allocate;
mod backend;
mod connection;
mod folder;
pub mod health;
pub mod paths;
pub mod pod_resources;
pub mod prefer;
pub mod proto;
mod register;
pub mod resource_name;
mod serve;
mod service;
mod socket;
mod state;
mod stream;

pub use backend::{AllocateError, Allocation, Backend, Device};
pub use paths::KubeletPaths;
pub use resource_name::{ResourceName, ResourceNameError};
pub use serve::{PluginError, serve};
pub use state::{Phase, State};
