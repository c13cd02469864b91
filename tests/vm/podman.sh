# podman, with one container for each pod of pod.sh: its first process, its log.

ROOT=/var/lib/root

podman() {
    /usr/bin/podman --cgroup-manager="$CGROUP_DRIVER" --log-level=warn "$@"
}

# start_podman: its settings, and what containers are made of.
start_podman() {
    prepare_host
    mkdir -p /etc/containers /var/lib/containers /usr/local/bin /dev/shm /dev/pts
    grep -q ' /dev/shm ' /proc/mounts || mount -t tmpfs shm /dev/shm
    grep -q ' /dev/pts ' /proc/mounts || mount -t devpts pts /dev/pts
    cat >/etc/containers/containers.conf <<END
[engine]
no_pivot_root = true
events_logger = "file"
[containers]
seccomp_profile = "unconfined"
pids_limit = 0
END
    printf '[storage]\ndriver = "vfs"\nrunroot = "/run/containers"\ngraphroot = "/var/lib/containers"\n' \
        >/etc/containers/storage.conf
    echo '{"default": [{"type": "insecureAcceptAnything"}]}' >/etc/containers/policy.json
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
