# A real kubelet over a real containerd, with Oarlock's agent beside it: what pods ask for is what they get, on one node,
# and whoever dies keeps it so. Oarlock's own client asks kubelet what it gave; its checkpoint and the containers are
# further witnesses.
. "$VM/report.sh"
. "$VM/node.sh"

# keep_logs: what the node's programs said, for whoever looks for a reason.
keep_logs() {
    for log in containerd kubelet agent; do
        [ -s "/tmp/$log.log" ] || continue
        gzip -c "/tmp/$log.log" >"/tmp/$log.log.gz"
        send "$log.log.gz" "/tmp/$log.log.gz"
    done
}
trap keep_logs EXIT

# passes NAME COMMAND...: the command succeeds within two minutes.
passes() {
    name=$1
    shift
    began=$(uptime_seconds)
    seen="not within 120 s"
    if await 120 "$@"; then seen=yes; fi
    check "$name ($(($(uptime_seconds) - began)) s)" yes "$seen"
}

# check_pod WHO POD: four GPUs of one node, and CPUs of the same.
check_pod() {
    passes "$1: the pod has 4 gpus" holds "$2" 4
    held "$2" >/tmp/held
    node=$(cut -d' ' -f2 /tmp/held | head -n 1)
    check "$1: all 4 on one node" "4x$node" "$(nodes_among </tmp/held)"
    cpus=$(cpus_held "$2")
    say "$1: gpus $(ids_among </tmp/held), node $node, cpus $cpus"
    check "$1: it has 2 cpus" 2 "$(each_of "$cpus" | wc -l)"
    check "$1: of the same node" "" "$(each_of "$cpus" | grep -v -x -F "$(each_of "$(cpus_of "$node")")" || true)"
    for id in $(ids_among </tmp/held); do
        grep -q "$id" "$KUBELET_ROOT/device-plugins/kubelet_internal_checkpoint" || echo "$id"
    done >/tmp/unknown
    check "$1: kubelet's checkpoint has them" "" "$(cat /tmp/unknown)"
    passes "$1: the container runs" has_a_process "$2"
    process=$(process_of "$2")
    check "$1: the container is told of its gpus" "$(ids_among </tmp/held)" "$(variable_of "$process" OARLOCK_GPUS)"
    check "$1: and of their node" "$node" "$(variable_of "$process" OARLOCK_NUMA_NODES)"
}

has_a_process() {
    [ -n "$(process_of "$1")" ]
}

start_runtime
say "containerd is up after $(uptime_seconds) s: $(ctr version | sed -n 's/.*Version: *//p' | tail -n1)"
start_agent
start_kubelet single-numa-node
passes "8 gpus are allocatable" allocatable_are 8
say "kubelet is up after $(uptime_seconds) s: $(kubelet --version)"
check "4 of them on each node" "4x0 4x1" "$(allocatable | nodes_among)"

put_pod first 4
check_pod single-numa-node first
cp /tmp/held /tmp/held-first
ran_as=$process

kill -9 "$kubelet"
wait "$kubelet" || true
start_kubelet single-numa-node
passes "kubelet killed: it has 8 gpus again" allocatable_are 8
check "kubelet killed: the pod has what it had" "$(cat /tmp/held-first)" "$(held first)"
check "kubelet killed: its container went on" "$ran_as" "$(process_of first)"

kill -9 "$agent"
wait "$agent" || true
passes "agent killed: kubelet gives nothing away" allocatable_are 0
start_agent
passes "agent killed: it is registered again with 8 gpus" allocatable_are 8
check "agent killed: the pod has what it had" "$(cat /tmp/held-first)" "$(held first)"
check "agent killed: its container went on" "$ran_as" "$(process_of first)"

allocatable >/tmp/before
for failure in 'lost 3' 'xid 6 79'; do
    echo "$failure" >>/tmp/control
    passes "$failure: one gpu less" allocatable_are 7
    allocatable >/tmp/after
    say "$failure: lacks $(diff /tmp/before /tmp/after | sed -n 's/^[-+]\([^-+]\)/\1/p')"
    [ "$failure" != "lost 3" ] || echo 'back 3' >>/tmp/control
    passes "$failure: it comes back" allocatable_are 8
    check "$failure: the same as before" "$(cat /tmp/before)" "$(allocatable)"
done

kill -9 "$kubelet"
wait "$kubelet" || true
# Nobody sees it go.
remove_pod first
put_pod single 1
start_kubelet best-effort
passes "best-effort: a pod has 1 gpu" holds single 1
passes "best-effort: the pod removed meanwhile holds nothing" holds first 0
put_pod second 4
check_pod best-effort second
check "best-effort: not on the node of the single one" no \
    "$([ "$(held single | cut -d' ' -f2)" = "$node" ] && echo yes || echo no)"
