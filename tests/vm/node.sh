# A Kubernetes node in the guest: containerd, and a kubelet that is given its pods as files.

KUBELET_ROOT=/var/lib/kubelet
MANIFESTS=/etc/kubernetes/manifests

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

# start_runtime: containerd, with an image localhost/busybox:1 that holds busybox and is the sandboxes' too.
start_runtime() {
    for folder in /var/lib /run /var/log /var/run; do
        mkdir -p "$folder"
        mount -t tmpfs tmpfs "$folder"
    done
    # Processes may stay in the root, and kubelet looks for these below it.
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control || true
    done
    mkdir -p /etc/containerd /etc/kubernetes
    echo 'root:x:0:0:root:/:/bin/sh' >/etc/passwd
    echo 'root:x:0:' >/etc/group
    echo 0123456789abcdef0123456789abcdef >/etc/machine-id
    : >/etc/resolv.conf
    # The first root can not be pivoted away from, and is no place for layers over layers.
    cat >/etc/containerd/config.toml <<'END'
version = 3
[plugins.'io.containerd.cri.v1.images']
snapshotter = "native"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "localhost/busybox:1"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
NoPivotRoot = true
END
    containerd >/tmp/containerd.log 2>&1 &
    await 60 ctr version >/dev/null 2>&1
    import_image
}

# import_image: into containerd, as `docker save` would have written it.
import_image() {
    mkdir -p /tmp/image/layer/bin /tmp/image/layer/tmp
    cp /bin/busybox /tmp/image/layer/bin/busybox
    for name in sh sleep; do ln -s busybox "/tmp/image/layer/bin/$name"; done
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
    ctr -n k8s.io images import --snapshotter native /tmp/image.tar
}

# start_kubelet POLICY: with that policy of the Topology Manager. Its process is $kubelet.
start_kubelet() {
    mkdir -p "$MANIFESTS"
    cat >/etc/kubernetes/kubelet.yaml <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: $MANIFESTS
fileCheckFrequency: 2s
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
failSwapOn: false
localStorageCapacityIsolation: false
enableServer: false
readOnlyPort: 10255
cpuManagerPolicy: static
reservedSystemCPUs: "0,8"
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
    kubelet --config /etc/kubernetes/kubelet.yaml --v=2 >>/tmp/kubelet.log 2>&1 &
    kubelet=$!
}

# put_pod NAME GPUS: a pod that asks for so many, has CPUs of its own, and writes down what it was given.
put_pod() {
    cat >"/tmp/$1.yaml" <<END
apiVersion: v1
kind: Pod
metadata: {name: $1, namespace: default}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: localhost/busybox:1
    imagePullPolicy: Never
    command: [/bin/sh, -c, 'sleep 100000']
    resources:
      limits: {cpu: "2", memory: 64Mi$([ "$2" = 0 ] || printf ', oarlock.dev/gpu: "%s"' "$2")}
END
    mv "/tmp/$1.yaml" "$MANIFESTS/$1.yaml"
}

# process_of POD: the first process of its container.
process_of() {
    for candidate in $(pidof sleep); do
        tr '\0' '\n' <"/proc/$candidate/environ" 2>/dev/null | grep -q "^HOSTNAME=" || true
    done
}
