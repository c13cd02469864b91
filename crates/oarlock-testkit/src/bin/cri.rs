//! What kubelet asks of a container runtime, for scripts. Configurations are CRI's messages as JSON, in files.
//!
//! ```text
//! cri version                            the runtime's name and version
//! cri run-pod POD.json                   prints the sandbox
//! cri create SANDBOX CONTAINER.json POD.json      prints the container
//! cri start CONTAINER
//! cri state CONTAINER                    created | running PID | exited STATUS REASON | unknown
//! cri update CONTAINER RESOURCES.json
//! cri exec CONTAINER COMMAND...          prints what it says, and fails as it does
//! cri stop CONTAINER SECONDS
//! cri remove CONTAINER
//! cri stop-pod SANDBOX
//! cri remove-pod SANDBOX
//! cri pods                               SANDBOX NAME, a line each
//! cri containers                         CONTAINER NAME SANDBOX, a line each
//! ```
//!
//! `$CRI_SOCKET` is the runtime's socket, and `$CRI_HANDLER` one of its runtimes; both may be left out.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use oarlock_testkit::cri::v1::{
    ContainerRequest, ContainerStatusRequest, CreateContainerRequest, ExecSyncRequest, ListRequest, PodSandboxRequest,
    RunPodSandboxRequest, StopContainerRequest, UpdateContainerResourcesRequest, VersionRequest,
    runtime_service_client::RuntimeServiceClient,
};
use serde::de::DeserializeOwned;
use tonic::transport::Endpoint;

const SOCKET: &str = "/run/containerd/containerd.sock";
/// kubelet's own patience is two minutes, on hosts that are not emulated.
const PATIENCE: Duration = Duration::from_secs(240);
const USAGE: &str = "usage: cri version | run-pod POD.json | create SANDBOX CONTAINER.json POD.json | start CONTAINER | \
    state CONTAINER | update CONTAINER RESOURCES.json | exec CONTAINER COMMAND... | stop CONTAINER SECONDS | remove CONTAINER | \
    stop-pod SANDBOX | remove-pod SANDBOX | pods | containers";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match ask(&words).await {
        Ok(answer) => {
            print!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            // A status of gRPC prints as its fields.
            let text = error.downcast_ref::<tonic::Status>().map_or(error.to_string(), |s| s.message().to_owned());
            eprintln!("cri: {text}");
            ExitCode::FAILURE
        }
    }
}

/// Does what the words ask for, and gives what is to be printed.
async fn ask(words: &[&str]) -> Result<String, Box<dyn Error>> {
    let socket = std::env::var("CRI_SOCKET").unwrap_or_else(|_| SOCKET.to_owned());
    let endpoint = Endpoint::from_shared(format!("unix://{socket}"))?.timeout(PATIENCE);
    let channel = endpoint.connect().await.map_err(|error| format!("cannot reach {socket}: {error}"))?;
    let mut runtime = RuntimeServiceClient::new(channel);
    let mut answer = String::new();
    match *words {
        ["version"] => {
            let version = runtime.version(VersionRequest::default()).await?.into_inner();
            answer = format!("{} {}\n", version.runtime_name, version.runtime_version);
        }
        ["run-pod", pod] => {
            let runtime_handler = std::env::var("CRI_HANDLER").unwrap_or_default();
            let request = RunPodSandboxRequest { config: Some(read(pod)?), runtime_handler };
            answer = runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id + "\n";
        }
        ["create", sandbox, container, pod] => {
            let request = CreateContainerRequest {
                pod_sandbox_id: sandbox.to_owned(),
                config: Some(read(container)?),
                sandbox_config: Some(read(pod)?),
            };
            answer = runtime.create_container(request).await?.into_inner().container_id + "\n";
        }
        ["start", container] => {
            runtime.start_container(ContainerRequest { container_id: container.to_owned() }).await?;
        }
        ["state", container] => {
            let request = ContainerStatusRequest { container_id: container.to_owned(), verbose: true };
            let response = runtime.container_status(request).await?.into_inner();
            let status = response.status.unwrap_or_default();
            answer = match status.state {
                0 => "created\n".to_owned(),
                1 => format!("running {}\n", process(response.info.get("info").map_or("", String::as_str))?),
                2 => format!("exited {} {}\n", status.exit_code, status.reason),
                _ => "unknown\n".to_owned(),
            };
        }
        ["update", container, resources] => {
            let request =
                UpdateContainerResourcesRequest { container_id: container.to_owned(), linux: Some(read(resources)?) };
            runtime.update_container_resources(request).await?;
        }
        ["exec", container, ref command @ ..] => {
            let request = ExecSyncRequest {
                container_id: container.to_owned(),
                cmd: command.iter().map(|&word| word.to_owned()).collect(),
                timeout: 0,
            };
            let done = runtime.exec_sync(request).await?.into_inner();
            answer = String::from_utf8(done.stdout)?;
            if done.exit_code != 0 {
                let said = String::from_utf8(done.stderr)?;
                return Err(format!("{answer}{said}it ended with status {}", done.exit_code).into());
            }
        }
        ["stop", container, seconds] => {
            let request = StopContainerRequest { container_id: container.to_owned(), timeout: seconds.parse()? };
            runtime.stop_container(request).await?;
        }
        ["remove", container] => {
            runtime.remove_container(ContainerRequest { container_id: container.to_owned() }).await?;
        }
        ["stop-pod", sandbox] => {
            runtime.stop_pod_sandbox(PodSandboxRequest { pod_sandbox_id: sandbox.to_owned() }).await?;
        }
        ["remove-pod", sandbox] => {
            runtime.remove_pod_sandbox(PodSandboxRequest { pod_sandbox_id: sandbox.to_owned() }).await?;
        }
        ["pods"] => {
            for pod in runtime.list_pod_sandbox(ListRequest {}).await?.into_inner().items {
                writeln!(answer, "{} {}", pod.id, pod.metadata.unwrap_or_default().name)?;
            }
        }
        ["containers"] => {
            for one in runtime.list_containers(ListRequest {}).await?.into_inner().containers {
                writeln!(answer, "{} {} {}", one.id, one.metadata.unwrap_or_default().name, one.pod_sandbox_id)?;
            }
        }
        _ => return Err(USAGE.into()),
    }
    Ok(answer)
}

fn read<T: DeserializeOwned>(path: &str) -> Result<T, Box<dyn Error>> {
    let text = fs::read(Path::new(path)).map_err(|error| format!("cannot read {path}: {error}"))?;
    serde_json::from_slice(&text).map_err(|error| format!("{path} is no such message: {error}").into())
}

/// The first process of a container, from what runtimes tell beside its status.
fn process(info: &str) -> Result<u64, Box<dyn Error>> {
    let info: serde_json::Value = serde_json::from_str(info).map_err(|error| format!("no JSON in info: {error}"))?;
    info["pid"].as_u64().ok_or_else(|| "the runtime tells no pid".into())
}
