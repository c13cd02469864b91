# A real kubelet over a real containerd, with Oarlock's agent beside it: what pods ask for is what they get, on one node,
# and whoever dies keeps it so. Oarlock's own client asks kubelet what it gave; its checkpoint and the containers are
# further witnesses.
. "$VM/report.sh"
. "$VM/ranks.sh"
. "$VM/node.sh"

trap 'keep_logs "$RUNTIME" kubelet agent' EXIT

# check_pod WHO POD: four GPUs of one node, and CPUs and memory of the same. Its process is then $process.
check_pod() {
    # What kubelet tells of a pod that it is still admitting may change.
    passes "$1: the container runs" has_a_process "$2"
    passes "$1: the pod has 4 gpus" holds "$2" 4
    held "$2" >held
    node=$(cut -d' ' -f2 held | head -n 1)
    check "$1: all 4 on one node" "4x$node" "$(nodes_among <held)"
    cpus=$(cpus_held "$2")
    say "$1: $(ids_among <held) on node $node, with cpus $cpus"
    check "$1: it has 2 cpus" 2 "$(each_of "$cpus" | wc -l)"
    check "$1: of the same node" "" "$(each_of "$cpus" | grep -v -x -F "$(each_of "$(cpus_of "$node")")" || true)"
    check "$1: kubelet's checkpoint has the gpus" "$(ids_among <held)" "$(checkpointed held | ids_among)"
    process=$(process_of "$2")
    check "$1: the kernel keeps it on these cpus" "$cpus" "$(status_of "$process" Cpus_allowed_list)"
    check "$1: and on the node's memory" "$node" "$(status_of "$process" Mems_allowed_list)"
    check "$1: it is told of its gpus" "$(ids_among <held)" "$(sorted_variable_of "$process" OARLOCK_GPUS)"
}

# checkpointed FILE: the lines of the file whose ids kubelet has written down.
checkpointed() {
    while read -r id rest; do
        ! grep -q "$id" "$KUBELET_ROOT/device-plugins/kubelet_internal_checkpoint" || echo "$id $rest"
    done <"$1"
}

# check_as_before WHO: the first pod has what it had, and was not touched.
check_as_before() {
    passes "$1: 8 gpus are allocatable again" allocatable_are 8
    # A kubelet that has just started tells of a pod once it has admitted it again.
    passes "$1: the pod has what it had" holds_as first held-first
    check "$1: its container went on" "$first" "$(process_of first)"
}

start_runtime
say "$(cri version): up after $(uptime_seconds) s"
start_agent
start_kubelet single-numa-node
passes "8 gpus are allocatable" allocatable_are 8
say "kubelet is up after $(uptime_seconds) s: $(kubelet --version)"
check "4 gpus on each node" "4x0 4x1" "$(allocatable gpu | nodes_among)"
check "and each node once" "1x0 1x1" "$(allocatable numa-node | nodes_among)"

put_pod first gpu 4
check_pod single-numa-node first
cp held held-first
first=$process
put_pod too-much gpu 5
passes "single-numa-node: 5 gpus are on no node, and refused" refused too-much TopologyAffinityError
remove_pod too-much

kill -9 "$kubelet"
wait "$kubelet" || true
start_kubelet single-numa-node
check_as_before "kubelet killed"

kill -9 "$agent"
wait "$agent" || true
passes "agent killed: kubelet gives nothing away" allocatable_are 0
start_agent
check_as_before "agent killed"

kill -9 "$first"
passes "container killed: it runs again" has_another_process first "$first"
first=$(process_of first)
check_as_before "container killed"
check "container killed: it is told of the same gpus" "$(ids_among <held-first)" "$(sorted_variable_of "$first" OARLOCK_GPUS)"

# An agent that stands still keeps its stream open: kubelet chooses a node, and asks the agent for the GPUs.
kill -STOP "$agent"
put_pod unlucky gpu 4
passes "agent stopped: kubelet asks it for a pod's gpus" grep -q 'Best TopologyHint.*unlucky' /tmp/kubelet.log
sleep 2
kill -9 "$agent"
wait "$agent" || true
passes "agent killed in Allocate: the pod is refused" refused unlucky UnexpectedAdmissionError
remove_pod unlucky
start_agent
check_as_before "agent killed in Allocate"
put_pod lucky gpu 4
check_pod "the next pod after that" lucky
remove_pod lucky

# One GPU that the first pod holds, and one that it does not.
allocatable gpu >before
ours=$(grep -n -x -F -f held-first before | head -n 1 | cut -d: -f1)
other=$(grep -n -v -x -F -f held-first before | head -n 1 | cut -d: -f1)
for failure in "lost $((ours - 1))" "xid $((other - 1)) 94"; do
    echo "$failure" >>/tmp/control
    passes "$failure: 7 gpus are allocatable" allocatable_are 7
    allocatable gpu >after
    gpu=$(($(echo "$failure" | cut -d' ' -f2) + 1))
    check "$failure: it is that gpu" "$(sed -n "${gpu}p" before)" "$(grep -v -x -F -f after before)"
    if [ "$gpu" = "$ours" ]; then
        id=$(sed -n "${gpu}p" before | cut -d' ' -f1)
        passes "$failure: the pod's status says so" told_health first "$id" Unhealthy
        echo "back $((gpu - 1))" >>/tmp/control
        passes "$failure: and that it is over" told_health first "$id" Healthy
    fi
    check_as_before "$failure"
done

# After this error probes alone say nothing. A GPU that recovers from a lesser one shows that there were enough of them.
echo "xid $((other - 1)) 79" >>/tmp/control
passes "XID 79: 7 gpus are allocatable" allocatable_are 7
echo "xid $((ours - 1)) 94" >>/tmp/control
passes "XID 79: 6 with another that fails" allocatable_are 6
passes "XID 79: the other recovers" allocatable_are 7
check "XID 79: it stays" "$(sed -n "${other}p" before)" "$(allocatable gpu | grep -v -x -F -f - before)"
echo "lost $((other - 1))" >>/tmp/control
id=$(sed -n "${other}p" before | cut -d' ' -f1)
passes "XID 79: the agent sees it away" grep -q "the gpu is lost.*device=$id" /tmp/agent.log
echo "back $((other - 1))" >>/tmp/control
check_as_before "XID 79, and it was away"

kill -9 "$kubelet" "$agent"
wait "$kubelet" "$agent" || true
start_agent
start_kubelet single-numa-node
check_as_before "kubelet and agent killed together"

kill -9 "$runtime" "$kubelet" "$agent"
wait "$runtime" "$kubelet" "$agent" || true
run_runtime
start_kubelet single-numa-node
start_agent
check_as_before "everything killed together"

# A pod that has done its work keeps its end, also where kubelet starts without the plugin whose GPU it had.
put_pod done gpu 1 true Never
passes "a pod has done its work" has_succeeded done
kill "$agent"
wait "$agent" && ended=0 || ended=$?
check "agent told to stop: it ends well" 0 "$ended"
check "agent told to stop: it leaves no socket" "" "$(ls "$KUBELET_ROOT/device-plugins" | grep '^oarlock' || true)"
passes "agent told to stop: kubelet gives nothing away" allocatable_are 0
kill -9 "$kubelet"
wait "$kubelet" || true
start_kubelet single-numa-node
passes "kubelet without the agent: it has come to know the pod again" has_succeeded done
sleep 10
check "kubelet without the agent: the pod is not admitted once more" yes "$(has_succeeded done && echo yes)"
remove_pod done

# The ways to give a GPU that need no vendor's runtime: its device node, and a name in a CDI specification.
mknod /dev/nvidiactl c 195 255
mknod /dev/nvidia-uvm c 511 0
mkdir -p /var/run/cdi
devices=
for index in 0 1 2 3 4 5 6 7; do
    mknod "/dev/nvidia$index" c 195 "$index"
    id=$(sed -n "$((index + 1))p" before | cut -d' ' -f1)
    devices="$devices${devices:+,}{\"name\":\"$id\",\"containerEdits\":{\"env\":[\"CDI_$index=$id\"]}}"
done
echo "{\"cdiVersion\":\"0.6.0\",\"kind\":\"nvidia.com/gpu\",\"devices\":[$devices]}" >/var/run/cdi/gpus.json
start_agent device-specs,cdi-cri
check_as_before "agent told to stop"
put_pod given gpu 2
passes "device-specs, cdi-cri: the container runs" has_a_process given
process=$(process_of given)
held given >held
for index in 0 1 2 3 4 5 6 7; do
    id=$(sed -n "$((index + 1))p" before | cut -d' ' -f1)
    if grep -q "^$id " held; then
        expected="$id, there, No such device or address"
    else
        expected=", , Operation not permitted"
    fi
    there=
    [ ! -c "/proc/$process/root/dev/nvidia$index" ] || there=there
    check "device-specs, cdi-cri: what the container has of gpu $index" "$expected" \
        "$(variable_of "$process" "CDI_$index"), $there, $(opening "$process" "/dev/nvidia$index")"
done
remove_pod given

put_pod whole numa-node 1
passes "a pod has a whole node" holds whole 1
passes "its container runs" has_a_process whole
check "it is told of its node" "$(held whole | cut -d' ' -f2)" "$(variable_of "$(process_of whole)" OARLOCK_NUMA_NODES)"

kill -9 "$kubelet"
wait "$kubelet" || true
# Nobody sees them go.
remove_pod first
remove_pod whole
start_kubelet best-effort
passes "best-effort: pods removed meanwhile hold nothing" holds first 0
put_pod single gpu 1
passes "best-effort: a pod has 1 gpu" holds single 1
beside=$(held single | cut -d' ' -f2)
put_pod second gpu 4
check_pod best-effort second
check "best-effort: 4 gpus are on the other node than the single one" "4x$((1 - beside))" "$(held second | nodes_among)"
