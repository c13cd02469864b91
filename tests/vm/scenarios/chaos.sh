# Agent and runtime are killed at random moments while pods are made. When they are left in peace, every rank is held, and
# nothing is left of those that are gone. What happens when follows from SEED.
. "$VM/report.sh"
. "$VM/ranks.sh"
. "$VM/node.sh"
. "$VM/pod.sh"

# That many are begun.
PODS=200
SEED=1
AT_A_TIME=3
# One pod of so many is made while somebody is killed, within so many tenths of a second of its beginning.
ONE_OF=3
WITHIN=80
RESERVED_CPUS=
LAST=$((RANKS - 1))
RANKS_ON="$(entry 0 "$RANKS_ON") $(entry "$LAST" "$RANKS_ON")"
trap 'keep_logs "$RUNTIME" agent' EXIT

# draw BELOW: another number each time, as $drawn.
draws=0
draw() {
    draws=$((draws + 1))
    drawn=$((0x$(echo "$SEED $draws" | md5sum | cut -c 1-7) % $1))
}

# strike WHO SECONDS: after that time the agent (0), the runtime (1) or both are killed, and started again. Their processes
# are in /tmp/victims.
strike() {
    sleep "$2"
    read -r agent runtime </tmp/victims
    case $1 in
    0) kill -9 "$agent" ;;
    1) kill -9 "$runtime" ;;
    *) kill -9 "$agent" "$runtime" ;;
    esac || { say "the agent ($agent) or the runtime ($runtime) had ended by itself" && return 1; }
    [ "$1" = 0 ] || run_runtime
    [ "$1" = 1 ] || start_agent
    echo "$agent $runtime" >/tmp/victims
}

# removed POD: whether all of it is gone; else /tmp/pods/POD/why says what is in the way. The runtime may have made a sandbox
# and died before it could tell.
removed() {
    cri pods >/tmp/listed 2>"/tmp/pods/$1/why" || return 1
    for sandbox in $(sed -n "s/ $1\$//p" /tmp/listed); do
        { cri stop-pod "$sandbox" && cri remove-pod "$sandbox"; } 2>"/tmp/pods/$1/why" || return 1
    done
    remove_cgroup_of_pod "$1"
    rm -r "/tmp/pods/$1"
}

# remove POD: as a kubelet does, again and again.
remove() {
    await 240 removed "$1" || check "$1 can be removed" yes "$(cat "/tmp/pods/$1/why")"
}

start_runtime
start_agent
echo "$agent $runtime" >/tmp/victims
made=0
killed=0
pod=0
pods=
while [ "$pod" -lt "$PODS" ]; do
    pod=$((pod + 1))
    striker=
    draw "$ONE_OF"
    if [ "$drawn" = 0 ]; then
        draw 3
        who=$drawn
        draw "$WITHIN"
        strike "$who" "$((drawn / 10)).$((drawn % 10))" &
        striker=$!
        killed=$((killed + 1))
    fi
    # Whoever is killed meanwhile, the next one is another pod, as from a controller.
    if put_sandbox "pod$pod" '"oarlock.dev/cpu-map":"auto","oarlock.dev/mem-map":"auto"' &&
        put_container "pod$pod" main "0 $LAST" "\"launch\",\"2\",$RANK"; then
        made=$((made + 1))
        pods="$pods pod$pod"
    else
        remove "pod$pod"
    fi
    if [ -n "$striker" ] && ! wait "$striker"; then
        check "whoever was killed while pod$pod was made runs again" yes ""
    fi
    set -- $pods
    if [ $# -gt "$AT_A_TIME" ]; then
        remove "$1"
        shift
        pods=$*
    fi
    [ $((pod % 10)) != 0 ] || say "$pod pods were begun, and $made of them run, in $(uptime_seconds) s"
done
say "somebody was killed $killed times"
check "most pods came to run" yes "$([ "$made" -gt $((PODS / 2)) ] && echo yes)"
check "somebody was killed often" yes "$([ "$killed" -ge $((PODS / ONE_OF / 2)) ] && echo yes)"

for pod in $pods; do
    passes "$pod: its ranks are held" are_held "$pod" 2
done
seen=0
oarlock verify --all >verified 2>&1 || seen=$?
cat verified
check "oarlock verify --all" 0 "$seen"
set -- $pods
check "no other rank has a cgroup" $(($# * 2)) "$(rank_cgroups)"
check "and no other container is in the ledger" $# "$(ls /run/oarlock/ledger | wc -l)"
for pod in $pods; do
    remove "$pod"
done
passes "no cgroup of a rank is left" are_rank_cgroups 0
check "no entry of the ledger is left" "" "$(ls /run/oarlock/ledger)"
check "and the runtime knows no pod" "" "$(cri pods)"
