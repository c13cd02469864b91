# Pods, made as kubelet makes them, by asking the container runtime; and what the kernel says of them. Files about a pod are
# in /tmp/pods/POD.

RANK='"touch-memory","--mib","64","--threads","2","--hold","100000"'
# Of pods and their containers: the network of the host, and processes that see those of their container alone.
NAMESPACES='"network":2,"pid":1'

# cgroup_parent POD: as kubelet names it to the runtime.
cgroup_parent() {
    case $CGROUP_DRIVER in
    systemd) echo "kubepods-pod_$1.slice" ;;
    *) echo "/kubepods/pod_$1" ;;
    esac
}

# cgroup_of_pod POD: its folder.
cgroup_of_pod() {
    case $CGROUP_DRIVER in
    systemd) echo "/sys/fs/cgroup/kubepods.slice/kubepods-pod_$1.slice" ;;
    *) echo "/sys/fs/cgroup/kubepods/pod_$1" ;;
    esac
}

# put_sandbox POD ANNOTATIONS: a pod without containers. Annotations are the inside of a JSON object.
put_sandbox() {
    mkdir -p "/tmp/pods/$1/log"
    cat >"/tmp/pods/$1/pod.json" <<END
{"metadata":{"name":"$1","uid":"uid-of-$1","namespace":"default"},"log_directory":"/tmp/pods/$1/log",
"labels":{"io.kubernetes.pod.name":"$1","io.kubernetes.pod.namespace":"default","io.kubernetes.pod.uid":"uid-of-$1"},
"annotations":{$2},"linux":{"cgroup_parent":"$(cgroup_parent "$1")",
"security_context":{"namespace_options":{$NAMESPACES}}}}
END
    cri run-pod "/tmp/pods/$1/pod.json" >"/tmp/pods/$1/sandbox"
}

# put_container POD NAME GPUS COMMAND [SECURITY] [RESOURCES] [MOUNTS]: a container that runs. It holds the GPUs of these
# indices, separated by spaces, as a device plugin gives them. The rest is the inside of JSON lists and objects.
put_container() {
    create_container "$@" && start_container "$1" "$2"
}

# create_container: what put_container is given. It does not run yet. $IMAGE is its image, where it is another than the one of
# start_runtime.
create_container() {
    names=
    for index in $3; do names="$names${names:+,}$(uuid_of "$index")"; done
    variables=
    [ -z "$names" ] || variables="{\"key\":\"NVIDIA_VISIBLE_DEVICES\",\"value\":\"$names\"},
{\"key\":\"OARLOCK_GPUS\",\"value\":\"$names\"}"
    cat >"/tmp/pods/$1/$2.json" <<END
{"metadata":{"name":"$2"},"image":{"image":"${IMAGE:-localhost/busybox:1}"},"command":[$4],"envs":[$variables],"log_path":"$2.log",
"labels":{"io.kubernetes.container.name":"$2","io.kubernetes.pod.name":"$1","io.kubernetes.pod.namespace":"default",
"io.kubernetes.pod.uid":"uid-of-$1"},
"mounts":[${7:-}],"linux":{"security_context":{"namespace_options":{$NAMESPACES}${5:+,}${5:-}},
"resources":{${6:-}}}}
END
    cri create "$(cat "/tmp/pods/$1/sandbox")" "/tmp/pods/$1/$2.json" "/tmp/pods/$1/pod.json" >"/tmp/pods/$1/$2"
}

# start_container POD NAME: one that was created.
start_container() {
    cri start "$(cat "/tmp/pods/$1/$2")" || return 1
    state=$(cri state "$(cat "/tmp/pods/$1/$2")") || return 1
    echo "${state#running }" >"/tmp/pods/$1/$2.pid"
}

# remove_pod_now POD: all of it.
remove_pod_now() {
    cri stop-pod "$(cat "/tmp/pods/$1/sandbox")"
    cri remove-pod "$(cat "/tmp/pods/$1/sandbox")"
    remove_cgroup_of_pod "$1"
    rm -r "/tmp/pods/$1"
}

# remove_cgroup_of_pod POD: as kubelet does it, with processes that the runtime has forgotten.
remove_cgroup_of_pod() {
    [ -e "$(cgroup_of_pod "$1")" ] || return 0
    [ "$(cut -d' ' -f2 "$(cgroup_of_pod "$1")/cgroup.events" | head -n 1)" = 0 ] ||
        say "$1: the runtime has left processes behind"
    echo 1 >"$(cgroup_of_pod "$1")/cgroup.kill"
    await 10 no_cgroup_below "$(cgroup_of_pod "$1")"
    case $CGROUP_DRIVER in
    systemd) systemctl stop "$(cgroup_parent "$1")" ;;
    *) rmdir "$(cgroup_of_pod "$1")" ;;
    esac
}

# no_cgroup_below FOLDER: whether nothing is below it, once what has no processes is removed.
no_cgroup_below() {
    find "$1" -mindepth 1 -type d | sort -r | while read -r folder; do rmdir "$folder" 2>/dev/null || true; done
    [ -z "$(find "$1" -mindepth 1 -type d)" ]
}

# launcher_of POD NAME: the container's first process.
launcher_of() {
    cat "/tmp/pods/$1/$2.pid"
}

# cgroup_of PID: its folder.
cgroup_of() {
    echo "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$1/cgroup")"
}

# ranks_of POD NAME: the ranks among the container's processes, as RANK PID, a line each, in order.
ranks_of() {
    while read -r process; do
        [ "$(cat "/proc/$process/comm" 2>/dev/null)" != touch-memory ] || echo "$(rank_of "$process") $process"
    done <"$(cgroup_of "$(launcher_of "$1" "$2")")/cgroup.procs" | sort -n
}

# ready POD NAME: a line for each rank that has touched its memory.
ready() {
    grep READY "/tmp/pods/$1/log/$2.log" 2>/dev/null || true
}

# are_ready POD NAME COUNT: whether so many ranks have touched their memory, those included that are gone.
are_ready() {
    [ "$(ready "$1" "$2" | wc -l)" -ge "$3" ]
}

# are_held POD COUNT: whether that many ranks of its main container have touched their memory, and are where RANKS_ON
# says.
are_held() {
    [ "$(ranks_of "$1" main | wc -l)" = "$2" ] || return 1
    ranks_of "$1" main | while read -r rank process; do
        node=$(entry "$rank" "$RANKS_ON")
        [ -z "$(stray_threads "$process" "$(cpus_of "$node")")" ] || return 1
        case $(anonymous_mib "$process") in
        *' '*) return 1 ;;
        "$node:6"[4-9] | "$node:7"*) ;;
        *) return 1 ;;
        esac
    done
}

# migrated_mib: how much memory the kernel has moved from node to node since the guest's boot, but for its NUMA balancing.
migrated_mib() {
    awk '$1 == "pgmigrate_success" { all = $2 } $1 == "numa_pages_migrated" { balanced = $2 }
        END { print int((all - balanced) / 256) }' /proc/vmstat
}

# are_in_rank_cgroups POD COUNT: whether that many processes of its main container are in cgroups of ranks. Nothing of theirs
# is read.
are_in_rank_cgroups() {
    [ "$(while read -r process; do cgroup_of "$process"; done <"$(cgroup_of "$(launcher_of "$1" main)")/cgroup.procs" |
        grep -c oarlock-rank-)" -ge "$2" ]
}

# check_job WHO POD CPUS MEMS: its ranks are where RANKS_ON says; its launcher may use all of its container, which has
# these CPUs and nodes.
check_job() {
    ranks_of "$2" main >/tmp/ranks
    while read -r _ process; do
        check_rank "$process" 64 "$1"
    done </tmp/ranks
    launcher=$(launcher_of "$2" main)
    check "$1: the launcher may use cpus $3" "$3" "$(status_of "$launcher" Cpus_allowed_list)"
    check "$1: and memory of nodes $4" "$4" "$(status_of "$launcher" Mems_allowed_list)"
    case $(cgroup_of "$launcher") in
    */oarlock-*) seen="in $(cgroup_of "$launcher")" ;;
    *) seen="in the container" ;;
    esac
    check "$1: it is in no rank's cgroup" "in the container" "$seen"
}

# rank_cgroups: how many cgroups of ranks there are.
rank_cgroups() {
    find /sys/fs/cgroup -type d -name 'oarlock-rank-*' | wc -l
}

# are_rank_cgroups COUNT: whether there are so many.
are_rank_cgroups() {
    [ "$(rank_cgroups)" = "$1" ]
}

# policy_of PROCESS: whether it has a memory policy, and the nodes of its memory.
policy_of() {
    echo "$(grep -q ' prefer:' "/proc/$1/numa_maps" && echo prefers || echo none) $(anonymous_mib "$1" | tr ' ' '\n' | cut -d: -f1 | paste -s)"
}

# knows_memory_policies RUNTIME: whether it gives containers one (linux.memoryPolicy of runtime-spec 1.3).
knows_memory_policies() {
    "$1" features | grep -q '"memoryPolicy"'
}
