# A whole cluster, whose one node this is; its control plane is on the host. The chart is installed by helm, a pod as a
# PyTorchJob makes it is scheduled and its ranks are bound, the chart is upgraded while they work, and uninstalled.
. "$VM/report.sh"
. "$VM/ranks.sh"
. "$VM/node.sh"
. "$VM/pod.sh"

RESERVED_CPUS=
# To the control plane's host that is where its kubelet is reached.
NODE=localhost
# They give memory back and touch it anew all the time.
RANK='"touch-memory","--mib","64","--threads","2","--hold","100000","--again","5"'
# MiB of it that a rank has all the time.
STILL=32
export KUBECONFIG="$VM/admin.kubeconfig" HOME=/tmp
trap 'agents_log >/tmp/agent.log 2>&1 || true; kubectl get pods,events --all-namespaces || true
keep_logs "$RUNTIME" kubelet agent' EXIT

# agents_log: what all agents have said.
agents_log() {
    cat /var/log/pods/oarlock_oarlock-*/agent/*.log
}

# succeeds NAME COMMAND...: what it says is in the report where it does not.
succeeds() {
    name=$1
    shift
    began=$(uptime_seconds)
    seen=yes
    said=$("$@" 2>&1) || seen=$(echo "$said" | tail -n 5 | paste -s -d'|')
    check "$name ($(($(uptime_seconds) - began)) s)" yes "$seen"
}

# is_ready: whether this node is.
is_ready() {
    [ "$(kubectl get node "$NODE" --output \
        jsonpath='{.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null)" = True ]
}

# kept: what the chart's parts could leave on this host and in the cluster, a line each.
kept() {
    find /etc /opt /usr/local /run/oarlock "$KUBELET_ROOT/device-plugins" /sys/fs/cgroup -name '*oarlock*' 2>/dev/null
    find /run/oarlock -mindepth 1 2>/dev/null
    kubectl get node "$NODE" --show-labels --no-headers | tr ', ' '\n\n' | grep oarlock
    kubectl get clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding,runtimeclass \
        --output name | grep oarlock
    kubectl get all,configmap,secret,serviceaccount,role,rolebinding --namespace oarlock --output name | grep oarlock
}

# has_label KEY VALUE: whether this node has it.
has_label() {
    kubectl get node --selector "$1=$2" --output name | grep -q "/$NODE\$"
}

# put_training POD [ANNOTATION]: with one more annotation.
put_training() {
    rank_pod "$1" "oarlock.dev/cpu-map: auto, oarlock.dev/mem-map: auto${2:+, $2}" | kubectl create --filename -
}

# out_of_place: what is not at its place of the ranks in /tmp/before, a line each. Before Linux 6.6 the kernel takes a page to
# whoever reads a rank's environment, as a new agent does, and that is seen until it is brought home.
out_of_place() {
    while read -r rank process; do
        node=$(entry "$rank" "$RANKS_ON")
        case $(cgroup_of "$process") in
        */"oarlock-rank-$rank") ;;
        *) echo "rank $rank is in $(cgroup_of "$process")" ;;
        esac
        stray=$(stray_threads "$process" "$(cpus_of "$node")")
        [ -z "$stray" ] || echo "rank $rank has threads elsewhere: $stray"
        memory=$(anonymous_mib "$process")
        case $memory in
        *' '*) echo "rank $rank has memory elsewhere: $memory" ;;
        "$node":*) ;;
        *) echo "rank $rank has its memory elsewhere: $memory" ;;
        esac
    done </tmp/before
}

# watch: looks again and again, until /tmp/watching is gone.
watch() {
    while [ -e /tmp/watching ]; do
        out_of_place >>/tmp/strays 2>&1 || true
        echo look >>/tmp/looks
    done
}

# is_told POD REASON: whether there is such an event of the pod.
is_told() {
    kubectl get events --field-selector "involvedObject.name=$1,reason=$2" --output name | grep -q .
}

# placement_of POD: as the agent has written it there.
placement_of() {
    kubectl get pod "$1" --output jsonpath='{.metadata.annotations.oarlock\.dev/placement}'
}

# is_placed POD: whether it is written there.
is_placed() {
    [ -n "$(placement_of "$1")" ]
}

# documented WORDS: the one command of docs/operations.md that has them, done by a shell. What it says is in /tmp/said.
documented() {
    command=$(sed -n 's/^\$ //p' "$VM/operations.md" | grep -F -e "$1")
    seen=0
    sh -c "$command" >/tmp/said 2>&1 || seen=$?
    check "documented: $command" 0 "$seen"
    [ "$seen" = 0 ] || tail -n 5 /tmp/said
}

# says NAME WORDS: whether the last documented command did.
says() {
    check "$1" yes "$(grep -q -e "$2" /tmp/said && echo yes || head -n 5 /tmp/said | paste -s -d'|')"
}

# install: the chart, from nothing.
install() {
    succeeds "helm install" helm install oarlock "$VM/chart" --namespace oarlock --create-namespace \
        --set image.pullPolicy=Never --wait --timeout 6m
}

ip address add 10.99.0.15/24 dev eth0
ip link set eth0 up
passes "the API server answers" kubectl get --raw /readyz
mkdir -p /etc/cni/net.d /opt/cni/bin
# No pod has a network of its own here, and kubelet is told that it could. CRI-O asks the plugin whether it is there.
echo '{"cniVersion":"1.0.0","name":"none","plugins":[{"type":"none"}]}' >/etc/cni/net.d/none.conflist
printf '#!/bin/sh\necho %s\n' "'{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[\"1.0.0\"]}'" >/opt/cni/bin/none
chmod +x /opt/cni/bin/none
start_runtime
load_image "$VM/oarlock.tar"
tag_image docker.io/oarlock/oarlock:0.1.0 docker.io/oarlock/oarlock:next
KUBELET_FLAGS="--kubeconfig=$VM/kubelet.kubeconfig --node-ip=10.99.0.15 --hostname-override=$NODE"
KUBELET_PORT=$(cat "$VM/kubelet.port")
start_kubelet best-effort none
await 240 is_ready || true
passes "the node is ready" is_ready
say "the node is ready after $(uptime_seconds) s"
kept >/tmp/kept-before || true

install
agent=$(pidof oarlock-agent)
refusal=$(put_training wrong "oarlock.dev/mem-policy: strict" 2>&1) || true
check "a malformed annotation is refused where the pod is made" yes \
    "$(echo "$refusal" | grep -q 'oarlock.dev/mem-policy' && echo yes || echo "$refusal")"

passes "schedulers are told of the node's NUMA nodes" has_label oarlock.dev/numa-nodes "2"

put_training train-worker-0
await 240 are_in_their_cgroups train-worker-0 || true
passes "every rank has its cgroup" are_in_their_cgroups train-worker-0
check_ranks "train-worker-0" train-worker-0 "$STILL"
passes "its owner is told" is_told train-worker-0 RanksBound
passes "its places are written on it" is_placed train-worker-0
check "all of them" "$RANKS" "$(placement_of train-worker-0 | grep -o '"mems"' | wc -l)"
ranks_in train-worker-0 >/tmp/before

# What a newcomer looks with.
documented "rollout status"
says "the agents are rolled out" 'successfully rolled out'
documented "oarlock status"
says "status has the pod, and all its ranks bound" "train-worker-0 .* $RANKS  *$RANKS  *$RANKS "
documented "oarlock verify --all"
documented " logs "
says "the agent says that it knows the host's containers" synchronised

: >/tmp/watching
: >/tmp/strays
: >/tmp/looks
watch &
watcher=$!
succeeds "helm upgrade while they work" helm upgrade oarlock "$VM/chart" --namespace oarlock --reuse-values \
    --set image.tag=next --set logLevel=debug --wait --timeout 6m
check "another agent is there" yes "$([ "$(pidof oarlock-agent)" != "$agent" ] && echo yes)"
passes "it knows what runs" eval 'agents_log | grep -q synchronised'
rm /tmp/watching
wait "$watcher"
check "no rank was ever out of its place" "" "$(sort /tmp/strays | uniq -c | head -n 5 | paste -s -d'|')"
check "that was looked at often" yes "$([ "$(wc -l </tmp/looks)" -ge 3 ] && echo yes)"
say "looked at $(wc -l </tmp/looks) times"
check "the ranks are the same" "$(cat /tmp/before)" "$(ranks_in train-worker-0)"
check "nobody was told of a loss" "" \
    "$(kubectl get events --output custom-columns=R:.reason --no-headers | grep -e RanksUnbound -e BindingDrifted)"
put_training train-worker-1
passes "a pod after the upgrade has its cgroups" are_in_their_cgroups train-worker-1
check_ranks "train-worker-1" train-worker-1 "$STILL"

succeeds "helm uninstall while they work" helm uninstall oarlock --namespace oarlock --wait --timeout 4m
passes "no agent is left" eval '! pidof oarlock-agent'
check "no rank is out of its place" "" "$(out_of_place)"
check "the ranks are still the same" "$(cat /tmp/before)" "$(ranks_in train-worker-0)"

install
passes "the new agent knows what runs" eval 'agents_log | grep -q synchronised'
succeeds "agents retire" helm upgrade oarlock "$VM/chart" --namespace oarlock --reuse-values --set retire=true --wait \
    --timeout 6m
check "no cgroup of a rank is left" 0 "$(rank_cgroups)"
check "the ranks are as ever" "$(cat /tmp/before)" "$(ranks_in train-worker-0)"
check "they may use all CPUs" "" "$(while read -r _ process; do
    stray_threads "$process" "$(cat /sys/devices/system/cpu/online)"
done </tmp/before)"
# As docs/operations.md has it.
succeeds "helm uninstall after that" helm uninstall oarlock --namespace oarlock --wait --timeout 4m
kubectl label nodes --all oarlock.dev/numa-nodes- oarlock.dev/gpus- oarlock.dev/gpus-per-numa-node-
kubectl delete pod train-worker-0 train-worker-1 --wait=false
passes "no rank is left" eval '! pidof touch-memory'
kept >/tmp/kept-after || true
check "host and cluster are as they were" "$(cat /tmp/kept-before)" "$(grep -v '^/run/oarlock' /tmp/kept-after)"
