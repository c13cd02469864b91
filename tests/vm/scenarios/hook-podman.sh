# podman, which has OCI hooks and a filter of its own: one host without a cluster. Without an agent a container is bound as a
# whole; with one, every rank is held. With crun and with runc.
. "$VM/report.sh"
. "$VM/ranks.sh"
. "$VM/node.sh"
. "$VM/pod.sh"
. "$VM/hooked.sh"

STARTS=5
RESERVED_CPUS=
LAST_NODE=$(entry $((RANKS - 1)) "$GPU_NODES")
FIRST_NODE=$(entry 0 "$GPU_NODES")
ALL_CPUS=$(cat /sys/devices/system/cpu/online)
ALL_NODES=$(cat /sys/devices/system/node/has_memory)
ROOT=/var/lib/root

trap 'keep_logs agent; send messages "$SYSLOG"' EXIT

# A container is a pod of pod.sh: its first process, its log.

podman() {
    /usr/bin/podman --cgroup-manager="$CGROUP_DRIVER" --log-level=warn "$@"
}

# start_podman: its settings, and what containers are made of.
start_podman() {
    prepare_host
    mkdir -p /etc/containers /usr/local/bin /dev/shm /dev/pts
    grep -q ' /dev/shm ' /proc/mounts || mount -t tmpfs shm /dev/shm
    grep -q ' /dev/pts ' /proc/mounts || mount -t devpts pts /dev/pts
    cat >/etc/containers/containers.conf <<END
[engine]
no_pivot_root = true
events_logger = "file"
[containers]
seccomp_profile = "unconfined"
pids_limit = 0
[engine.runtimes]
oarlock-crun = ["/tmp/oarlock-runtime-crun"]
oarlock-runc = ["/tmp/oarlock-runtime-runc"]
END
    storage_of_podman
    fill_root "$ROOT"
    mkdir -p "$ROOT/proc" "$ROOT/sys" "$ROOT/dev" "$ROOT/etc" "$ROOT/run"
    say "$(podman --version), $(crun --version | head -n 1), $(runc --version | head -n 1), $CGROUP_DRIVER: $(uptime_seconds) s"
}

# run RUNTIME NAME ANNOTATIONS GPUS COMMAND...: a container that runs. Annotations and GPUs are separated by spaces.
run() {
    runtime=$1
    name=$2
    annotations=$(for annotation in $3; do printf -- '--annotation oarlock.dev/%s ' "$annotation"; done)
    names=
    for index in $4; do names="$names${names:+,}$(uuid_of "$index")"; done
    shift 4
    mkdir -p "/tmp/pods/$name/log"
    # shellcheck disable=SC2086 # One --annotation each.
    podman --runtime "$runtime" run --detach --name "$name" --network host --log-driver k8s-file \
        --log-opt "path=/tmp/pods/$name/log/main.log" --pidfile "/tmp/pods/$name/main.pid" --env "NVIDIA_VISIBLE_DEVICES=$names" $annotations \
        --rootfs "$ROOT" "$@"
}

# gone NAME: it is stopped and removed.
gone() {
    podman rm --force --time 0 "$1" >/dev/null
    rm -r "/tmp/pods/$1"
}

# cgroups_of_containers: those that podman has made.
cgroups_of_containers() {
    find /sys/fs/cgroup -type d -name 'libpod-*' ! -name '*conmon*'
}

# are_no_cgroups_of_containers: whether there are none. systemd removes a scope when it comes to it.
are_no_cgroups_of_containers() {
    [ -z "$(cgroups_of_containers)" ]
}

start_podman
start_syslog
oarlock hook install --runtime podman

for runtime in crun runc; do
    whole=$runtime-whole
    run $runtime $whole "cpu-map=$LAST_NODE mem-map=auto" "" launch 1 touch-memory --mib 64 --threads 2 --hold 100000
    passes "$whole: its rank is ready" are_ready $whole main 1
    launcher=$(launcher_of $whole main)
    check "$whole: the container may use cpus $(cpus_of "$LAST_NODE") and memory of node $LAST_NODE" \
        "$(cpus_of "$LAST_NODE") $LAST_NODE" \
        "$(status_of "$launcher" Cpus_allowed_list) $(status_of "$launcher" Mems_allowed_list)"
    check "$whole: its ranks are told" "$(cpus_of "$LAST_NODE")" "$(rank_variable $whole OARLOCK_RANK_CPUS)"
    check "$whole: the ledger has it and its cgroup" yes "$(has_cgroup_of "$launcher")"
    check "$whole: that no agent binds its ranks is said" yes "$(said 'bound as a whole')"
    podman stop --time 0 $whole >/dev/null
    check "$whole: stopped, nothing is left in the ledger" 0 "$(entries)"
    podman start $whole >/dev/null
    launcher=$(podman inspect --format '{{.State.Pid}}' $whole)
    check "$whole: started again, it has its place again" "$(cpus_of "$LAST_NODE") 1" \
        "$(status_of "$launcher" Cpus_allowed_list) $(entries)"
    gone $whole
    check "$whole: removed, nothing is left in the ledger" 0 "$(entries)"

    run $runtime $runtime-plain "" "" sleep 100000
    check "$runtime-plain: left alone" "$ALL_CPUS 0" \
        "$(status_of "$(launcher_of $runtime-plain main)" Cpus_allowed_list) $(entries)"
    gone $runtime-plain

    seen=0
    run $runtime $runtime-refused "cpu-map=9 on-failure=refuse" "" sleep 100000 >refusal 2>&1 || seen=$?
    cat refusal
    # podman keeps what its filter says on standard error to itself.
    check "$runtime-refused: it does not start, and why is in the system's log" "no yes" \
        "$([ "$seen" = 0 ] || echo no) $(said 'oarlock.dev/cpu-map "9"')"
    gone $runtime-refused
    run $runtime $runtime-wrong "cpu-map=9" "" sleep 100000
    check "$runtime-wrong: it runs unbound" "$ALL_CPUS" \
        "$(status_of "$(launcher_of $runtime-wrong main)" Cpus_allowed_list)"
    gone $runtime-wrong
done

start_agent
passes "the agent knows the machine" test -e /run/oarlock/machine.json
for runtime in crun runc; do
    job=$runtime-job
    run $runtime $job "cpu-map=auto mem-map=auto" "$(seq -s ' ' 0 $((RANKS - 1)))" \
        launch "$RANKS" touch-memory --mib 64 --threads 2 --hold 100000
    passes "$job: $RANKS ranks are ready" are_ready $job main "$RANKS"
    passes "$job: every rank is held" are_held $job "$RANKS"
    check_job $job $job "$ALL_CPUS" "$ALL_NODES"
    check "$job: every rank has its cgroup" "$RANKS" "$(rank_cgroups)"
    verified=0
    oarlock verify --all >verified 2>&1 || verified=$?
    cat verified
    check "$job: oarlock verify --all" 0 "$verified"
    gone $job
    passes "$job: removed, with the cgroups of its ranks" are_rank_cgroups 0
done

began=$(uptime_seconds)
number=1
while [ "$number" -le "$STARTS" ]; do
    run crun "start$number" "cpu-map=$LAST_NODE mem-map=auto" "" sleep 100000
    [ "$(status_of "$(launcher_of "start$number" main)" Cpus_allowed_list)" = "$(cpus_of "$LAST_NODE")" ] ||
        check "start $number: it has its place" yes no
    gone "start$number"
    number=$((number + 1))
done
say "$STARTS starts and stops: $(($(uptime_seconds) - began)) s"
check "after $STARTS starts and stops: nothing in the ledger" 0 "$(entries)"
passes "after $STARTS starts and stops: no cgroup of a container" are_no_cgroups_of_containers

# A user's own podman is root in a user namespace only, and writes no cgroup.
USERS_HOME=/home/user
echo 'user:x:1000:1000::/home/user:/bin/sh' >>/etc/passwd
echo 'user:x:1000:' >>/etc/group
mkdir -p $USERS_HOME/.config/containers /run/user/1000
printf '[storage]\ndriver = "vfs"\n' >$USERS_HOME/.config/containers/storage.conf
fill_root $USERS_HOME/root
mkdir -p $USERS_HOME/root/proc $USERS_HOME/root/sys $USERS_HOME/root/dev $USERS_HOME/root/etc $USERS_HOME/root/run
chown -R 1000:1000 $USERS_HOME /run/user/1000

# rootless NAME ANNOTATION...: a container of that user's, which runs while it is looked at.
rootless() {
    name=$1
    shift
    annotations=$(for annotation in "$@"; do printf -- '--annotation oarlock.dev/%s ' "$annotation"; done)
    # shellcheck disable=SC2086 # One --annotation each.
    HOME=$USERS_HOME XDG_RUNTIME_DIR=/run/user/1000 start-stop-daemon -S -c user:user -a /usr/bin/podman -n $name -- \
        --cgroup-manager=cgroupfs --log-level=warn --runtime crun run --name "$name" --network host $annotations --rootfs $USERS_HOME/root \
        /bin/busybox grep Cpus_allowed_list: /proc/self/status
}

seen=$(rootless rootless "cpu-map=$LAST_NODE") || true
check "rootless: the container runs as it is, and why is said" "Cpus_allowed_list:	$ALL_CPUS yes" \
    "$seen $(said 'rootless: this is root in a user namespace only')"
seen=$(rootless rootless-refused "cpu-map=$LAST_NODE" on-failure=refuse 2>&1) || true
echo "$seen"
check "rootless: where that is asked for, it does not start" yes \
    "$(echo "$seen" | grep -q '^Error.*oarlock-hook' && echo yes)"
oarlock hook uninstall
check "uninstalled: no hook of ours" "" "$(find /etc/containers /usr/share/containers -name '*oarlock*' 2>/dev/null)"
# Memory that is away from the CPUs and may be anywhere comes by a policy, where the real runtime has any. What comes from a
# filter podman 5.8 leaves out, so that Oarlock's own runtime stands in front of the real one here.
for real in crun runc; do
    ln -s /bin/oarlock-hook "/tmp/oarlock-runtime-$real"
    run oarlock-$real $real-prefers "cpu-map=$LAST_NODE mem-map=$FIRST_NODE mem-policy=preferred" "" \
        launch 1 touch-memory --mib 64 --threads 2 --hold 100000
    passes "$real-prefers: its rank is ready" are_ready $real-prefers main 1
    expected="none $LAST_NODE"
    if knows_memory_policies $real; then expected="prefers $FIRST_NODE"; fi
    rank=$(ranks_of $real-prefers main | cut -d' ' -f2)
    check "$real-prefers: its memory policy and the nodes of its memory" "$expected" "$(policy_of "$rank")"
    check "$real-prefers: its CPUs, and all nodes" "$(cpus_of "$LAST_NODE") $ALL_NODES" \
        "$(status_of "$rank" Cpus_allowed_list) $(status_of "$rank" Mems_allowed_list)"
    gone $real-prefers
    check "$real-prefers: removed, nothing is left in the ledger" 0 "$(entries)"
done

run crun after "cpu-map=$LAST_NODE" "" sleep 100000
check "uninstalled: an annotation means nothing" "$ALL_CPUS" "$(status_of "$(launcher_of after main)" Cpus_allowed_list)"
gone after
