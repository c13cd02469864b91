# What befalls pods in their lives: an agent that comes late or is away, other resources, unpin by hand, systemd's reloads, a
# user namespace. Of two ranks the first is on the first GPU's node, and the second on the last one's.
. "$VM/report.sh"
. "$VM/ranks.sh"
. "$VM/node.sh"
. "$VM/pod.sh"

RESERVED_CPUS=
AUTO='"oarlock.dev/cpu-map":"auto","oarlock.dev/mem-map":"auto"'
LAST=$((RANKS - 1))
RANKS_ON="$(entry 0 "$RANKS_ON") $(entry "$LAST" "$RANKS_ON")"
ALL_CPUS=$(cat /sys/devices/system/cpu/online)
ALL_NODES=$(cat /sys/devices/system/node/has_memory)

trap 'keep_logs "$RUNTIME" agent' EXIT

# create_job POD: a pod of two ranks that does not run yet.
create_job() {
    put_sandbox "$1" "$AUTO"
    create_container "$1" main "0 $LAST" "\"launch\",\"2\",$RANK"
}

# check_held WHO POD [CPUS]: its ranks are, and its container has these CPUs.
check_held() {
    passes "$1: its ranks are held" are_held "$2" 2
    check_job "$1" "$2" "${3:-$ALL_CPUS}" "$ALL_NODES"
}

# check_verified WHO: oarlock's own opinion of all that it manages.
check_verified() {
    verified=0
    oarlock verify --all >verified 2>&1 || verified=$?
    cat verified
    check "$1: oarlock verify --all" 0 "$verified"
}

# kill_agent: it is gone afterwards.
kill_agent() {
    kill -9 "$agent"
    wait "$agent" || true
}

# start_agent_again: it knows what runs afterwards.
start_agent_again() {
    heard=$(synchronised)
    start_agent
    passes "$1: the agent knows what runs" have_synchronised "$heard"
}

# half_of NODE: the first half of its CPUs, which are in a row.
half_of() {
    each_of "$(cpus_of "$1")" >/tmp/all
    head -n $(($(wc -l </tmp/all) / 2)) /tmp/all | sed -n '1p;$p' | paste -s -d-
}

# resize POD RESOURCES: as kubelet does it.
resize() {
    echo "{$2}" >"/tmp/pods/$1/resources.json"
    cri update "$(cat "/tmp/pods/$1/main")" "/tmp/pods/$1/resources.json"
}

# are_within POD CPUS...: whether its ranks have no other CPUs than these, the first one the first, and so on.
are_within() {
    pod=$1
    shift
    [ "$(ranks_of "$pod" main | wc -l)" = $# ] || return 1
    ranks_of "$pod" main | while read -r _ process; do
        [ -z "$(stray_threads "$process" "$1")" ] || return 1
        shift
    done
}

# ready_for_user_namespaces: a file system whose files can be shown under other owners, which no tmpfs of this kernel can be,
# and a network for pods, which is none.
ready_for_user_namespaces() {
    truncate -s 512M /tmp/disk
    mke2fs -F /tmp/disk >/dev/null
    mkdir -p /var/lib /etc/cni/net.d /opt/cni/bin
    mount -o loop -t ext4 /tmp/disk /var/lib
    mkdir /var/lib/shm
    echo '{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"none"}]}' >/etc/cni/net.d/pods.conflist
    cat >/opt/cni/bin/none <<'END'
#!/bin/sh
[ "$CNI_COMMAND" != ADD ] || echo '{"interfaces":[{"name":"eth0"}],"ips":[{"version":"4","address":"10.0.0.2/24","interface":0}]}'
END
    chmod +x /opt/cni/bin/none
    cp /opt/cni/bin/none /opt/cni/bin/loopback
}

[ "$CONTAINERD" = 1.7 ] || ready_for_user_namespaces
start_runtime
say "$(cri version), $OCI_RUNTIME, $CGROUP_DRIVER: up after $(uptime_seconds) s"

# Pods that were there before the agent.
create_job running
start_container running main
passes "running before the agent: its ranks are ready" are_ready running main 2
check "running before the agent: no cgroup of a rank" 0 "$(rank_cgroups)"
create_job made
start_agent_again "first"
check_held "running before the agent" running
start_container made main
check_held "made before the agent" made
kill_agent
remove_pod_now made
create_job between
start_agent_again "made while it was away"
start_container between main
check_held "made while the agent was away" between
remove_pod_now between
create_job orphan
kill_agent
start_container orphan main
passes "started while the agent is away: its ranks are ready" are_ready orphan main 2
start_agent_again "started while it was away"
check_held "started while the agent was away" orphan
remove_pod_now orphan
check_verified "an agent that comes late"
passes "an agent that comes late: nothing is left of the others" are_rank_cgroups 2

# Another cpuset, as in-place resize and kubelet's CPU manager give it.
first=$(half_of "$(entry 0 "$RANKS_ON")")
second=$(half_of "$(entry 1 "$RANKS_ON")")
ranks_of running main >before
resize running "\"cpuset_cpus\":\"$first,$second\""
passes "resized: each rank has what is left of its node" are_within running "$first" "$second"
check "resized: the container has what it was given" "$first,$second" \
    "$(status_of "$(launcher_of running main)" Cpus_allowed_list)"
check_verified "resized"
resize running '"cpu_shares":512'
sleep 1
check "resized, shares alone: the cpus are as before" "yes $first,$second" \
    "$(are_within running "$first" "$second" && echo yes) $(status_of "$(launcher_of running main)" Cpus_allowed_list)"
resize running "\"cpuset_cpus\":\"$first\""
passes "resized to the first node: no rank has more" are_within running "$first" "$first"
check_verified "resized to the first node"
resize running "\"cpuset_cpus\":\"$ALL_CPUS\""
check_held "resized to all" running
check "resized: the ranks are the same processes" "$(cat before)" "$(ranks_of running main)"

# Another cpuset while no agent is there.
kill_agent
resize running "\"cpuset_cpus\":\"$first,$second\""
start_agent_again "resized while it was away"
# A second is what an agent has to be right again; the emulated machine takes another.
sleep 2
check "resized while the agent was away: its entry has what the container was given" "$first,$second" \
    "$(sed -n 's/.*"container":{"cpus":"\([^"]*\)".*/\1/p' "/run/oarlock/ledger/$(cat /tmp/pods/running/main).json")"
passes "resized while the agent was away: each rank has what is left of its node" are_within running "$first" "$second"
check_verified "resized while the agent was away"
kill_agent
resize running "\"cpuset_cpus\":\"$ALL_CPUS\""
start_agent_again "resized to all while it was away"
check_held "resized to all while the agent was away" running
check "resized while the agent was away: the ranks are the same processes" "$(cat before)" "$(ranks_of running main)"

# Unpinned by hand, beside an agent that goes on: it keeps off until the container ends.
create_job other
start_container other main
check_held "another pod" other
seen=0
oarlock unpin --container "$(cat /tmp/pods/running/main)" || seen=$?
check "unpinned: it is done" 0 "$seen"
check "unpinned: the cgroups of the other pod's ranks are left" 2 "$(rank_cgroups)"
kill -9 "$(ranks_of running main | sed -n 's/^0 //p')"
passes "unpinned: a rank that died is back" are_ready running main 3
kill_agent
start_agent_again "unpinned"
# Longer than the binder's looks are apart.
sleep 5
check "unpinned: neither agent has taken a rank again" "2 yes" \
    "$(rank_cgroups) $(are_within running "$ALL_CPUS" "$ALL_CPUS" && echo yes)"
resize running "\"cpuset_cpus\":\"$first,$second\""
sleep 3
check "unpinned, resized: its ranks have what it was given" "2 yes" \
    "$(rank_cgroups) $(are_within running "$first,$second" "$first,$second" && echo yes)"
check_held "unpinned: the other pod" other
check_verified "unpinned"
remove_pod_now running

if [ "$CGROUP_DRIVER" = systemd ]; then
    ranks_of other main >before
    for what in daemon-reload daemon-reexec; do
        seen=0
        systemctl "$what" || seen=$?
        check "$what: it is done" 0 "$seen"
        check_held "$what" other
        check "$what: the ranks are the same processes" "$(cat before)" "$(ranks_of other main)"
        check_verified "$what"
    done
    kill -9 "$(ranks_of other main | sed -n 's/^0 //p')"
    passes "daemon-reexec: a rank that died is back" are_ready other main 3
    check_held "daemon-reexec: a rank that died" other
fi
remove_pod_now other

# A pod whose root is nobody on the host. It has a network of its own, for which CRI-O takes plugins that are not here.
if [ "$CONTAINERD" != 1.7 ] && [ "$RUNTIME" = containerd ]; then
    ids='[{"host_id":100000,"container_id":0,"length":65536}]'
    NAMESPACES="\"network\":0,\"pid\":1,\"userns_options\":{\"mode\":0,\"uids\":$ids,\"gids\":$ids}"
    put_sandbox mapped "$AUTO"
    put_container mapped main "0 $LAST" "\"launch\",\"2\",$RANK" "" "" \
        "{\"container_path\":\"/dev/shm\",\"host_path\":\"/var/lib/shm\",\"uid_mappings\":$ids,\"gid_mappings\":$ids}"
    check_held "user namespace" mapped
    check "user namespace: its root is nobody on the host" 100000 "$(status_of "$(launcher_of mapped main)" Uid | cut -f1)"
    check_verified "user namespace"
    remove_pod_now mapped
fi

passes "no cgroup of a rank is left" are_rank_cgroups 0
check "no entry of the ledger is left" "" "$(ls /run/oarlock/ledger)"
