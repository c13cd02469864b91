# Annotated pods under a real kubelet, with its CPU Manager off and on: every rank is on the CPUs of its GPU's node that
# kubelet left to its container, and kubelet's rewriting of cpusets, every ten seconds, moves none of them.
. "$VM/report.sh"
. "$VM/ranks.sh"
. "$VM/node.sh"
. "$VM/pod.sh"

trap 'keep_logs "$RUNTIME" kubelet agent' EXIT

# put_ranks POD CPUS MEMORY: a pod with all GPUs of the host and a rank for each.
put_ranks() {
    has="{cpu: \"$2\", memory: $3, oarlock.dev/gpu: \"$RANKS\"}"
    rank_pod "$1" "oarlock.dev/cpu-map: auto, oarlock.dev/mem-map: auto" "requests: $has, limits: $has" >"/tmp/$1.yaml"
    mv "/tmp/$1.yaml" "$MANIFESTS/$1.yaml"
}

# What is reserved is nobody's.
first_node_cpus=$(each_of "$NODE_0_CPUS" | grep -v -x -F "$(each_of "$RESERVED_CPUS")")
NODE_0_CPUS=$(echo "$first_node_cpus" | head -n 1)-$(echo "$first_node_cpus" | tail -n 1)

start_runtime
start_agent
for manager in none static; do
    start_kubelet best-effort $manager
    passes "$manager: 8 gpus are allocatable" allocatable_are 8
    say "$manager: kubelet is up after $(uptime_seconds) s"
    # More than one node has: CPUs and memory are of both.
    put_ranks "ranks-$manager" 14 2000Mi
    passes "$manager: every rank has its cgroup" are_in_their_cgroups "ranks-$manager"
    check_ranks "$manager" "ranks-$manager"
    ranks_in "ranks-$manager" >before
    sleep 25
    check "$manager, 25 s later: the same ranks" "$(cat before)" "$(ranks_in "ranks-$manager")"
    check_ranks "$manager, 25 s later" "ranks-$manager"
    container=$(dirname "$(cgroup_of "$(head -n 1 before | cut -d' ' -f2)")")
    check "$manager: kubelet gave it cpus of its own" "$([ $manager = none ] || echo 2-15)" \
        "$(cpus_held "ranks-$manager")"
    say "$manager: the container's cpuset is $(cat "$container/cpuset.cpus")"
    remove_pod "ranks-$manager"
    passes "$manager: removed, no cgroup of a rank is left" are_rank_cgroups 0
    kill -9 "$kubelet"
    wait "$kubelet" || true
    # It would not start under another policy than it has written down.
    rm "$KUBELET_ROOT/cpu_manager_state"
done
