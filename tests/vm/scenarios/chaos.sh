# Agent and runtime are killed again and again while pods come and go. When they are left in peace, every rank is held, and
# nothing is left of those that are gone. What happens when follows from SEED.
. "$VM/report.sh"
. "$VM/ranks.sh"
. "$VM/node.sh"
. "$VM/pod.sh"

PODS=200
SEED=1
AT_A_TIME=3
RESERVED_CPUS=
LAST=$((RANKS - 1))
RANKS_ON="$(entry 0 "$RANKS_ON") $(entry "$LAST" "$RANKS_ON")"
trap 'keep_logs containerd agent' EXIT

# random BELOW: a number, another one each time.
random() {
    draws=$((draws + 1))
    echo $((0x$(echo "$SEED $draws $1" | md5sum | cut -c 1-7) % $1))
}

# keep_killing: as long as /tmp/chaos is there. Whoever is killed is started again.
keep_killing() {
    draws=0
    while [ -e /tmp/chaos ]; do
        sleep "$(random 9).$(random 10)"
        who=$(random 3)
        if [ "$who" != 0 ]; then
            kill -9 "$agent"
            wait "$agent" || true
            killed=$((killed + 1))
        fi
        if [ "$who" != 1 ]; then
            kill -9 "$containerd"
            wait "$containerd" || true
            sleep "0.$(random 10)"
            start_containerd
            killed=$((killed + 1))
        fi
        if [ "$who" != 0 ]; then
            start_agent
        fi
    done
    echo "$killed $(synchronised)" >/tmp/killed
}

# removed POD: whether all of it is gone. What the runtime does not know any more is not an error to it.
removed() {
    sandbox=$(cat "/tmp/pods/$1/sandbox")
    [ -z "$sandbox" ] || { cri stop-pod "$sandbox" && cri remove-pod "$sandbox"; } || return 1
    rm -r "/tmp/pods/$1"
}

start_runtime
touch /tmp/chaos
(
    killed=0
    start_agent
    keep_killing
    # They outlive this shell.
) &
chaos=$!

made=0
pod=0
pods=
while [ "$made" -lt "$PODS" ]; do
    pod=$((pod + 1))
    # Whoever is killed meanwhile, the next one is another pod, as from a controller.
    if put_sandbox "pod$pod" '"oarlock.dev/cpu-map":"auto","oarlock.dev/mem-map":"auto"' &&
        put_container "pod$pod" main "0 $LAST" "\"launch\",\"2\",$RANK"; then
        made=$((made + 1))
        [ $((made % 20)) != 0 ] || say "$made pods were made, of $pod begun"
        pods="$pods pod$pod"
    else
        await 240 removed "pod$pod"
    fi
    set -- $pods
    if [ $# -gt "$AT_A_TIME" ]; then
        await 240 removed "$1"
        shift
        pods=$*
    fi
done
rm /tmp/chaos
wait "$chaos"
read -r killed seen </tmp/killed
say "agent and runtime were killed $killed times"
check "they were killed often" yes "$([ "$killed" -ge 20 ] && echo yes)"
passes "the agent knows what runs" have_synchronised $((seen - 1))

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
    removed "$pod"
done
passes "no cgroup of a rank is left" are_rank_cgroups 0
check "no entry of the ledger is left" "" "$(ls /run/oarlock/ledger)"
