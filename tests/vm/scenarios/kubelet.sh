# A real kubelet on a real containerd, with Oarlock's agent beside it.
. "$VM/report.sh"
. "$VM/node.sh"

# whatever_happens: what the node's programs said, for whoever looks for a reason.
whatever_happens() {
    for log in containerd kubelet agent; do
        [ ! -s "/tmp/$log.log" ] || { tail -n 3000 "/tmp/$log.log" | gzip >"/tmp/$log.log.gz"; send "$log.log.gz" "/tmp/$log.log.gz"; }
    done
}
trap whatever_happens EXIT

start_runtime
say "containerd is up after $(uptime_seconds) s: $(ctr version | sed -n 's/.*Version: *//p' | tail -n1)"
start_kubelet single-numa-node
check "kubelet's pod-resources socket" yes "$(await 180 test -S $KUBELET_ROOT/pod-resources/kubelet.sock && echo yes)"
say "kubelet is up after $(uptime_seconds) s"
put_pod probe 0
sleep 60
wget -q -O - http://127.0.0.1:10255/pods >/tmp/pods.json || true
send pods.json /tmp/pods.json
ctr -n k8s.io containers ls >/tmp/containers
send containers.txt /tmp/containers
pods_running=$(ctr -n k8s.io tasks ls | grep -c RUNNING || true)
check "tasks running" 2 "$pods_running"
