//! From a shape to QEMU's arguments: a pure function, so that what is booted is what a test can read.

use std::path::Path;

use super::api_server::{HOST, NETWORK};
use super::control_plane::{ADDRESS, GUEST, Ports};
use super::shape::Shape;

/// Files that one boot is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Boot<'a> {
    /// The kernel's image.
    pub(crate) kernel: &'a Path,
    /// The first root.
    pub(crate) initramfs: &'a Path,
    /// A disk that the guest reads, where the scenario needs more than the first root holds.
    pub(crate) disk: Option<&'a Path>,
    /// Where the guest and a control plane on this host reach each other.
    pub(crate) ports: Option<Ports>,
    /// Where the console goes.
    pub(crate) console: &'a Path,
}

/// The arguments of `qemu-system-x86_64`. The console is the guest's first serial port, and its report the second, which
/// is QEMU's standard output.
pub(crate) fn arguments(shape: &Shape, boot: Boot<'_>) -> Vec<String> {
    let mut list = Arguments::default();
    // Emulation alone: no /dev/kvm is asked for, so that CI needs none.
    list.pair("-accel", "tcg,thread=multi");
    list.pair("-machine", "q35");
    // QEMU's AMD topology has no hardware threads without the leaf that TCG lacks; Intel's has.
    list.pair("-cpu", "max,vendor=GenuineIntel");
    list.alone("-nodefaults");
    list.alone("-no-user-config");
    list.pair("-display", "none");
    // A panic ends the guest.
    list.alone("-no-reboot");
    list.pair("-m", format!("{}M", shape.nodes.iter().map(|node| node.memory_mb).sum::<u32>()));
    list.pair(
        "-smp",
        format!(
            "{},sockets={},dies={},cores={},threads={}",
            shape.cpus(),
            shape.sockets,
            shape.dies_per_socket,
            shape.cores_per_die,
            shape.threads_per_core
        ),
    );
    nodes(shape, &mut list);
    gpus(shape, &mut list);
    if let Some(disk) = boot.disk {
        list.pair("-drive", format!("file={},if=none,id=disk,format=raw,readonly=on", disk.display()));
        // Without a bus QEMU would put it below the first expander bridge, between the GPUs.
        list.pair("-device", "virtio-blk-pci,drive=disk,bus=pcie.0");
    }
    if let Some(Ports { api_server, kubelet }) = boot.ports {
        let network = format!("user,id=net,net={NETWORK},host={HOST},restrict=on");
        let server = format!("guestfwd=tcp:{ADDRESS}:443-cmd:busybox nc 127.0.0.1 {api_server}");
        let kubelet = format!("hostfwd=tcp:127.0.0.1:{kubelet}-{GUEST}:{kubelet}");
        list.pair("-netdev", format!("{network},{server},{kubelet}"));
        list.pair("-device", "virtio-net-pci,netdev=net,bus=pcie.0,romfile=");
    }
    list.pair("-kernel", boot.kernel.display().to_string());
    list.pair("-initrd", boot.initramfs.display().to_string());
    // A host with other work gives an emulated timer too few of its ticks, and the kernel would take it for broken.
    // A CPU that has not scheduled for two minutes never will, and a kernel that has lost a thread is none to test on: that
    // is the end, with all CPUs' traces.
    list.pair(
        "-append",
        "console=ttyS0 panic=-1 quiet no_timer_check watchdog_thresh=60 softlockup_panic=1 oops=panic panic_print=0x40",
    );
    list.pair("-serial", format!("file:{}", boot.console.display()));
    list.pair("-serial", "stdio");
    list.0
}

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn alone(&mut self, flag: &str) {
        self.0.push(flag.to_owned());
    }

    fn pair(&mut self, flag: &str, value: impl Into<String>) {
        self.0.push(flag.to_owned());
        self.0.push(value.into());
    }
}

fn nodes(shape: &Shape, list: &mut Arguments) {
    for (id, node) in shape.nodes.iter().enumerate() {
        list.pair("-object", format!("memory-backend-ram,id=memory{id},size={}M", node.memory_mb));
        // QEMU takes one range per `cpus=`.
        let mut parts = vec![format!("node,nodeid={id},memdev=memory{id}")];
        let cpus = node.cpus.to_string();
        parts.extend(cpus.split(',').filter(|range| !range.is_empty()).map(|range| format!("cpus={range}")));
        list.pair("-numa", parts.join(","));
    }
    for (from, row) in shape.distances.iter().enumerate() {
        for (to, distance) in row.iter().enumerate() {
            list.pair("-numa", format!("dist,src={from},dst={to},val={distance}"));
        }
    }
}

fn gpus(shape: &Shape, list: &mut Arguments) {
    let mut gpu = 0;
    for (index, bridge) in shape.bridges().iter().enumerate() {
        let node = bridge.node.map(|node| format!(",numa_node={node}")).unwrap_or_default();
        list.pair("-device", format!("pxb-pcie,id=bridge{index},bus=pcie.0,bus_nr={}{node}", bridge.bus));
        for slot in 0..bridge.gpus {
            list.pair("-device", format!("pcie-root-port,id=port{gpu},bus=bridge{index},chassis={gpu},slot={slot}"));
            // An entropy source is the plainest PCI device there is; it stands for a GPU.
            list.pair("-device", format!("virtio-rng-pci,bus=port{gpu}"));
            gpu += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(shape: &str, disk: Option<&Path>) -> String {
        let shape = Shape::read(&crate::workspace().join(format!("tests/vm/shapes/{shape}.toml"))).unwrap();
        arguments(&shape, Boot { disk, ..plain() }).join(" ")
    }

    fn plain() -> Boot<'static> {
        let path = Path::new;
        Boot { kernel: path("/k"), initramfs: path("/i"), disk: None, ports: None, console: path("/c") }
    }

    #[test]
    fn odd_order_gives_each_bridge_the_node_of_its_gpus() {
        let text = of("odd-order", None);
        for part in [
            "-smp 16,sockets=2,dies=2,cores=2,threads=2",
            "-m 2048M",
            "-numa node,nodeid=2,memdev=memory2,cpus=8-11",
            "-numa dist,src=1,dst=2,val=32",
            "pxb-pcie,id=bridge0,bus=pcie.0,bus_nr=16,numa_node=3 -device pcie-root-port,id=port0,bus=bridge0,chassis=0,slot=0 \
             -device virtio-rng-pci,bus=port0 -device pcie-root-port,id=port1,bus=bridge0,chassis=1,slot=1 ",
            "pxb-pcie,id=bridge1,bus=pcie.0,bus_nr=32,numa_node=1 ",
            "pxb-pcie,id=bridge2,bus=pcie.0,bus_nr=48,numa_node=2 ",
            "pxb-pcie,id=bridge3,bus=pcie.0,bus_nr=64,numa_node=0 ",
        ] {
            assert!(text.contains(part), "{text} should contain {part}");
        }
        assert_eq!(text.matches("virtio-rng-pci").count(), 8);
    }

    #[test]
    fn a_node_without_cpus_has_memory_only() {
        let text = of("memory-only", None);
        assert!(text.contains("-numa node,nodeid=2,memdev=memory2 -numa dist"), "{text}");
    }

    #[test]
    fn a_bridge_of_which_the_firmware_is_silent_has_no_node() {
        assert!(of("one-node", None).contains("pxb-pcie,id=bridge0,bus=pcie.0,bus_nr=16 -device"));
    }

    #[test]
    fn a_disk_hangs_on_the_root_bus_and_is_read_only() {
        let text = of("two-socket", Some(Path::new("/d")));
        assert!(text.contains("file=/d,if=none,id=disk,format=raw,readonly=on"), "{text}");
        assert!(text.contains("virtio-blk-pci,drive=disk,bus=pcie.0"), "{text}");
        assert!(!of("two-socket", None).contains("disk"));
    }

    #[test]
    fn a_guest_and_a_control_plane_of_this_host_reach_each_other_and_nothing_else() {
        let shape = Shape::read(&crate::workspace().join("tests/vm/shapes/two-socket.toml")).unwrap();
        let text =
            arguments(&shape, Boot { ports: Some(Ports { api_server: 6443, kubelet: 7443 }), ..plain() }).join(" ");
        assert!(text.contains("restrict=on,guestfwd=tcp:10.99.0.1:443-cmd:busybox nc 127.0.0.1 6443,"), "{text}");
        assert!(text.contains("hostfwd=tcp:127.0.0.1:7443-10.99.0.15:7443"), "{text}");
        assert!(text.contains("virtio-net-pci,netdev=net,bus=pcie.0"), "{text}");
        assert!(!of("two-socket", None).contains("net"));
    }

    #[test]
    fn nothing_needs_kvm() {
        assert!(of("uneven", None).starts_with("-accel tcg,thread=multi "));
    }
}
