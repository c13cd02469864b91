# A pod to which a real kubelet gave a NUMA node has it for itself: others are kept off its CPUs, and get them back.
. "$VM/report.sh"
. "$VM/ranks.sh"
. "$VM/node.sh"
. "$VM/pod.sh"
trap 'keep_logs "$RUNTIME" kubelet agent' EXIT

# has_cpus POD CPUS: whether its process may use these.
has_cpus() {
    [ "$(status_of "$(process_of "$1")" Cpus_allowed_list)" = "$2" ]
}

ALL_CPUS=$(cat /sys/devices/system/cpu/online)
RESERVED_CPUS=
start_runtime
start_agent
start_kubelet best-effort none
passes "8 gpus are allocatable" allocatable_are 8
put_pod other gpu 1
passes "another pod runs" has_a_process other
passes "and may use all cpus" has_cpus other "$ALL_CPUS"

put_pod whole numa-node 1
passes "a pod has a whole node" holds whole 1
passes "its container runs" has_a_process whole
node=$(held whole | cut -d' ' -f2)
passes "on the node's cpus" has_cpus whole "$(cpus_of "$node")"
check "and on its memory" "$node" "$(status_of "$(process_of whole)" Mems_allowed_list)"
passes "the other pod is kept off" has_cpus other "$(cpus_of $((1 - node)))"

# Who dies meanwhile knows all of it again.
kill -9 "$agent" "$kubelet"
wait "$agent" "$kubelet" || true
start_agent
start_kubelet best-effort none
passes "agent and kubelet killed: 8 gpus are allocatable" allocatable_are 8
check "agent and kubelet killed: the pod has its node" "$(cpus_of "$node")" \
    "$(status_of "$(process_of whole)" Cpus_allowed_list)"
check "agent and kubelet killed: the other one has not" "$(cpus_of $((1 - node)))" \
    "$(status_of "$(process_of other)" Cpus_allowed_list)"
oarlock status

remove_pod whole
passes "removed: the other pod has all cpus again" has_cpus other "$ALL_CPUS"
remove_pod other
