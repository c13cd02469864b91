# docker, one of whose runtimes is Oarlock's in front of runc: one host without a cluster. Without an agent a container is bound
# as a whole; with one, every rank is held.
. "$VM/report.sh"
. "$VM/ranks.sh"
. "$VM/node.sh"
. "$VM/pod.sh"
. "$VM/hooked.sh"

RESERVED_CPUS=
LAST_NODE=$(entry $((RANKS - 1)) "$GPU_NODES")
ALL_CPUS=$(cat /sys/devices/system/cpu/online)
ALL_NODES=$(cat /sys/devices/system/node/has_memory)

trap 'keep_logs dockerd agent; send messages "$SYSLOG"' EXIT

# A container is a pod of pod.sh: its first process, its log.

# start_docker: with what its settings name, and an image that holds busybox and the ranks.
start_docker() {
    prepare_host
    mkdir -p /var/lib/docker /tmp/root
    # The first root cannot be left behind, and there is no network but the host's own.
    DOCKER_RAMDISK=yes /usr/sbin/dockerd --storage-driver=vfs --bridge=none --iptables=false --ip6tables=false --userland-proxy=false \
        --feature=containerd-snapshotter=false --exec-opt "native.cgroupdriver=$CGROUP_DRIVER" >/tmp/dockerd.log 2>&1 &
    passes "docker is ready" docker version
    fill_root /tmp/root
    tar -cf - -C /tmp/root . | docker import - ranks >/dev/null
    rm -r /tmp/root
    say "$(docker version --format 'docker {{.Server.Version}}'), $CGROUP_DRIVER: $(uptime_seconds) s"
}

# run NAME ANNOTATIONS GPUS COMMAND...: a container that runs. Annotations and GPUs are separated by spaces. $BELOW is the
# cgroup that its own is made in, where that is another than docker's.
run() {
    name=$1
    annotations=$(for annotation in $2; do printf -- '--annotation oarlock.dev/%s ' "$annotation"; done)
    names=
    for index in $3; do names="$names${names:+,}$(uuid_of "$index")"; done
    shift 3
    mkdir -p "/tmp/pods/$name/log"
    # shellcheck disable=SC2086 # One --annotation each.
    docker run --runtime oarlock --detach --name "$name" --network host --env "NVIDIA_VISIBLE_DEVICES=$names" \
        ${BELOW:+--cgroup-parent "$BELOW"} $annotations ranks "$@" || return 1
    look_at "$name"
}

# look_at NAME: where it is now.
look_at() {
    docker inspect --format '{{.State.Pid}}' "$1" >"/tmp/pods/$1/main.pid"
    ln -sf "$(docker inspect --format '{{.LogPath}}' "$1")" "/tmp/pods/$1/log/main.log"
}

# gone NAME: it is stopped and removed.
gone() {
    docker rm --force "$1" >/dev/null
    rm -r "/tmp/pods/$1"
}

start_syslog
mkdir -p /usr/local/bin
oarlock hook install --runtime containerd --real runc >/tmp/installed
mkdir -p /etc/docker
sed -n '/daemon.json:/,$p' /tmp/installed | sed 1,2d | tee /etc/docker/daemon.json
start_docker

run whole "cpu-map=$LAST_NODE mem-map=auto" "" launch 1 touch-memory --mib 64 --threads 2 --hold 100000
passes "whole: its rank is ready" are_ready whole main 1
launcher=$(launcher_of whole main)
check "whole: the container may use cpus $(cpus_of "$LAST_NODE") and memory of node $LAST_NODE" \
    "$(cpus_of "$LAST_NODE") $LAST_NODE" \
    "$(status_of "$launcher" Cpus_allowed_list) $(status_of "$launcher" Mems_allowed_list)"
check "whole: its ranks are told" "$(cpus_of "$LAST_NODE")" "$(rank_variable whole OARLOCK_RANK_CPUS)"
check "whole: the ledger has it and its cgroup" yes "$(has_cgroup_of "$launcher")"
check "whole: that no agent binds its ranks is said" yes "$(said 'bound as a whole')"
check "whole: what is executed in it has its place" "Cpus_allowed_list:	$(cpus_of "$LAST_NODE")" \
    "$(docker exec whole busybox grep Cpus_allowed_list: /proc/self/status)"
docker stop --time 0 whole >/dev/null
check "whole: stopped, nothing is left in the ledger" 0 "$(entries)"
docker start whole >/dev/null
look_at whole
check "whole: started again, it has its place again" "$(cpus_of "$LAST_NODE") 1" \
    "$(status_of "$(launcher_of whole main)" Cpus_allowed_list) $(entries)"
gone whole
check "whole: removed, nothing is left in the ledger" 0 "$(entries)"

run plain "" "" sleep 100000
check "plain: left alone" "$ALL_CPUS 0" "$(status_of "$(launcher_of plain main)" Cpus_allowed_list) $(entries)"
gone plain
seen=0
run refused "cpu-map=9 on-failure=refuse" "" sleep 100000 >refusal 2>&1 || seen=$?
cat refusal
check "refused: it does not start, and why is told" "no told" \
    "$([ "$seen" = 0 ] || echo no) $(grep -q 'oarlock.dev/cpu-map' refusal && echo told)"
gone refused
run wrong "cpu-map=9" "" sleep 100000
check "wrong: it runs unbound, and why is said" "$ALL_CPUS yes" \
    "$(status_of "$(launcher_of wrong main)" Cpus_allowed_list) $(said 'runs unbound: oarlock.dev/cpu-map')"
gone wrong

if [ "$CGROUP_DRIVER" = cgroupfs ]; then
    # The last CPU of the node alone, for all that is below.
    last=$(each_of "$(cpus_of "$LAST_NODE")" | tail -n 1)
    mkdir /sys/fs/cgroup/narrow
    echo "$last" >/sys/fs/cgroup/narrow/cpuset.cpus
    BELOW=/narrow
    run narrow "cpu-map=$LAST_NODE ranks=1" "" sleep 100000
    BELOW=
    check "narrow: its plan is inside of what its parent has" "$last $last" \
        "$(rank_variable narrow OARLOCK_RANK_CPUS) $(status_of "$(launcher_of narrow main)" Cpus_allowed_list)"
    gone narrow
fi

start_agent
passes "the agent knows the machine" test -e /run/oarlock/machine.json
run job "cpu-map=auto mem-map=auto" "$(seq -s ' ' 0 $((RANKS - 1)))" \
    launch "$RANKS" touch-memory --mib 64 --threads 2 --hold 100000
passes "job: $RANKS ranks are ready" are_ready job main "$RANKS"
passes "job: every rank is held" are_held job "$RANKS"
check_job job job "$ALL_CPUS" "$ALL_NODES"
check "job: every rank has its cgroup" "$RANKS" "$(rank_cgroups)"
verified=0
oarlock verify --all >verified 2>&1 || verified=$?
cat verified
check "job: oarlock verify --all" 0 "$verified"
docker kill --signal KILL job >/dev/null
passes "job: killed, nothing is left in the ledger" are_entries 0
gone job
passes "job: removed, with the cgroups of its ranks" are_rank_cgroups 0
oarlock hook uninstall
check "uninstalled: no program of ours" "" "$(find /usr/local -name '*oarlock*')"
