# The agent as the chart installs it: the image that is built here, in the pod that the chart renders, under a real kubelet.
# It has no more privileges than the chart gives it, and a cgroup namespace of its own; annotated pods of another user are
# placed, their ranks held, and they stay so while the agent's container is replaced.
. "$VM/report.sh"
. "$VM/ranks.sh"
. "$VM/node.sh"
. "$VM/pod.sh"
. "$VM/imaged.sh"

trap 'agents_log >/tmp/agent.log 2>&1 || true; keep_logs "$RUNTIME" kubelet agent' EXIT

# agents_log: what all agents have said.
agents_log() {
    cat /var/log/pods/oarlock_agent-*/agent/*.log
}

# put_agent: the pod of the chart's DaemonSet, and its settings as a folder of the host, since there is no API server here.
put_agent() {
    settings_of_agent
    {
        printf 'apiVersion: v1\nkind: Pod\n'
        sed -n '/^kind: DaemonSet/,/^---/p' "$VM/oarlock.yaml" | sed -n '/^  template:/,/^---/p' |
            sed -e 1d -e '/^---/d' -e 's/^    //' -e 's/^metadata:/&\n  name: agent\n  namespace: oarlock/' \
                -e '/serviceAccountName/d' -e 's/automountServiceAccountToken: true/automountServiceAccountToken: false/' \
                -e '/configMap:/{s/configMap/hostPath/;n;s|name: .*|path: /etc/oarlock|}'
    } >/tmp/agent.yaml
    mv /tmp/agent.yaml "$MANIFESTS/agent.yaml"
}

# put_ranks POD: a pod without devices.
put_ranks() {
    places=$(echo "$RANKS_ON" | tr ' ' ,)
    rank_pod "$1" "oarlock.dev/cpu-map: \"$places\", oarlock.dev/mem-map: \"$places\"" >"/tmp/$1.yaml"
    mv "/tmp/$1.yaml" "$MANIFESTS/$1.yaml"
}

start_runtime
load_image "$VM/oarlock.tar"
start_kubelet best-effort none
put_agent
# A kubelet that has just started takes an emulated CPU a while.
await 240 is_agent_ready || true
passes "the agent is ready" is_agent_ready
say "ready after $(uptime_seconds) s"
own=$(agent_process)
check_agents_privileges
put_ranks first
await 240 are_in_their_cgroups first || true
passes "every rank has its cgroup" are_in_their_cgroups first
check_ranks "first" first
check "process events come" "" "$(agents_log | grep 'ranks are found by looking' || true)"
seen=0
in_agents_container oarlock verify --all >/tmp/verified 2>&1 || seen=$?
cat /tmp/verified
check "verify in the agent's container finds all as planned" 0 "$seen"
ranks_in first >/tmp/before

kill -9 "$own"
passes "another agent is ready" is_agent_ready
check "the ranks are the same" "$(cat /tmp/before)" "$(ranks_in first)"
check_ranks "after the agent's death" first
put_ranks second
passes "its ranks have their cgroups" are_in_their_cgroups second
check_ranks "second" second

remove_pod first
remove_pod second
passes "removed, no cgroup of a rank is left" are_rank_cgroups 0
