# What a rank has, read here from /proc by awk and sed: a second opinion beside oarlock's own.

# environ_of PID CPUS: its environment, read on these CPUs. Before Linux 6.6 the page may be moved to the reader's node.
environ_of() {
    taskset -c "$2" cat "/proc/$1/environ"
}

# variable_of PID NAME: that variable of the process. Whoever looks does not want to move anything, and reads on its CPUs.
variable_of() {
    environ_of "$1" "$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' "/proc/$1/status")" |
        tr '\0' '\n' | sed -n "s/^$2=//p"
}

# rank_of PID: its local rank.
rank_of() {
    variable_of "$1" LOCAL_RANK
}

# stray_threads PID CPUS: the threads whose CPUs are others.
stray_threads() {
    awk -v cpus="$2" '/^Cpus_allowed_list:/ && $2 != cpus {
        split(FILENAME, part, "/")
        printf "%s(%s) ", part[5], $2
    }' "/proc/$1/task/"*/status
}

# anonymous_mib PID: MiB of anonymous memory on each node, as NODE:MIB.
anonymous_mib() {
    awk '
        / anon=/ && !/ file=/ {
            for (i = 1; i <= NF; i++) if ($i ~ /^kernelpagesize_kB=/) size = substr($i, 19)
            for (i = 1; i <= NF; i++) if ($i ~ /^N[0-9]+=/) {
                split(substr($i, 2), part, "=")
                kib[part[1]] += part[2] * size
            }
        }
        END { for (node in kib) printf "%s%s:%d", some++ ? " " : "", node, kib[node] / 1024 + (kib[node] % 1024 > 0) }
    ' "/proc/$1/numa_maps"
}

# pages_beside PID NODE: the lines about anonymous memory that is on other nodes as well.
pages_beside() {
    awk -v node="N$2=" '/ anon=/ && !/ file=/ {
        for (i = 1; i <= NF; i++) if ($i ~ /^N[0-9]+=/ && index($i, node) != 1) { print; next }
    }' "/proc/$1/numa_maps"
}

# check_rank PID MIB WHO: the rank's threads are on the CPUs of the node that the machine's declaration gives it, and its
# anonymous memory, at least so much, is on that node alone.
check_rank() {
    rank=$(rank_of "$1")
    node=$(entry "$rank" "$RANKS_ON")
    check "$3: threads of rank $rank on cpus $(cpus_of "$node")" "" "$(stray_threads "$1" "$(cpus_of "$node")")"
    memory=$(anonymous_mib "$1")
    case $memory in
    "$node":*' '*) seen="also elsewhere, $memory" ;;
    "$node":*) [ "${memory#*:}" -ge "$2" ] && seen="all there" || seen="too little, $memory" ;;
    *) seen="elsewhere, $memory" ;;
    esac
    check "$3: memory of rank $rank on node $node ($memory MiB)" "all there" "$seen"
    [ "$seen" = "all there" ] || say "$(pages_beside "$1" "$node" | paste -s -d'|')"
}

# wait_for COUNT LAUNCHER COMMAND...: until the command prints so many lines, or the launcher is gone.
wait_for() {
    count=$1
    process=$2
    shift 2
    while [ "$("$@" | wc -l)" -lt "$count" ]; do
        kill -0 "$process" || return 1
        sleep 1
    done
}

# ready_pids FILE: the pids that touch-memory reported there.
ready_pids() {
    sed -n 's/.*READY \([0-9][0-9]*\).*/\1/p' "$1"
}

# verify NAME STATUS PIDS: oarlock's own opinion, by its exit status. What it printed is in verified.txt.
verify() {
    seen=0
    # shellcheck disable=SC2086 # One --pid each.
    oarlock verify $(printf -- '--pid %s ' $3) >verified.txt 2>&1 || seen=$?
    cat verified.txt
    check "$1" "$2" "$seen"
}
