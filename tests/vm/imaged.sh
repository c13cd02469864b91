# The agent in a container of the image that is built here, with the privileges and the mounts that the chart gives it.

IMAGE_OF_AGENT=docker.io/$(sed -n 's/^ *image: \(oarlock\/.*\)/\1/p' "$VM/oarlock.yaml" | head -n 1)

# settings_of_agent: the chart's, as a folder of the host.
settings_of_agent() {
    mkdir -p /etc/oarlock
    sed -n '/^  config.yaml: |/,/^---/s/^    //p' "$VM/oarlock.yaml" >/etc/oarlock/config.yaml
}

# is_agent_ready: whether it says so.
is_agent_ready() {
    wget -q -O - http://127.0.0.1:9837/readyz >/dev/null 2>&1
}

# agent_process: the agent's container's own.
agent_process() {
    pidof oarlock-agent
}

# agents_container: its id.
agents_container() {
    grep -o '[0-9a-f]\{64\}' "/proc/$(agent_process)/cpuset"
}

# in_agents_container COMMAND...: as kubectl exec does it.
in_agents_container() {
    cri exec "$(agents_container)" "$@"
}

# check_agents_privileges: that it has those of the chart, and no others.
check_agents_privileges() {
    own=$(agent_process)
    check "the agent's capabilities are those of the chart" 0000000000881004 "$(status_of "$own" CapEff)"
    check "it can get no others" 1 "$(status_of "$own" NoNewPrivs)"
    check "it has a cgroup namespace of its own" no \
        "$([ "$(readlink "/proc/$own/ns/cgroup")" = "$(readlink /proc/self/ns/cgroup)" ] && echo yes || echo no)"
    check "its root file system can not be written" ro "$(awk '$5 == "/" { print substr($6, 1, 2) }' "/proc/$own/mountinfo")"
}
