# Many starts and stops under podman, with crun and with runc by turns, beside an agent: nothing is left of them.
. "$VM/report.sh"
. "$VM/ranks.sh"
. "$VM/node.sh"
. "$VM/pod.sh"
. "$VM/hooked.sh"
. "$VM/podman.sh"

STARTS=200
RESERVED_CPUS=
LAST_NODE=$(entry $((RANKS - 1)) "$GPU_NODES")

trap 'keep_logs agent; send messages "$SYSLOG"' EXIT

# start NUMBER: a container with a rank, which has its place.
start() {
    runtime=$([ $(($1 % 2)) = 0 ] && echo runc || echo crun)
    run "$runtime" "start$1" "cpu-map=$LAST_NODE mem-map=auto" "" sh -c 'LOCAL_RANK=0 sleep 100000' || return 1
    seen="$(status_of "$(launcher_of "start$1" main)" Cpus_allowed_list) $(entries)"
    [ "$seen" = "$(cpus_of "$LAST_NODE") 1" ] || check "start $1 ($runtime): its place, and the ledger's one entry" "$(cpus_of "$LAST_NODE") 1" "$seen"
    [ $(($1 % 10)) != 0 ] || passes "start $1: its rank has its cgroup" are_rank_cgroups 1
    gone "start$1"
}

# traces: what containers might leave behind.
traces() {
    ls -R /run/oarlock
    cgroups_of_containers
    find /sys/fs/cgroup -type d -name 'oarlock-*'
    pidof oarlock-hook || true
    echo "the agent has $(ls "/proc/$agent/fd" | wc -l) files open"
}

# is_as_before: whether these are those of before.
is_as_before() {
    traces >traces-after
    cmp -s traces-before traces-after
}

start_podman
start_syslog
oarlock hook install --runtime podman
start_agent
passes "the agent knows the machine" test -e /run/oarlock/machine.json
start 0
passes "no cgroup of a rank" are_rank_cgroups 0
traces >traces-before
cat traces-before
before=$(status_of "$agent" VmRSS)
began=$(uptime_seconds)
number=1
while [ "$number" -le "$STARTS" ]; do
    start "$number" || check "start $number" 0 "$?"
    number=$((number + 1))
done
say "$STARTS starts and stops: $(($(uptime_seconds) - began)) s; the agent was resident with $before, and is with $(status_of "$agent" VmRSS)"
passes "after $STARTS starts and stops everything is as it was before" is_as_before
diff traces-before traces-after || true
oarlock hook uninstall
