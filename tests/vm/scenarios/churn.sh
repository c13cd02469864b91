# Fifty pods that come and go leave nothing behind: no cgroup, no entry of the ledger, no memory of the agent's.
. "$VM/report.sh"
. "$VM/ranks.sh"
. "$VM/node.sh"
. "$VM/pod.sh"

PODS=50
RESERVED_CPUS=
LAST=$((RANKS - 1))
RANKS_ON="$(entry 0 "$RANKS_ON") $(entry "$LAST" "$RANKS_ON")"
trap 'keep_logs "$RUNTIME" agent' EXIT

start_runtime
start_agent
passes "the agent knows what runs" have_synchronised 0
pod=1
while [ "$pod" -le "$PODS" ]; do
    put_sandbox "pod$pod" '"oarlock.dev/cpu-map":"auto","oarlock.dev/mem-map":"auto"'
    put_container "pod$pod" main "0 $LAST" "\"launch\",\"2\",$RANK"
    passes "pod $pod: its ranks are held" are_held "pod$pod" 2
    remove_pod_now "pod$pod"
    [ "$pod" != 10 ] || early=$(status_of "$agent" VmRSS)
    pod=$((pod + 1))
done
passes "no cgroup of a rank is left" are_rank_cgroups 0
check "no cgroup of a pod is left" "" "$(find /sys/fs/cgroup -type d -name '*pod_*')"
check "no entry of the ledger is left" "" "$(ls /run/oarlock/ledger)"
late=$(status_of "$agent" VmRSS)
say "resident memory of the agent: $early after 10 pods, $late after $PODS"
# Its allocator rounds, and asks for more in larger pieces than that a pod could hide in.
check "the agent does not grow" yes "$([ $((${late% kB} - ${early% kB})) -lt 1024 ] && echo yes)"
