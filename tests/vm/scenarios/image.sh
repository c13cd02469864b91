# The image that is built here, without a kubelet: its agent, no more privileged than the chart's, holds the ranks of annotated
# pods, and they stay held while its container is replaced; its command line finds all as planned.
. "$VM/report.sh"
. "$VM/ranks.sh"
. "$VM/node.sh"
. "$VM/pod.sh"
. "$VM/imaged.sh"

RESERVED_CPUS=
ALL_CPUS=$(cat /sys/devices/system/cpu/online)
ALL_NODES=$(cat /sys/devices/system/node/has_memory)
PLACES=$(echo "$RANKS_ON" | tr ' ' ,)

trap 'cat /tmp/pods/agent/log/main.log >/tmp/agent.log 2>/dev/null || true; keep_logs "$RUNTIME" agent' EXIT

# mount_of PATH [READONLY]: of the host, at the same place.
mount_of() {
    mkdir -p "$1"
    printf '{"container_path":"%s","host_path":"%s","readonly":%s}' "$1" "$1" "${2:-false}"
}

# put_agent: as kubelet makes the chart's pod.
put_agent() {
    of_pods=$NAMESPACES
    NAMESPACES='"network":2,"pid":2'
    IMAGE=$IMAGE_OF_AGENT
    put_sandbox agent ""
    put_container agent main "" '"oarlock-agent","--config=/etc/oarlock/config.yaml"' \
        '"capabilities":{"drop_capabilities":["ALL"],"add_capabilities":["DAC_READ_SEARCH","SYS_PTRACE","SYS_NICE","NET_ADMIN"]},
"run_as_user":{"value":0},"run_as_group":{"value":0},"readonly_rootfs":true,"no_new_privs":true,"seccomp":{"profile_type":1}' \
        '"memory_limit_in_bytes":268435456' \
        "$(mount_of /etc/oarlock true),$(mount_of "$KUBELET_ROOT/device-plugins"),$(mount_of "$KUBELET_ROOT/pod-resources" true),\
$(mount_of /var/run/nri true),$(mount_of /run/oarlock),$(mount_of /sys/fs/cgroup)"
    NAMESPACES=$of_pods
    IMAGE=
}

# is_agent_alive: whether it answers. It is ready once a kubelet has its resources, and there is none.
is_agent_alive() {
    wget -q -O - http://127.0.0.1:9837/healthz >/dev/null 2>&1
}

# put_ranks POD: a pod without devices, of another user.
put_ranks() {
    put_sandbox "$1" "\"oarlock.dev/cpu-map\":\"$PLACES\",\"oarlock.dev/mem-map\":\"$PLACES\",\"oarlock.dev/ranks\":\"$RANKS\""
    put_container "$1" main "" "\"launch\",\"$RANKS\",$RANK" '"run_as_user":{"value":1000}'
}

start_runtime
load_image "$VM/oarlock.tar"
settings_of_agent
put_agent
passes "the agent answers" is_agent_alive
check_agents_privileges
before=$(migrated_mib)
put_ranks first
passes "every rank is held" are_held first "$RANKS"
say "$(($(migrated_mib) - before)) of $((RANKS * 64)) MiB were moved to their nodes"
passes "every rank has its cgroup" are_rank_cgroups "$RANKS"
check_job first first "$ALL_CPUS" "$ALL_NODES"
seen=0
in_agents_container oarlock verify --all >/tmp/verified 2>&1 || seen=$?
cat /tmp/verified
check "verify in the agent's container finds all as planned" 0 "$seen"
ranks_of first main >/tmp/before

remove_pod_now agent
check "the agent is gone, and every rank is held" "none yes" \
    "$(agent_process || echo none) $(are_held first "$RANKS" && echo yes)"
put_agent
passes "another agent answers" is_agent_alive
check "the ranks are the same" "$(cat /tmp/before)" "$(ranks_of first main)"
put_ranks second
passes "second: every rank is held" are_held second "$RANKS"
passes "every rank has its cgroup" are_rank_cgroups $((RANKS * 2))

remove_pod_now first
remove_pod_now second
passes "removed, no cgroup of a rank is left" are_rank_cgroups 0
