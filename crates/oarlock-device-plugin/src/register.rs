//! The two calls that a plugin makes itself: to its own socket, to see that it answers, and to kubelet's.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::proto::v1beta1::device_plugin_client::DevicePluginClient;
use crate::proto::v1beta1::registration_client::RegistrationClient;
use crate::proto::v1beta1::{Empty, RegisterRequest};
use crate::resource_name::ResourceName;
use crate::service::OPTIONS;

/// The only version that kubelet takes.
const VERSION: &str = "v1beta1";

const SELF_DIAL_WITHIN: Duration = Duration::from_secs(5);

/// kubelet dials back before it answers, and allows itself 10 s for that.
const REGISTER_WITHIN: Duration = Duration::from_secs(15);

/// Why a call over a unix socket has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("cannot reach {}", path.display())]
    Unreachable { path: PathBuf, source: Box<dyn Error + Send + Sync> },
    #[error("{} says: {} ({:?})", path.display(), status.message(), status.code())]
    Refused { path: PathBuf, status: Box<tonic::Status> },
}

/// A channel to a unix socket, connected.
pub(crate) async fn dial(path: &Path, within: Duration) -> Result<Channel, CallError> {
    let unreachable = |source: Box<dyn Error + Send + Sync>| CallError::Unreachable { path: path.to_owned(), source };
    let text = path.to_str().ok_or_else(|| unreachable("the path is not UTF-8".into()))?;
    let endpoint = Endpoint::from_shared(format!("unix://{text}")).map_err(|error| unreachable(error.into()))?;
    endpoint.connect_timeout(within).timeout(within).connect().await.map_err(|error| unreachable(innermost(error)))
}

/// The transport's own words say only that there was an error.
fn innermost(error: tonic::transport::Error) -> Box<dyn Error + Send + Sync> {
    let mut cause: &(dyn Error + 'static) = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
        Some(code) => Box::new(std::io::Error::from_raw_os_error(code)),
        None => Box::new(error),
    }
}

/// Sees that the own socket answers.
pub(crate) async fn self_dial(socket: &Path) -> Result<(), CallError> {
    let mut client = DevicePluginClient::new(dial(socket, SELF_DIAL_WITHIN).await?);
    match client.get_device_plugin_options(Empty {}).await {
        Ok(_) => Ok(()),
        Err(status) => Err(CallError::Refused { path: socket.to_owned(), status: Box::new(status) }),
    }
}

/// Tells kubelet about the resource that `endpoint`, a socket beside kubelet's own, serves.
pub(crate) async fn register(kubelet: &Path, resource: &ResourceName, endpoint: String) -> Result<(), CallError> {
    let mut client = RegistrationClient::new(dial(kubelet, REGISTER_WITHIN).await?);
    let request = RegisterRequest {
        version: VERSION.to_owned(),
        endpoint,
        resource_name: resource.to_string(),
        options: Some(OPTIONS),
    };
    match client.register(request).await {
        Ok(_) => Ok(()),
        Err(status) => Err(CallError::Refused { path: kubelet.to_owned(), status: Box::new(status) }),
    }
}
