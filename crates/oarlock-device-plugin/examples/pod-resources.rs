//! What kubelet tells about its devices, a line each, for scripts:
//!
//! `allocatable RESOURCE ID NODES` for each healthy device, and `held NAMESPACE POD CONTAINER RESOURCE ID NODES` and
//! `cpus NAMESPACE POD CONTAINER LIST` for each container. A node list is `-` where it is empty.

use std::error::Error;
use std::time::Duration;

use oarlock_core::NodeSet;
use oarlock_device_plugin::KubeletPaths;
use oarlock_device_plugin::pod_resources::{HeldDevices, PodResources};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let root = std::env::args_os().nth(1).ok_or("usage: pod-resources KUBELET_ROOT")?;
    let kubelet = PodResources::new(&KubeletPaths::new(root));
    for devices in kubelet.allocatable().await?.devices {
        print("allocatable", &devices);
    }
    for container in kubelet.containers(Duration::ZERO).await?.iter() {
        let name = format!("{} {} {}", container.namespace, container.pod, container.container);
        for devices in &container.devices {
            print(&format!("held {name}"), devices);
        }
        if !container.cpus.is_empty() {
            println!("cpus {name} {}", container.cpus);
        }
    }
    Ok(())
}

fn print(what: &str, devices: &HeldDevices) {
    for id in &devices.ids {
        println!("{what} {} {id} {}", devices.resource, nodes(&devices.nodes));
    }
}

fn nodes(nodes: &NodeSet) -> String {
    if nodes.is_empty() { "-".to_owned() } else { nodes.to_string() }
}
