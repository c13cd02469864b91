//! Plugins for the Node Resource Interface (NRI) of containerd and CRI-O: they see every pod and container of a host as
//! it is made, changed and removed, and may change it.
//!
//! A plugin is a type that implements [`Plugin`]. [`run`] keeps it connected to a runtime's socket, [`serve`] runs it
//! over a connection that is there already, and a [`Runtime`] changes containers that no event is about.
//!
//! ```no_run
//! use std::sync::Arc;
//! use oarlock_nri::proto::{Container, CreateContainerResponse, Event, PodSandbox};
//! use oarlock_nri::{Events, HandlerError, Identity, Plugin, Settings, run};
//!
//! struct Names;
//!
//! impl Plugin for Names {
//!     fn events(&self) -> Events {
//!         Events::from([Event::CreateContainer])
//!     }
//!
//!     async fn create_container(
//!         &self,
//!         pod: PodSandbox,
//!         container: Container,
//!     ) -> Result<CreateContainerResponse, HandlerError> {
//!         println!("{}/{}: {}", pod.namespace, pod.name, container.name);
//!         Ok(CreateContainerResponse::default())
//!     }
//! }
//!
//! # async fn example() -> Result<(), oarlock_nri::IdentityError> {
//! let settings = Settings::new(Identity::new("10", "names")?);
//! run(&settings, Arc::new(Names), &Default::default()).await;
//! # Ok(())
//! # }
//! ```

mod dispatch;
mod events;
mod identity;
mod lost;
mod mux;
mod plugin;
pub mod proto;
mod run;
mod runtime;
mod session;
mod ttrpc;
mod version;

pub use events::Events;
pub use identity::{Identity, IdentityError};
pub use lost::{Lost, WireError};
pub use plugin::{Configuration, HandlerError, Plugin};
pub use run::{DEFAULT_SOCKET, Settings, run};
pub use runtime::{Runtime, UpdateError};
pub use session::serve;
pub use version::NriVersion;
