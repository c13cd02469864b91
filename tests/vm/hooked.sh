# What the hook does for containers: what the ledger and the system's log have of them.

LEDGER=/run/oarlock/ledger
SYSLOG=/tmp/messages

# start_syslog: the system's log.
start_syslog() {
    syslogd -O "$SYSLOG"
}

# said TEXT: whether the system's log has it.
said() {
    grep -q -F -- "$1" "$SYSLOG" && echo yes || echo no
}

# entries: how many containers the ledger holds.
entries() {
    find "$LEDGER" -name '*.json' 2>/dev/null | wc -l
}

# are_entries COUNT: whether it holds so many.
are_entries() {
    [ "$(entries)" = "$1" ]
}

# has_cgroup_of PID: whether an entry names the cgroup of this process.
has_cgroup_of() {
    grep -q "\"cgroup\":\"$(sed -n 's/^0:://p' "/proc/$1/cgroup")\"" "$LEDGER"/*.json && echo yes || echo no
}

# rank_variable POD NAME: of the container's first process.
rank_variable() {
    tr '\0' '\n' <"/proc/$(launcher_of "$1" main)/environ" | sed -n "s/^$2=//p"
}
