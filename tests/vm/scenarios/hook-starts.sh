# Many starts and stops of a container by the runtime in front of crun, called by hand, beside an agent: nothing is left of
# them. crun, since it is the quickest there is.
. "$VM/report.sh"
. "$VM/ranks.sh"
. "$VM/node.sh"
. "$VM/pod.sh"
. "$VM/hooked.sh"

STARTS=200
RESERVED_CPUS=
LAST_NODE=$(entry $((RANKS - 1)) "$GPU_NODES")
BUNDLE=/tmp/bundle

trap 'keep_logs agent; send messages "$SYSLOG"' EXIT

# in_front COMMAND...: a call of the runtime. What a container says is nobody's.
in_front() {
    /usr/local/bin/oarlock-runtime-crun "$@" </dev/null >/tmp/said 2>&1
}

# start NUMBER: a container with a rank, which has its place.
start() {
    cp /tmp/config.json "$BUNDLE/config.json"
    in_front create --no-pivot --bundle "$BUNDLE" --pid-file /tmp/pid "start$1" && in_front start "start$1" || return 1
    seen="$(status_of "$(cat /tmp/pid)" Cpus_allowed_list) $(entries)"
    [ "$seen" = "$(cpus_of "$LAST_NODE") 1" ] ||
        check "start $1: its place, and one entry in the ledger" "$(cpus_of "$LAST_NODE") 1" "$seen"
    [ $(($1 % 20)) != 0 ] || passes "start $1: its rank has its cgroup" are_rank_cgroups 1
    in_front delete --force "start$1"
}

# traces: what containers might leave behind.
traces() {
    ls -R /run/oarlock /run/crun
    find /sys/fs/cgroup -type d
    pidof oarlock-hook sleep || true
}

# files_open: by the agent, which opens some now and then.
files_open() {
    ls "/proc/$agent/fd" | wc -l
}

# is_as_before: whether these are those of before.
is_as_before() {
    traces >traces-after
    cmp -s traces-before traces-after
}

prepare_host
start_syslog
mkdir -p /usr/local/bin "$BUNDLE/rootfs"
oarlock hook install --runtime containerd --real crun
fill_root "$BUNDLE/rootfs"
(cd "$BUNDLE" && crun spec)
sed "s/\"terminal\": true/\"terminal\": false/; s/\"sh\"/\"sh\", \"-c\", \"LOCAL_RANK=0 sleep 100000; true\"/
s/\"linux\": {/\"annotations\": {\"oarlock.dev\\/cpu-map\": \"$LAST_NODE\", \"oarlock.dev\\/mem-map\": \"auto\"}, &/" \
    "$BUNDLE/config.json" >/tmp/config.json
start_agent
passes "the agent knows the machine" test -e /run/oarlock/machine.json
start 0 || cat /tmp/said
passes "no cgroup of a rank" are_rank_cgroups 0
traces >traces-before
cat traces-before
files=$(files_open)
first=$(uptime_seconds)
number=1
while [ "$number" -le "$STARTS" ]; do
    start "$number" || check "start $number" done "$(cat /tmp/said)"
    [ "$number" != 20 ] || early=$(status_of "$agent" RssAnon)
    number=$((number + 1))
done
late=$(status_of "$agent" RssAnon)
say "$STARTS starts and stops: $(($(uptime_seconds) - first)) s; the agent had $early of its own after 20, and has $late"
# Its allocator rounds, and asks for more in larger pieces than that a container could hide in. Its code comes as it is used.
check "the agent does not grow" yes "$([ $((${late% kB} - ${early% kB})) -lt 1024 ] && echo yes)"
passes "after $STARTS starts and stops everything is as it was before" is_as_before
diff traces-before traces-after || true
check "the agent keeps no file open for each" yes "$([ "$(files_open)" -lt $((files + STARTS / 10)) ] && echo yes || files_open)"
oarlock hook uninstall
