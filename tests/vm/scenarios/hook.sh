# Pods under a runtime without a plugin interface: Oarlock's OCI runtime stands in front of the real one, as a handler of
# containerd's. Without an agent a container is bound as a whole; with one, every rank is held.
. "$VM/report.sh"
. "$VM/ranks.sh"
. "$VM/node.sh"
. "$VM/pod.sh"
. "$VM/hooked.sh"

STARTS=5
# Expectations here are whole nodes.
RESERVED_CPUS=
LAST_NODE=$(entry $((RANKS - 1)) "$GPU_NODES")
AUTO='"oarlock.dev/cpu-map":"auto","oarlock.dev/mem-map":"auto"'
ON_LAST="\"oarlock.dev/cpu-map\":\"$LAST_NODE\",\"oarlock.dev/mem-map\":\"auto\""
ALL_GPUS=$(seq -s ' ' 0 $((RANKS - 1)))
ALL_CPUS=$(cat /sys/devices/system/cpu/online)
ALL_NODES=$(cat /sys/devices/system/node/has_memory)

trap 'keep_logs "$RUNTIME" agent; send messages "$SYSLOG"' EXIT

# What the installation prints is what containerd is told.
settings_as_printed() {
    case $CONTAINERD in
    2.*) sed -n '/version = 3:/,/^else:/p' /tmp/installed | sed '1d;$d' ;;
    1.*) sed -n '/^else:/,/^and to the cluster:/p' /tmp/installed | sed '1d;$d' ;;
    esac
    echo 'NoPivotRoot = true'
    echo "SystemdCgroup = $([ "$CGROUP_DRIVER" = systemd ] && echo true || echo false)"
}

prepare_host
start_syslog
mkdir -p /usr/local/bin
mkdir /tmp/alone
cp /bin/oarlock-hook /tmp/alone
check "the hook runs where no library is" yes "$(chroot /tmp/alone /oarlock-hook --version >/dev/null && echo yes)"
oarlock hook install --runtime containerd --real "$OCI_RUNTIME" >/tmp/installed
cat /tmp/installed
MORE_SETTINGS=settings_as_printed
start_runtime
say "$(cri version), $OCI_RUNTIME, $CGROUP_DRIVER: up after $(uptime_seconds) s"
export CRI_HANDLER=oarlock

# Without an agent.
put_sandbox whole "$ON_LAST"
check "whole: a sandbox is no container of ours" 0 "$(entries)"
put_container whole main "" "\"launch\",\"1\",$RANK"
passes "whole: its rank is ready" are_ready whole main 1
launcher=$(launcher_of whole main)
check "whole: the container may use cpus $(cpus_of "$LAST_NODE")" "$(cpus_of "$LAST_NODE")" \
    "$(status_of "$launcher" Cpus_allowed_list)"
check "whole: and memory of node $LAST_NODE" "$LAST_NODE" "$(status_of "$launcher" Mems_allowed_list)"
# In a subshell: what is declared for the machine is for all of its GPUs.
(
    RANKS_ON=$LAST_NODE
    check_rank "$(ranks_of whole main | cut -d' ' -f2)" 64 "whole"
)
check "whole: its ranks are told" "$(cpus_of "$LAST_NODE")" "$(rank_variable whole OARLOCK_RANK_CPUS)"
check "whole: the ledger has it" 1 "$(entries)"
check "whole: and its cgroup" yes "$(has_cgroup_of "$launcher")"
check "whole: that no agent binds its ranks is said" yes "$(said 'bound as a whole')"
check "whole: how long the look at the machine took is said" yes "$(said 'read the machine in')"
oarlock status
remove_pod_now whole
check "whole: nothing is left in the ledger" 0 "$(entries)"

# No runtime of this age knows a memory policy, and none may stumble over it.
put_sandbox prefers "\"oarlock.dev/cpu-map\":\"$LAST_NODE\",\"oarlock.dev/mem-map\":\"$(entry 0 "$GPU_NODES")\",\"oarlock.dev/mem-policy\":\"preferred\""
put_container prefers main "" '"sleep","100000"'
bundle=$(find /run/containerd -path '*.task/*' -name config.json -exec grep -l '"memoryPolicy"' {} +)
check "prefers: its configuration has a memory policy" 1 "$(echo "$bundle" | grep -c .)"
check "prefers: it runs, with its CPUs" "$(cpus_of "$LAST_NODE") $ALL_NODES" \
    "$(status_of "$(launcher_of prefers main)" Cpus_allowed_list) $(status_of "$(launcher_of prefers main)" Mems_allowed_list)"
remove_pod_now prefers

put_sandbox plain '"example.org/cpu-map":"auto"'
put_container plain main "$ALL_GPUS" '"sleep","100000"'
check "plain: left alone" "$ALL_CPUS 0" "$(status_of "$(launcher_of plain main)" Cpus_allowed_list) $(entries)"
remove_pod_now plain

put_sandbox refused '"oarlock.dev/cpu-map":"9","oarlock.dev/on-failure":"refuse"'
seen=0
put_container refused main "" '"sleep","100000"' >refusal 2>&1 || seen=$?
cat refusal
check "refused: it does not start, and why is told" "1 told" "$seen $(grep -q 'oarlock.dev/cpu-map' refusal && echo told)"
remove_pod_now refused
put_sandbox wrong '"oarlock.dev/cpu-map":"9"'
put_container wrong main "" '"sleep","100000"'
check "wrong: it runs unbound" "$ALL_CPUS" "$(status_of "$(launcher_of wrong main)" Cpus_allowed_list)"
check "wrong: why is said" yes "$(said 'runs unbound: oarlock.dev/cpu-map')"
remove_pod_now wrong

# With an agent, whose machine file has the GPUs' names.
start_agent
passes "the agent knows the machine" test -e /run/oarlock/machine.json
put_sandbox job "$AUTO"
put_container job main "$ALL_GPUS" "\"launch\",\"$RANKS\",$RANK"
passes "job: $RANKS ranks are ready" are_ready job main "$RANKS"
passes "job: every rank is held" are_held job "$RANKS"
check_job job job "$ALL_CPUS" "$ALL_NODES"
check "job: every rank has its cgroup" "$RANKS" "$(rank_cgroups)"
verified=0
oarlock verify --all >verified 2>&1 || verified=$?
cat verified
check "job: oarlock verify --all" 0 "$verified"

kill -9 "$agent"
wait "$agent" || true
kill -9 "$(ranks_of job main | sed -n 's/^3 //p')"
passes "agent killed: rank 3 is back" are_ready job main $((RANKS + 1))
start_agent
passes "agent killed: every rank is held again" are_held job "$RANKS"
check_job "agent killed" job "$ALL_CPUS" "$ALL_NODES"
oarlock unpin --all
check "unpin: no cgroup of a rank" 0 "$(rank_cgroups)"
remove_pod_now job
passes "job: nothing is left in the ledger" are_entries 0

# A hook and a runtime that are killed at any moment.
(while :; do killall -q -9 oarlock-hook oarlock-runtime || true; usleep 30000; done) &
killer=$!
for number in 1 2 3 4 5 6; do
    put_sandbox "killed$number" "$ON_LAST" || continue
    put_container "killed$number" main "" '"sleep","100000"' || true
done
kill "$killer"
say "killed: $(entries) entries, $(pidof sleep | wc -w) containers of 6"
for number in 1 2 3 4 5 6; do
    [ ! -s "/tmp/pods/killed$number/sandbox" ] || remove_pod_now "killed$number" || true
done
# What was planned for a container that never came is dropped once it is old.
find "$LEDGER" -name '*.json' -exec touch -d '2020-01-01 00:00' {} +
put_sandbox after "$ON_LAST"
put_container after main "" '"sleep","100000"'
check "killed: the next container has its place" "$(cpus_of "$LAST_NODE")" \
    "$(status_of "$(launcher_of after main)" Cpus_allowed_list)"
check "killed: and the ledger no other" 1 "$(entries)"
remove_pod_now after

began=$(uptime_seconds)
number=1
while [ "$number" -le "$STARTS" ]; do
    put_sandbox "pod$number" "$ON_LAST"
    put_container "pod$number" main "" '"sleep","100000"'
    [ "$(status_of "$(launcher_of "pod$number" main)" Cpus_allowed_list)" = "$(cpus_of "$LAST_NODE")" ] ||
        check "start $number: it has its place" yes no
    remove_pod_now "pod$number"
    number=$((number + 1))
done
say "$STARTS starts and stops: $(($(uptime_seconds) - began)) s"
check "after $STARTS starts and stops: nothing in the ledger" 0 "$(entries)"
check "after $STARTS starts and stops: nothing in the run folder but what the agent keeps" \
    "agent.lock ledger ledger.lock machine.json" "$(ls /run/oarlock | paste -s -d' ')"
check "after $STARTS starts and stops: no cgroup of a pod" "" "$(find /sys/fs/cgroup -type d -name '*pod_*')"

# By hand, beside the real runtime: the same answers, the same exit statuses.
mkdir -p /tmp/bundle/rootfs
fill_root /tmp/bundle/rootfs
(cd /tmp/bundle && "$OCI_RUNTIME" spec)
sed -i 's/"terminal": true/"terminal": false/; s/"sh"/"sleep", "1000"/' /tmp/bundle/config.json
# by_hand RUNTIME: what a container's life looks like with it.
by_hand() {
    for call in "create --no-pivot --bundle /tmp/bundle by-hand" "state by-hand" "start by-hand" "exec by-hand sh -c 'exit 5'" \
        "kill by-hand KILL" "delete --force by-hand" "state by-hand" "delete by-hand" "no-such-command" "create"; do
        seen=0
        eval "$1 $call" </dev/null >/tmp/said-by-hand 2>&1 || seen=$?
        echo "$call: $seen $(sed -n 's/.*"status": *"\([a-z]*\)".*/\1/p' /tmp/said-by-hand)"
    done
}
cp /tmp/bundle/config.json /tmp/plain.json
for asks in no yes; do
    [ $asks = no ] || sed -i "s|\"linux\": {|\"annotations\": {$AUTO}, &|" /tmp/bundle/config.json
    by_hand "$OCI_RUNTIME" >real
    by_hand "/usr/local/bin/oarlock-runtime-$OCI_RUNTIME" >wrapped
    check "by hand, it asks for a place: $asks: as the real runtime" "$(cat real)" "$(cat wrapped)"
done
cat real
check "by hand: it was placed" yes "$(grep -q OARLOCK_RANK_CPUS /tmp/bundle/config.json && echo yes)"
check "by hand: nothing is left in the ledger" 0 "$(entries)"

# each COUNT COMMAND...: milliseconds that each of so many calls takes. No check: these CPUs are emulated.
each() {
    count=$1
    shift
    began=$(tr -d . </proc/uptime | cut -d' ' -f1)
    for _ in $(seq "$count"); do "$@" >/dev/null; done
    echo "$((($(tr -d . </proc/uptime | cut -d' ' -f1) - began) * 10 / count)) ms"
}

# filter: what the hook does before a runtime reads the configuration.
filter() {
    oarlock-hook precreate </tmp/filtered.json
}

# create_and_delete: by the real runtime alone.
create_and_delete() {
    "$OCI_RUNTIME" create --no-pivot --bundle /tmp/bundle timed </dev/null
    "$OCI_RUNTIME" delete --force timed
}

cp /tmp/plain.json /tmp/bundle/config.json
sed "s|\"linux\": {|\"annotations\": {$AUTO}, \"linux\": {\"cgroupsPath\": \"/libpod-$(seq -s '' 1000 1015)\",|" \
    /tmp/plain.json >/tmp/filtered.json
check "filter: it places" yes "$(filter | grep -q OARLOCK_RANK_CPUS && echo yes)"
say "/bin/true $(each 20 busybox true), the filter $(each 20 filter), $OCI_RUNTIME create and delete $(each 5 create_and_delete)"
oarlock hook uninstall
check "uninstalled: no runtime of ours" "" "$(ls /usr/local/bin)"
