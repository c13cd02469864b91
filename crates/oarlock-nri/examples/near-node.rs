//! Puts every container whose pod says `example.org/node: 1` on the CPUs and the memory of NUMA node 1.
//!
//! `near-node [SOCKET]`, as root, beside a container runtime.

use std::error::Error;
use std::fs;
use std::sync::Arc;

use oarlock_nri::proto::{
    Container, ContainerAdjustment, CreateContainerResponse, Event, LinuxContainerAdjustment, LinuxCpu, LinuxResources,
    PodSandbox,
};
use oarlock_nri::{Configuration, Events, HandlerError, Identity, Lost, Plugin, Runtime, Settings, run};
use tokio_util::sync::CancellationToken;

struct NearNode;

impl Plugin for NearNode {
    fn events(&self) -> Events {
        Events::from([Event::CreateContainer])
    }

    async fn configure(&self, _: Runtime, configuration: Configuration) -> Result<(), HandlerError> {
        println!("{configuration:?}");
        Ok(())
    }

    fn lost(&self, why: &Lost) {
        eprintln!("{why}");
    }

    async fn create_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<CreateContainerResponse, HandlerError> {
        let Some(node) = pod.annotations.get("example.org/node") else {
            return Ok(CreateContainerResponse::default());
        };
        let node: u16 = node.parse().map_err(|error| format!("example.org/node: {node:?} is no node: {error}"))?;
        // An error here fails the creation, with these words in the pod's events.
        let file = format!("/sys/devices/system/node/node{node}/cpulist");
        let cpus = fs::read_to_string(&file).map_err(|error| format!("cannot read {file}: {error}"))?;
        println!("{}/{}/{} → node {node}", pod.namespace, pod.name, container.name);

        let cpu = LinuxCpu { cpus: cpus.trim().to_owned(), mems: node.to_string(), ..LinuxCpu::default() };
        let resources = Some(LinuxResources { cpu: Some(cpu), ..LinuxResources::default() });
        let linux = Some(LinuxContainerAdjustment { resources, ..LinuxContainerAdjustment::default() });
        let adjust = Some(ContainerAdjustment { linux, ..ContainerAdjustment::default() });
        Ok(CreateContainerResponse { adjust, ..CreateContainerResponse::default() })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut settings = Settings::new(Identity::new("50", "near-node")?);
    if let Some(socket) = std::env::args_os().nth(1) {
        settings.socket = socket.into();
    }
    run(&settings, Arc::new(NearNode), &CancellationToken::new()).await;
    Ok(())
}
