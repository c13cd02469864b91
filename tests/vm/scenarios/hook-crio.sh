# CRI-O without its plugin interface, by either way in: a folder of OCI hooks, and a handler whose runtime is Oarlock's in front
# of the real one. Without an agent a container is bound as a whole; with one, every rank is held. At last with the plugin
# interface too: a container that is placed twice has one place.
. "$VM/report.sh"
. "$VM/ranks.sh"
. "$VM/node.sh"
. "$VM/pod.sh"
. "$VM/hooked.sh"

# Expectations here are whole nodes.
RESERVED_CPUS=
LAST_NODE=$(entry $((RANKS - 1)) "$GPU_NODES")
AUTO='"oarlock.dev/cpu-map":"auto","oarlock.dev/mem-map":"auto"'
ON_LAST="\"oarlock.dev/cpu-map\":\"$LAST_NODE\",\"oarlock.dev/mem-map\":\"auto\""
ALL_GPUS=$(seq -s ' ' 0 $((RANKS - 1)))
ALL_CPUS=$(cat /sys/devices/system/cpu/online)
ALL_NODES=$(cat /sys/devices/system/node/has_memory)

trap 'keep_logs "$RUNTIME" agent; send messages "$SYSLOG"' EXIT

handler_without_plugins() {
    cat <<END
[crio.runtime.runtimes.oarlock]
runtime_path = "/usr/local/bin/oarlock-runtime-$OCI_RUNTIME"
monitor_path = "/usr/bin/conmon"
[crio.nri]
enable_nri = false
END
}

# check_whole POD: the container of such a pod is bound as a whole.
check_whole() {
    put_container "$1" main "" "\"launch\",\"1\",$RANK"
    passes "$1: its rank is ready" are_ready "$1" main 1
    launcher=$(launcher_of "$1" main)
    check "$1: the container may use cpus $(cpus_of "$LAST_NODE") and memory of node $LAST_NODE" \
        "$(cpus_of "$LAST_NODE") $LAST_NODE" \
        "$(status_of "$launcher" Cpus_allowed_list) $(status_of "$launcher" Mems_allowed_list)"
    (
        RANKS_ON=$LAST_NODE
        check_rank "$(ranks_of "$1" main | cut -d' ' -f2)" 64 "$1"
    )
    check "$1: the ledger has it and its cgroup" "1 yes" "$(entries) $(has_cgroup_of "$launcher")"
    check "$1: that no agent binds its ranks is said" yes "$(said 'bound as a whole')"
}

# check_held POD: every rank of its container, which holds all GPUs, is held.
check_held() {
    put_sandbox "$1" "$AUTO"
    put_container "$1" main "$ALL_GPUS" "\"launch\",\"$RANKS\",$RANK"
    passes "$1: $RANKS ranks are ready" are_ready "$1" main "$RANKS"
    passes "$1: every rank is held" are_held "$1" "$RANKS"
    check_job "$1" "$1" "$ALL_CPUS" "$ALL_NODES"
    check "$1: every rank has its cgroup" "$RANKS" "$(rank_cgroups)"
    verified=0
    oarlock verify --all >verified 2>&1 || verified=$?
    cat verified
    check "$1: oarlock verify --all" 0 "$verified"
    check "$1: one place" 1 "$(entries)"
    remove_pod_now "$1"
    passes "$1: nothing is left in the ledger" are_entries 0
}

prepare_host
start_syslog
mkdir -p /usr/local/bin
oarlock hook install --runtime containerd --real "$OCI_RUNTIME" >/tmp/installed
oarlock hook install --runtime crio
MORE_SETTINGS=handler_without_plugins
start_runtime
say "$(cri version), $OCI_RUNTIME, $CGROUP_DRIVER: up after $(uptime_seconds) s"

for way in hooks handler; do
    if [ $way = handler ]; then
        oarlock hook uninstall --runtime crio
        check "uninstalled: no hook of ours" "" "$(find /etc/containers /usr/share/containers -name '*oarlock*' 2>/dev/null)"
        # CRI-O watches the folder.
        sleep 2
        put_sandbox without "$ON_LAST"
        put_container without main "" '"sleep","100000"'
        check "uninstalled: an annotation means nothing" "$ALL_CPUS" \
            "$(status_of "$(launcher_of without main)" Cpus_allowed_list)"
        remove_pod_now without
        export CRI_HANDLER=oarlock
    fi
    put_sandbox $way-whole "$ON_LAST"
    check "$way-whole: a sandbox is no container of ours" 0 "$(entries)"
    check_whole $way-whole
    # A hook of this stage comes too late for an environment.
    told=
    [ $way = hooks ] || told=$(cpus_of "$LAST_NODE")
    check "$way-whole: what its ranks are told" "$told" "$(rank_variable $way-whole OARLOCK_RANK_CPUS)"
    remove_pod_now $way-whole
    check "$way-whole: nothing is left in the ledger" 0 "$(entries)"

    put_sandbox $way-plain '"example.org/cpu-map":"auto"'
    put_container $way-plain main "$ALL_GPUS" '"sleep","100000"'
    check "$way-plain: left alone" "$ALL_CPUS 0" \
        "$(status_of "$(launcher_of $way-plain main)" Cpus_allowed_list) $(entries)"
    remove_pod_now $way-plain

    put_sandbox $way-refused '"oarlock.dev/cpu-map":"9","oarlock.dev/on-failure":"refuse"'
    seen=0
    put_container $way-refused main "" '"sleep","100000"' >refusal 2>&1 || seen=$?
    cat refusal
    # What a hook says on standard error crun keeps to itself.
    case $way-$OCI_RUNTIME in
    hooks-crun) told=$(said 'oarlock.dev/cpu-map "9"') ;;
    *) told=$(grep -q 'oarlock.dev/cpu-map "9"' refusal && echo yes) ;;
    esac
    check "$way-refused: it does not start, and why is told" "1 yes" "$seen $told"
    remove_pod_now $way-refused
    put_sandbox $way-wrong '"oarlock.dev/cpu-map":"9"'
    put_container $way-wrong main "" '"sleep","100000"'
    check "$way-wrong: it runs unbound, and why is said" "$ALL_CPUS yes" \
        "$(status_of "$(launcher_of $way-wrong main)" Cpus_allowed_list) $(said 'runs unbound: oarlock.dev/cpu-map')"
    remove_pod_now $way-wrong
done

start_agent
passes "the agent knows the machine" test -e /run/oarlock/machine.json
check_held handler-job
oarlock hook install --runtime crio
sleep 2
unset CRI_HANDLER
check_held hooks-job

# All ways in at once.
kill "$runtime"
wait "$runtime" || true
sed -i 's/^enable_nri = false/enable_nri = true/' /etc/crio/crio.conf
run_runtime
passes "the agent is registered" have_synchronised 0
export CRI_HANDLER=oarlock
check_held thrice
oarlock hook uninstall
check "uninstalled: no program of ours" "" "$(find /usr/local /usr/share/containers -name '*oarlock*' 2>/dev/null)"
