# Ranks that each touch 64 MiB, under `oarlock run` and then one by one under `oarlock exec`: every thread and every page of
# anonymous memory is where the shape says, and oarlock verify says so too, until one thread is moved by hand.
. "$VM/report.sh"
. "$VM/ranks.sh"

RANK='touch-memory --mib 64 --threads 2 --hold 600'

# a_cpu_beside NODE: a CPU of another node.
a_cpu_beside() {
    for folder in /sys/devices/system/node/node[0-9]*; do
        cpus=$(cat "$folder/cpulist")
        [ "${folder##*node}" != "$1" ] && [ -n "$cpus" ] && echo "${cpus%%[-,]*}" && return
    done
}

# check_ranks WHO FILE LAUNCHER: waits for the ranks that report to the file, and looks at each.
check_ranks() {
    wait_for "$RANKS" "$3" ready_pids "$2" || cat "$2"
    pids=$(ready_pids "$2")
    for pid in $pids; do
        check_rank "$pid" 64 "$1"
    done
    verify "$1: verified" 0 "$pids"
}

oarlock run $MAPS -- $RANK >run.log 2>&1 &
launcher=$!
check_ranks run run.log "$launcher"

moved=$(echo "$pids" | sed -n 2p)
thread=$(ls "/proc/$moved/task" | tail -n 1)
taskset -p -c "$(a_cpu_beside "$(entry "$(rank_of "$moved")" "$RANKS_ON")")" "$thread"
verify "run: not verified after thread $thread was moved" 1 "$pids"
check "run: verify names thread $thread" yes "$(grep -q -w "$thread" verified.txt && echo yes)"

kill "$launcher"
wait "$launcher" || true
check "run: no rank is left behind" "" "$(pidof touch-memory || true)"

rank=0
while [ "$rank" -lt "$RANKS" ]; do
    LOCAL_RANK=$rank LOCAL_WORLD_SIZE=$RANKS oarlock exec $MAPS -- $RANK >>exec.log 2>&1 &
    rank=$((rank + 1))
done
check_ranks exec exec.log $!
