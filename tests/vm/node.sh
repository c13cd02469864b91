# A Kubernetes node in the guest: containerd, and a kubelet that is given its pods as files.

KUBELET_ROOT=/var/lib/kubelet
MANIFESTS=/etc/kubernetes/manifests
# One core of the first node.
RESERVED_CPUS=0-1

# await SECONDS COMMAND...: until the command succeeds; fails when that takes longer.
await() {
    until_then=$(($(cut -d. -f1 /proc/uptime) + $1))
    shift
    until "$@"; do
        [ "$(cut -d. -f1 /proc/uptime)" -lt "$until_then" ] || return 1
        sleep 1
    done
}

# uptime_seconds: since the guest's boot.
uptime_seconds() {
    cut -d. -f1 /proc/uptime
}

# passes NAME COMMAND...: the command succeeds within two minutes.
passes() {
    name=$1
    shift
    began=$(uptime_seconds)
    seen="not within 120 s"
    if await 120 "$@"; then seen=yes; fi
    check "$name ($(($(uptime_seconds) - began)) s)" yes "$seen"
}

# keep_logs PROGRAM...: what they said, for whoever looks for a reason.
keep_logs() {
    for program in "$@"; do
        [ -s "/tmp/$program.log" ] || continue
        gzip -c "/tmp/$program.log" >"/tmp/$program.log.gz"
        send "$program.log.gz" "/tmp/$program.log.gz"
    done
}

# prepare_host: folders, cgroup controllers and names that every runtime expects.
prepare_host() {
    mkdir -p /run
    for folder in /var/lib /run /var/log /var/run; do
        mkdir -p "$folder"
        grep -q " $folder " /proc/mounts || mount -t tmpfs tmpfs "$folder"
    done
    if [ "$CGROUP_DRIVER" = cgroupfs ]; then
        # Processes may stay in the root, and kubelet looks for these below it.
        for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
            echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control || true
        done
    fi
    echo 'root:x:0:0:root:/:/bin/sh' >/etc/passwd
    echo 'root:x:0:' >/etc/group
    [ -s /etc/machine-id ] || echo 0123456789abcdef0123456789abcdef >/etc/machine-id
    : >/etc/resolv.conf
}

# start_runtime: the one that answers kubelet, with an image localhost/busybox:1 that holds busybox and is the sandboxes' too.
# $MORE_SETTINGS prints what its settings have beside.
start_runtime() {
    prepare_host
    mkdir -p /etc/containerd /etc/crio /etc/kubernetes
    case $RUNTIME-$CONTAINERD in
    crio-*) settings_of_crio >/etc/crio/crio.conf ;;
    *-2.*) settings_of_2 >/etc/containerd/config.toml ;;
    *) settings_of_1 >/etc/containerd/config.toml ;;
    esac
    case $RUNTIME in
    crio) "${MORE_SETTINGS:-true}" >>/etc/crio/crio.conf ;;
    *) "${MORE_SETTINGS:-true}" >>/etc/containerd/config.toml ;;
    esac
    # podman writes into the storage of a CRI-O, which asks for the image of sandboxes as it starts.
    [ "$RUNTIME" = containerd ] || import_image
    run_runtime
    [ "$RUNTIME" = crio ] || import_image
}

# run_runtime: once more, where it has died. Its process is $runtime.
run_runtime() {
    $RUNTIME >>"/tmp/$RUNTIME.log" 2>&1 &
    runtime=$!
    await 120 cri version >/dev/null 2>&1
}

# settings_of_VERSION: what that containerd is told. The first root can not be pivoted away from, and is no place
# for layers over layers.
settings_of_2() {
    cat <<END
version = 3
[plugins.'io.containerd.cri.v1.images']
snapshotter = "native"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "localhost/busybox:1"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "$OCI_RUNTIME"
NoPivotRoot = true
SystemdCgroup = $([ "$CGROUP_DRIVER" = systemd ] && echo true || echo false)
END
}

settings_of_1() {
    cat <<END
version = 2
[plugins.'io.containerd.grpc.v1.cri']
sandbox_image = "localhost/busybox:1"
[plugins.'io.containerd.grpc.v1.cri'.containerd]
snapshotter = "native"
[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc.options]
BinaryName = "$OCI_RUNTIME"
NoPivotRoot = true
SystemdCgroup = $([ "$CGROUP_DRIVER" = systemd ] && echo true || echo false)
END
    # An older one has no such plugin.
    if [ "$CONTAINERD" = 1.7 ]; then printf "[plugins.'io.containerd.nri.v1.nri']\ndisable = false\n"; fi
}

# settings_of_crio: and of the storage that it shares with podman, which is there for images.
settings_of_crio() {
    storage_of_podman
    for folder in shm pts; do
        mkdir -p "/dev/$folder"
        grep -q " /dev/$folder " /proc/mounts || mount -t "$([ $folder = pts ] && echo devpts || echo tmpfs)" "$folder" "/dev/$folder"
    done
    # As distributions have it: a short name may be Docker's.
    echo 'unqualified-search-registries = ["docker.io"]' >/etc/containers/registries.conf
    cat <<END
[crio.api]
listen = "$CRI_SOCKET"
[crio.image]
pause_image = "localhost/busybox:1"
pause_command = "/bin/sleep 100000"
[crio.runtime]
no_pivot = true
disable_hostport_mapping = true
cgroup_manager = "$CGROUP_DRIVER"
conmon_cgroup = "$([ "$CGROUP_DRIVER" = systemd ] && echo system.slice || echo pod)"
default_runtime = "$OCI_RUNTIME"
[crio.runtime.runtimes.$OCI_RUNTIME]
runtime_path = "/bin/$OCI_RUNTIME"
monitor_path = "/usr/bin/conmon"
END
}

# storage_of_podman: where podman and CRI-O have images and containers, and that images may come from anywhere.
storage_of_podman() {
    mkdir -p /etc/containers /var/lib/containers /var/tmp
    printf '[storage]\ndriver = "vfs"\nrunroot = "/run/containers"\ngraphroot = "/var/lib/containers"\n' \
        >/etc/containers/storage.conf
    echo '{"default": [{"type": "insecureAcceptAnything"}]}' >/etc/containers/policy.json
}

# fill_root FOLDER: with what containers are made of here: busybox, a launcher and its ranks.
fill_root() {
    mkdir -p "$1/bin" "$1/tmp" "$1/lib64" "$1/lib/x86_64-linux-gnu"
    chmod 1777 "$1/tmp"
    cp /bin/busybox /bin/touch-memory "$VM/launch" "$1/bin"
    cp /lib64/ld-linux-x86-64.so.2 "$1/lib64"
    cp /lib/x86_64-linux-gnu/libc.so.6 /lib/x86_64-linux-gnu/libgcc_s.so.1 "$1/lib/x86_64-linux-gnu"
    for name in sh sleep taskset dirname readlink; do ln -s busybox "$1/bin/$name"; done
}

# import_image: into the runtime, as `docker save` would have written it.
import_image() {
    layer=/tmp/image/layer
    fill_root "$layer"
    (
        cd /tmp/image
        tar -cf layer.tar -C layer .
        digest=$(sha256sum layer.tar | cut -d' ' -f1)
        cat >config.json <<END
{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["/bin/sleep","100000"]},
"rootfs":{"type":"layers","diff_ids":["sha256:$digest"]}}
END
        echo '[{"Config":"config.json","RepoTags":["localhost/busybox:1"],"Layers":["layer.tar"]}]' >manifest.json
        tar -cf /tmp/image.tar manifest.json config.json layer.tar
    )
    load_image /tmp/image.tar
    rm -r /tmp/image /tmp/image.tar
}

# load_image FILE: into the runtime, from one file for all of it.
load_image() {
    case $RUNTIME-$CONTAINERD in
    crio-*) podman load --input "$1" ;;
    # The oldest one knows no other way.
    *-1.6) ctr -n k8s.io images import --snapshotter native "$1" ;;
    *) ctr -n k8s.io images import --local --snapshotter native "$1" ;;
    esac
}

# tag_image IMAGE NAME: one that is there has that name, too.
tag_image() {
    case $RUNTIME in
    crio) podman tag "$1" "$2" ;;
    *) ctr -n k8s.io images tag "$1" "$2" ;;
    esac
}

# start_kubelet POLICY [CPU_POLICY]: with these policies of the Topology Manager and the CPU Manager, the flags in
# $KUBELET_FLAGS, and a server at $KUBELET_PORT where that is set. Its process is $kubelet.
start_kubelet() {
    mkdir -p "$MANIFESTS"
    cat >/etc/kubernetes/kubelet.yaml <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: $MANIFESTS
fileCheckFrequency: 2s
containerRuntimeEndpoint: unix://$CRI_SOCKET
cgroupDriver: cgroupfs
failSwapOn: false
localStorageCapacityIsolation: false
enableServer: $([ -n "${KUBELET_PORT:-}" ] && echo true || echo false)
port: ${KUBELET_PORT:-10250}
readOnlyPort: 10255
cpuManagerPolicy: ${2:-static}
reservedSystemCPUs: "$RESERVED_CPUS"
topologyManagerPolicy: $1
memoryManagerPolicy: Static
systemReserved: {memory: 156Mi}
evictionHard: {memory.available: 100Mi}
reservedMemory:
- numaNode: 0
  limits: {memory: 256Mi}
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
END
    # shellcheck disable=SC2086 # Flags are words.
    kubelet --config /etc/kubernetes/kubelet.yaml --v=2 ${KUBELET_FLAGS:-} >>/tmp/kubelet.log 2>&1 &
    kubelet=$!
}

# put_pod NAME RESOURCE COUNT [COMMAND RESTART_POLICY]: a pod that asks for so many of ours, and for two CPUs of its own.
put_pod() {
    cat >"/tmp/$1.yaml" <<END
apiVersion: v1
kind: Pod
metadata: {name: $1, namespace: default}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  restartPolicy: ${5:-Always}
  containers:
  - name: main
    image: localhost/busybox:1
    imagePullPolicy: Never
    command: [/bin/sh, -c, "exec ${4:-sleep 100000}"]
    env: [{name: POD, value: $1}]
    resources:
      limits: {cpu: "2", memory: 64Mi, oarlock.dev/$2: "$3"}
END
    mv "/tmp/$1.yaml" "$MANIFESTS/$1.yaml"
}

# rank_pod POD ANNOTATIONS [RESOURCES]: the pod of another user's, as an operator makes it of a PyTorchJob's replica, with a
# rank for each GPU that the shape has. Annotations and resources are the inside of a mapping.
rank_pod() {
    cat <<END
apiVersion: v1
kind: Pod
metadata:
  name: $1
  namespace: default
  labels: {training.kubeflow.org/job-name: train, training.kubeflow.org/replica-type: worker}
  annotations: {$2}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  securityContext: {runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: main
    image: localhost/busybox:1
    imagePullPolicy: Never
    command: [launch, "$RANKS", $(echo "$RANK" | sed 's/,/, /g')]
    env: [{name: PET_NPROC_PER_NODE, value: "$RANKS"}, {name: POD, value: $1}]
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    resources: {${3:-}}
END
}

# ranks_in POD: its ranks, as RANK PID, a line each, in order.
ranks_in() {
    for process in $(pidof touch-memory); do
        [ "$(variable_of "$process" POD)" != "$1" ] || echo "$(rank_of "$process") $process"
    done | sort -n
}

# are_in_their_cgroups POD: whether all of its ranks are, and have touched their memory.
are_in_their_cgroups() {
    [ "$(ranks_in "$1" | wc -l)" = "$RANKS" ] || return 1
    ranks_in "$1" | while read -r rank process; do
        case $(cgroup_of "$process") in
        */"oarlock-rank-$rank") ;;
        *) return 1 ;;
        esac
        [ "$(status_of "$process" VmHWM | sed 's/ kB//')" -gt 65536 ] || return 1
    done
}

# check_ranks WHO POD [MIB]: all of them are at their places, each with so much memory.
check_ranks() {
    ranks_in "$2" >/tmp/ranks
    check "$1: $RANKS ranks" "$RANKS" "$(wc -l </tmp/ranks)"
    while read -r _ process; do
        check_rank "$process" "${3:-64}" "$1"
    done </tmp/ranks
}

# remove_pod NAME: what put_pod did.
remove_pod() {
    rm "$MANIFESTS/$1.yaml"
}

# start_agent [STRATEGIES]: with the GPUs of the shape, from NVML's stand-in, given to containers in these ways. Its process
# is $agent.
start_agent() {
    [ -e /tmp/gpus.json ] || gpus_of_the_shape >/tmp/gpus.json
    touch /tmp/control
    cat >/tmp/agent.yaml <<END
gpu: {mode: own, deviceListStrategy: [${1:-envvar}]}
reservedCpus: "$RESERVED_CPUS"
health: {probeInterval: 1s, recoverAfter: 5s}
END
    OARLOCK_NVML_MACHINE=/tmp/gpus.json OARLOCK_NVML_CONTROL=/tmp/control oarlock-agent --config /tmp/agent.yaml \
        --kubelet-root "$KUBELET_ROOT" --nvml-library /lib/liboarlock_nvml_stub.so >>/tmp/agent.log 2>&1 &
    agent=$!
}

# synchronised: how often agents have heard from the runtime what runs.
synchronised() {
    cat /tmp/agent.log 2>/dev/null | grep -c synchronised || true
}

# have_synchronised COUNT: whether it was more often than that.
have_synchronised() {
    [ "$(synchronised)" -gt "$1" ]
}

# uuid_of INDEX: of that GPU.
uuid_of() {
    printf 'GPU-00000000-0000-0000-0000-%012d' "$1"
}

# gpus_of_the_shape: as a machine file, as much of it as the stand-in needs.
gpus_of_the_shape() {
    nodes=
    for folder in /sys/devices/system/node/node[0-9]*; do
        nodes="$nodes${nodes:+,}{\"id\":${folder##*node},\"cpulist\":\"$(cat "$folder/cpulist")\"}"
    done
    gpus=
    index=0
    for address in $(echo "$GPUS" | tr , ' '); do
        gpus="$gpus${gpus:+,}{\"index\":$index,\"pci\":\"$address\",\"numa_node\":$(entry $index "$GPU_NODES"),\"uuid\":\"$(uuid_of $index)\"}"
        index=$((index + 1))
    done
    echo "{\"name\":\"$SHAPE\",\"nodes\":[$nodes],\"gpus\":[$gpus]}"
}

# kubelets_word: what kubelet could give away and what pods hold. A kubelet with too much to do does not answer at once.
kubelets_word() {
    for _ in 1 2 3 4 5; do
        if pod-resources "$KUBELET_ROOT" >/tmp/kubelets-word; then
            cat /tmp/kubelets-word
            return
        fi
        sleep 1
    done
}

# allocatable RESOURCE: ids and nodes of those that kubelet could give away, a line each.
allocatable() {
    kubelets_word | sed -n "s|^allocatable oarlock.dev/$1 ||p" | sort
}

# allocatable_are COUNT: whether kubelet could give away so many GPUs.
allocatable_are() {
    [ "$(allocatable gpu | wc -l)" = "$1" ]
}

# held POD: ids and nodes of what the pod has of ours, a line each. A pod from a file is called after its host too.
held() {
    kubelets_word | sed -n "s|^held default $1-$SHAPE main oarlock.dev/[^ ]* ||p" | sort
}

# holds POD COUNT: whether the pod has so many.
holds() {
    [ "$(held "$1" | wc -l)" = "$2" ]
}

# holds_as POD FILE: whether the pod has what the file says.
holds_as() {
    [ "$(held "$1")" = "$(cat "$2")" ]
}

# told_of POD: what kubelet says of the pod, in one line.
told_of() {
    wget -q -O - http://127.0.0.1:10255/pods | sed 's/{"metadata":{"name":/\n&/g' |
        grep "^{\"metadata\":{\"name\":\"$1-$SHAPE\""
}

# refused POD REASON: whether kubelet has refused the pod for that reason.
refused() {
    told_of "$1" | grep -q "\"reason\":\"$2\""
}

# has_succeeded POD: whether kubelet says that the pod has done its work.
has_succeeded() {
    told_of "$1" | grep -q '"phase":"Succeeded"'
}

# told_health POD ID HEALTH: whether the pod's status says so of that device.
told_health() {
    told_of "$1" | grep -o '"allocatedResourcesStatus":.*' | grep -q "\"resourceID\":\"$2\",\"health\":\"$3\""
}

# cpus_held POD: the CPUs that are the pod's own.
cpus_held() {
    kubelets_word | sed -n "s|^cpus default $1-$SHAPE main ||p"
}

# nodes_among: how many of the lines of ids and nodes name which, as COUNTxNODE.
nodes_among() {
    cut -d' ' -f2 | sort | uniq -c | awk '{ printf "%s%sx%s", some++ ? " " : "", $1, $2 }'
}

# ids_among: the ids of the lines of ids and nodes.
ids_among() {
    cut -d' ' -f1 | sort | paste -s -d' '
}

# each_of LIST: the numbers in a list such as 0-3,8, a line each.
each_of() {
    echo "$1" | tr , '\n' | while IFS=- read -r first last; do
        [ -z "$first" ] || seq "$first" "${last:-$first}"
    done
}

# process_of POD: the process of its container.
process_of() {
    for candidate in $(pidof sleep); do
        if tr '\0' '\n' <"/proc/$candidate/environ" 2>/dev/null | grep -q -x "POD=$1"; then
            echo "$candidate"
        fi
    done
}

# has_a_process POD: whether its container runs.
has_a_process() {
    [ -n "$(process_of "$1")" ]
}

# has_another_process POD PID: whether its container runs as another process than this.
has_another_process() {
    has_a_process "$1" && [ "$(process_of "$1")" != "$2" ]
}

# opening PID FILE: what the kernel says to who opens the file as one of that process's container. Whether a device may be
# opened is for the cgroup to say, and after that for its driver.
opening() {
    group=/sys/fs/cgroup$(sed 's/^0:://' "/proc/$1/cgroup")
    sh -c 'echo $$ >"$1/cgroup.procs" && exec cat "$2"' sh "$group" "$2" 2>&1 | sed 's/.*: //'
}

# status_of PID NAME: that line of its status.
status_of() {
    sed -n "s/^$2:[[:space:]]*//p" "/proc/$1/status"
}

# sorted_variable_of PID NAME: that variable of the process, its entries sorted.
sorted_variable_of() {
    variable_of "$1" "$2" | tr , '\n' | sort | paste -s -d' '
}
