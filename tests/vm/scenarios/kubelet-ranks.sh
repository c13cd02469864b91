# A real kubelet, and annotated pods of its: with its managers of CPUs and memory and without, every rank is held inside what
# kubelet gave, and stays there when kubelet looks again. A pod that holds a node has it for itself.
. "$VM/report.sh"
. "$VM/ranks.sh"
. "$VM/node.sh"
. "$VM/pod.sh"
trap 'keep_logs containerd kubelet agent' EXIT

# put_job NAME CPUS: a pod with all GPUs, this many CPUs, and a rank for each GPU. It has more memory than one node.
put_job() {
    cat >"/tmp/$1.yaml" <<END
apiVersion: v1
kind: Pod
metadata: {name: $1, namespace: default, annotations: {oarlock.dev/cpu-map: auto, oarlock.dev/mem-map: auto}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: localhost/busybox:1
    imagePullPolicy: Never
    command: [launch, "$RANKS", $(echo "$RANK" | sed 's/,/, /g')]
    resources:
      limits: {cpu: "$2", memory: 1700Mi, oarlock.dev/gpu: "$RANKS"}
END
    mv "/tmp/$1.yaml" "$MANIFESTS/$1.yaml"
}

# ranks_here: the ranks that run, as RANK PID, a line each, in order.
ranks_here() {
    for process in $(pidof touch-memory); do
        echo "$(rank_of "$process") $process"
    done | sort -n
}

# stray_from PID CPUS: what the process may use beside these CPUs, or may not of them.
stray_from() {
    each_of "$(status_of "$1" Cpus_allowed_list)" >/tmp/has
    each_of "$2" | sort >/tmp/wanted
    sort /tmp/has | comm -3 - /tmp/wanted | paste -s -d' '
}

# place_of RANK CPUS: those of the CPUs that are on the rank's node, a line each.
place_of() {
    each_of "$(cpus_of "$(entry "$1" "$RANKS_ON")")" >/tmp/of-node
    each_of "$2" | grep -x -F -f /tmp/of-node | paste -s -d,
}

# job_is_held CPUS: whether every rank may use exactly those of these CPUs that are on its node, and its memory is there.
job_is_held() {
    [ "$(ranks_here | wc -l)" = "$RANKS" ] || return 1
    ranks_here | while read -r rank process; do
        [ -z "$(stray_from "$process" "$(place_of "$rank" "$1")")" ] || return 1
        case $(anonymous_mib "$process") in
        *' '*) return 1 ;;
        "$(entry "$rank" "$RANKS_ON"):6"[4-9] | "$(entry "$rank" "$RANKS_ON"):7"*) ;;
        *) return 1 ;;
        esac
    done
}

# check_ranks WHO CPUS: the same, rank by rank.
check_ranks() {
    ranks_here >/tmp/ranks
    check "$1: as many ranks" "$RANKS" "$(wc -l </tmp/ranks)"
    while read -r rank process; do
        node=$(entry "$rank" "$RANKS_ON")
        check "$1: rank $rank on cpus $(place_of "$rank" "$2")" "" "$(stray_from "$process" "$(place_of "$rank" "$2")")"
        check "$1: and on memory of node $node" "$node" "$(anonymous_mib "$process" | cut -d: -f1)"
    done </tmp/ranks
}

# is_gone: whether nothing of a job is left.
is_gone() {
    [ -z "$(pidof touch-memory)" ] && are_rank_cgroups 0
}

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

put_job job 4
passes "no manager: every rank is held" job_is_held "$ALL_CPUS"
check_ranks "no manager" "$ALL_CPUS"
check "no manager: kubelet's word is what it was planned by" 8 "$(held job | wc -l)"
remove_pod job
passes "no manager: nothing is left of it" is_gone

# A pod that holds a node is alone on it, and who was there gets everything back.
put_pod other numa-node 0
passes "another pod runs" has_a_process other
passes "and may use all cpus" has_cpus other "$ALL_CPUS"
put_pod whole numa-node 1
passes "a pod has a whole node" holds whole 1
passes "its container runs" has_a_process whole
node=$(held whole | cut -d' ' -f2)
passes "on the node's cpus" has_cpus whole "$(cpus_of "$node")"
check "and on its memory" "$node" "$(status_of "$(process_of whole)" Mems_allowed_list)"
passes "the other pod is kept off" has_cpus other "$(cpus_of $((1 - node)))"
remove_pod whole
passes "and has all cpus again" has_cpus other "$ALL_CPUS"
remove_pod other

kill -9 "$kubelet" "$agent"
wait "$kubelet" "$agent" || true
# Another policy than before is an error to kubelet, unless it has forgotten the one before.
rm -f "$KUBELET_ROOT/cpu_manager_state" "$KUBELET_ROOT/memory_manager_state"
RESERVED_CPUS=0-1
start_agent
start_kubelet best-effort static
passes "static: 8 gpus are allocatable" allocatable_are 8
put_job pinned 12
passes "static: the pod has its gpus" holds pinned 8
given=$(cpus_held pinned)
check "static: kubelet gave it 12 cpus" 12 "$(each_of "$given" | wc -l)"
passes "static: every rank is held inside $given" job_is_held "$given"
check_ranks "static" "$given"
# kubelet compares what it gave with what it knows every ten seconds.
sleep 15
check_ranks "static, later" "$given"

kill -9 "$kubelet"
wait "$kubelet" || true
start_kubelet best-effort static
passes "kubelet killed: 8 gpus are allocatable" allocatable_are 8
check_ranks "kubelet killed" "$given"
seen=0
oarlock verify --all || seen=$?
check "oarlock verify --all finds everything as planned" 0 "$seen"
oarlock status
remove_pod pinned
passes "static: nothing is left of it" is_gone
check "no entry of the ledger is left" "" "$(ls /run/oarlock/ledger)"
