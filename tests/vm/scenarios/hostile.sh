# Containers that mean no good, or do not know better: what they call themselves and their ranks, how much they write, how
# often they fork and execute. The ranks of others stay held, a new one is held soon, and the agent's share of a CPU is
# bounded.
. "$VM/report.sh"
. "$VM/ranks.sh"
. "$VM/node.sh"
. "$VM/pod.sh"

RESERVED_CPUS=
AUTO='"oarlock.dev/cpu-map":"auto","oarlock.dev/mem-map":"auto"'
ALL_GPUS=$(seq -s ' ' 0 $((RANKS - 1)))
ALL_CPUS=$(cat /sys/devices/system/cpu/online)
ALL_NODES=$(cat /sys/devices/system/node/has_memory)
# Seconds over which a share of a CPU is taken, and the ticks of one.
SPAN=10
TICKS=100

trap 'keep_logs "$RUNTIME" agent' EXIT

# ticks: what the agent has used of all CPUs since its start.
ticks() {
    awk '{ print $14 + $15 }' "/proc/$agent/stat"
}

# forks: how many processes this machine has started.
forks() {
    sed -n 's/^processes //p' /proc/stat
}

# check_share WHO PERCENT: the agent uses at most that much of a CPU. An emulated one is some twenty times slower.
check_share() {
    used=$(ticks)
    forked=$(forks)
    sleep "$SPAN"
    used=$((($(ticks) - used) * 100 / TICKS / SPAN))
    say "$1: $((($(forks) - forked) / SPAN)) processes a second are started, and the agent uses $used % of a CPU"
    check "$1: the agent uses at most $2 % of a CPU" yes "$([ "$used" -le "$2" ] && echo yes)"
}

# check_a_new_rank WHO: a rank of the job that is killed, and started again by its launcher, is held.
check_a_new_rank() {
    kill -9 "$(ranks_of job main | sed -n 's/^3 //p')"
    passes "$1: every rank of the job is held" are_held job "$RANKS"
    check_job "$1" job "$ALL_CPUS" "$ALL_NODES"
    say "$1: the last of its ranks $(sed -n 's/.*a rank is held.* rank=3 .*\(took=.*\)/\1/p' /tmp/agent.log | tail -n 1)"
}

# told POD: the lines about a pod in the agent's log.
told() {
    grep "default/$1" /tmp/agent.log || true
}

# is_told POD WORDS: whether one of them has these words.
is_told() {
    told "$1" | grep -q -e "$2"
}

# check_lines WHO POD: there are few, and none is long.
check_lines() {
    check "$1: at most 24 lines are told" yes "$([ "$(told "$2" | wc -l)" -le 24 ] && echo yes)"
    check "$1: each of them is short" 0 "$(told "$2" | awk 'length > 1200' | wc -l)"
}

start_runtime
start_agent
passes "the agent knows what runs" have_synchronised 0

put_sandbox job "$AUTO"
put_container job main "$ALL_GPUS" "\"launch\",\"$RANKS\",$RANK"
passes "job: every rank is held" are_held job "$RANKS"
ranks_of job main | grep -v '^3 ' >others
check_share "idle" 60

# Annotations as long as they may be.
put_sandbox endless "\"oarlock.dev/cpu-map\":\"$(yes 0 | head -n 125000 | paste -s -d,)\""
put_container endless main "" '"sleep","100000"'
check "endless annotations: the container runs as it is" "" \
    "$(cat "$(cgroup_of "$(launcher_of endless main)")/cpuset.cpus")"
passes "endless annotations: it is told" is_told endless '125000 entries are more than 8192 ranks'
check_lines "endless annotations" endless
remove_pod_now endless

# json_text: what comes in, as the inside of a JSON text.
json_text() {
    sed 's/\\/\\\\/g; s/"/\\"/g' | awk '{ printf "%s\\n", $0 }'
}

# Ranks that are none, an environment of a megabyte, a process that executes itself while it is moved; rank 1 among them.
liars=$(json_text <<'END'
busybox --install -s /bin 2>/dev/null
for rank in 99999999999 -1 "" 8191 2 nine; do LOCAL_RANK=$rank sleep 100000 & done
long=$(head -c 100000 /dev/zero | tr '\0' x)
for number in 0 1 2 3 4 5 6 7 8 9; do export "LARGE_$number=$long"; done
LOCAL_RANK=$long sleep 100000 &
LOCAL_RANK=0 sh -c 'exec sh -c "$0" "$0"' 'exec sh -c "$0" "$0"' &
LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 touch-memory --mib 64 --threads 2 --hold 100000 &
while :; do LOCAL_RANK=0 sh -c :; done
END
)
put_sandbox liars "$AUTO"
put_container liars main "0 1" "\"busybox\",\"sh\",\"-c\",\"$liars\""

# is_in_its_cgroup POD RANK: whether that rank of its main container is.
is_in_its_cgroup() {
    case $(cgroup_of "$(ranks_of "$1" main | sed -n "s/^$2 //p")") in
    */"oarlock-rank-$2") ;;
    *) return 1 ;;
    esac
}

passes "liars: rank 1 is ready" are_ready liars main 1
passes "liars: rank 1 is in its cgroup" is_in_its_cgroup liars 1
for words in '"99999999999" is not a local rank' '"-1" is not a local rank' 'is 8191 where 2 ranks'; do
    passes "liars: it is told that LOCAL_RANK $words" is_told liars "LOCAL_RANK $words"
done
check_lines "liars" liars
check_share "liars" 60
check_a_new_rank "liars"
remove_pod_now liars

# A container that makes cgroups of its own, and puts its ranks there.
manager=$(json_text <<'END'
busybox --install -s /bin 2>/dev/null
set -e
cd "$(dirname "$(find /host/kubepods* -name cgroup.procs -exec grep -l -x $$ {} +)")"
mkdir "its own (deleted)" && cd "its own (deleted)"
mkdir $(seq 1 2000)
echo $$ >cgroup.procs
cd /
exec launch 2 touch-memory --mib 64 --threads 2 --hold 100000
END
)
put_sandbox manager "$AUTO"
put_container manager main "0 7" "\"busybox\",\"sh\",\"-c\",\"$manager\"" "" "" \
    '{"container_path":"/host","host_path":"/sys/fs/cgroup"}'
passes "own cgroups: its ranks are ready" are_ready manager main 2
passes "own cgroups: it is told that they are held by affinity" is_told manager 'held by affinity, and their memory is not'
# rank_is_bound POD RANK NODE: whether all its threads are on that node.
rank_is_bound() {
    process=$(ranks_of "$1" main | sed -n "s/^$2 //p")
    [ -n "$process" ] && [ -z "$(stray_threads "$process" "$(cpus_of "$3")")" ]
}
passes "own cgroups: rank 0 is bound" rank_is_bound manager 0 "$(entry 0 "$RANKS_ON")"
passes "own cgroups: rank 1 is bound" rank_is_bound manager 1 "$(entry 7 "$RANKS_ON")"
check_share "own cgroups" 60
remove_pod_now manager

# A flood of executions in a container that is none of ours, and a fork bomb in one that is.
put_sandbox flood ''
put_container flood main "" '"sh","-c","for n in 1 2 3 4 5 6; do while :; do busybox true; done & done; wait"'
check_share "flood" 60
check_a_new_rank "flood"
remove_pod_now flood

put_sandbox bomb "$AUTO"
echo 500 >"$(cgroup_of_pod bomb)/pids.max"
put_container bomb main "0 1" '"sh","-c","bomb() { LOCAL_RANK=0; export LOCAL_RANK; busybox true; bomb | bomb & }; while :; do bomb; done 2>/dev/null"'
check_share "bomb" 60
check_a_new_rank "bomb"
check_lines "bomb" bomb
remove_pod_now bomb

check "the other ranks of the job are the same ones" "$(cat others)" "$(ranks_of job main | grep -v '^3 ')"
say "exec until held: $(wget -q -O - http://127.0.0.1:9837/metrics | grep 'rank_bound_after_seconds_\(sum\|count\)' | paste -s -d' ')"
say "resident memory of the agent: $(status_of "$agent" VmRSS), at most $(status_of "$agent" VmHWM)"
remove_pod_now job
passes "no cgroup of a rank is left" are_rank_cgroups 0
check "no entry of the ledger is left" "" "$(ls /run/oarlock/ledger)"
