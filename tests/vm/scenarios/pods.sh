# Pods under a real container runtime, made as kubelet makes them: without the agent their ranks are anywhere, which shows
# that these checks can fail; with it every rank is held to the CPUs and the memory of its GPU's node, from outside.
. "$VM/report.sh"
. "$VM/ranks.sh"
. "$VM/node.sh"
. "$VM/pod.sh"

# Expectations here are whole nodes.
RESERVED_CPUS=
AUTO='"oarlock.dev/cpu-map":"auto","oarlock.dev/mem-map":"auto"'
ALL_GPUS=$(seq -s ' ' 0 $((RANKS - 1)))
ALL_CPUS=$(cat /sys/devices/system/cpu/online)
ALL_NODES=$(cat /sys/devices/system/node/has_memory)
CPUS=$(each_of "$ALL_CPUS" | wc -l)

trap 'keep_logs "$RUNTIME" agent' EXIT

# NUMA balancing, which moves pages without asking anybody, is to be busy.
mount -t debugfs debugfs /sys/kernel/debug
for setting in scan_delay_ms scan_period_min_ms; do echo 100 >"/sys/kernel/debug/sched/numa_balancing/$setting"; done

# put_job POD ANNOTATIONS [SECURITY]: a pod with a rank for each GPU of the machine. Comes back once all have touched
# their memory.
put_job() {
    put_sandbox "$1" "$2"
    put_container "$1" main "$ALL_GPUS" "\"launch\",\"$RANKS\",$RANK" "${3:-}"
    passes "$1: $RANKS ranks are ready" are_ready "$1" main "$RANKS"
}

# put_job_is_held POD ANNOTATIONS [SECURITY]: that, and its ranks are where they belong. Pages that were elsewhere when
# their rank was found have been moved.
put_job_is_held() {
    moved=$(pages_moved)
    put_job "$@"
    passes "$1: every rank is held" are_held "$1" "$RANKS"
    say "$1: $(($(pages_moved) - moved)) pages of $((RANKS * 64 * 256)) were moved"
    check_job "$1" "$1" "$ALL_CPUS" "$ALL_NODES"
}

# pages_moved: since the boot, for others than NUMA balancing.
pages_moved() {
    awk '$1 == "pgmigrate_success" { all = $2 } $1 == "numa_pages_migrated" { balanced = $2 } END { print all - balanced }' \
        /proc/vmstat
}

# check_verified NAME STATUS: oarlock's own opinion of all that it manages.
check_verified() {
    verified=0
    oarlock verify --all >verified 2>&1 || verified=$?
    cat verified
    check "$1" "$2" "$verified"
}

start_runtime
say "$(cri version), $OCI_RUNTIME, $CGROUP_DRIVER: up after $(uptime_seconds) s"

put_job unbound "$AUTO"
ranks_of unbound main >ranks
check "without the agent: as many ranks" "$RANKS" "$(wc -l <ranks)"
while read -r rank process; do
    check "without the agent: rank $rank may run anywhere" "" "$(stray_threads "$process" "$ALL_CPUS")"
done <ranks
check "without the agent: no cgroup of a rank" 0 "$(rank_cgroups)"
remove_pod_now unbound

start_agent
passes "the agent knows what runs" have_synchronised 0

put_job_is_held bound "$AUTO"
check "bound: every rank has its cgroup" "$RANKS" "$(rank_cgroups)"
variable=$(tr '\0' '\n' <"/proc/$(launcher_of bound main)/environ" | sed -n 's/^OARLOCK_RANK_CPUS=//p')
check "bound: the ranks are told" "$RANKS" "$(echo "$variable" | tr ';' '\n' | wc -l)"
check_verified "bound: oarlock verify --all" 0
oarlock status
put_container bound sidecar "" "\"launch\",\"1\",$RANK"
passes "bound: a sidecar runs" are_ready bound sidecar 1
sleep 2
check "bound: a sidecar is left alone" "$ALL_CPUS" \
    "$(status_of "$(ranks_of bound sidecar | cut -d' ' -f2)" Cpus_allowed_list)"
check "bound: and has no cpuset" "" "$(cat "$(cgroup_of "$(launcher_of bound sidecar)")/cpuset.cpus")"

# A rank that dies is started again by its launcher. Whoever is killed beside it, it is held again.
for victims in "" "agent" "runtime" "agent runtime"; do
    who="rank 3${victims:+ and $victims} killed"
    heard=$(synchronised)
    ranks_of bound main | grep -v '^3 ' >others
    processes=$(for victim in $victims; do eval "echo \$$victim"; done)
    if [ -n "$victims" ]; then
        kill -9 $processes
        for process in $processes; do wait "$process" || true; done
    fi
    kill -9 "$(ranks_of bound main | sed -n 's/^3 //p')"
    check "$who: the others stay" "$(cat others)" "$(ranks_of bound main | grep -v '^3 ')"
    # One of each end of the list: with nobody there to hold them, they are held.
    for process in $(sed -n '1p;$p' others | cut -d' ' -f2); do check_rank "$process" 64 "$who"; done
    if [ "$victims" = agent ]; then
        # A newcomer that nobody holds is seen.
        passes "$who: rank 3 is back" are_ready bound main $((RANKS + 2))
        check_verified "$who: oarlock verify --all sees that it is not held" 1
    fi
    case $victims in *runtime*) run_runtime ;; esac
    case $victims in agent*) start_agent ;; esac
    [ -z "$victims" ] || passes "$who: the agent knows what runs" have_synchronised "$heard"
    passes "$who: every rank is held" are_held bound "$RANKS"
    check_job "$who" bound "$ALL_CPUS" "$ALL_NODES"
    check_verified "$who: oarlock verify --all" 0
done
remove_pod_now bound
passes "bound: removed, with the cgroups of its ranks" are_rank_cgroups 0

# What a hardened container may not do itself is done for it.
put_job_is_held hardened "$AUTO" '"run_as_user":{"value":1000},"run_as_group":{"value":1000},"no_new_privs":true,
"seccomp":{"profile_type":0},"capabilities":{"drop_capabilities":["ALL"]}'
process=$(ranks_of hardened main | head -n 1 | cut -d' ' -f2)
check "hardened: no root, no capability, a seccomp filter" "1000 0000000000000000 2" \
    "$(status_of "$process" Uid | cut -f1) $(status_of "$process" CapEff) $(status_of "$process" Seccomp)"
remove_pod_now hardened

# A rank that widens itself, as libraries do, runs into its wall.
put_sandbox wide "$AUTO"
put_container wide main "$ALL_GPUS" "\"launch\",\"$RANKS\",\"sh\",\"-c\",
\"sleep 5; taskset -p $(printf %x $(((1 << CPUS) - 1))) \$\$; exec touch-memory --mib 64 --threads 2 --hold 100000\""
passes "wide: $RANKS ranks are ready" are_ready wide main "$RANKS"
passes "wide: every rank is in its cgroup" are_in_rank_cgroups wide "$RANKS"
# Before Linux 6.6 a page of a rank that has worked goes to whoever is the first to read its environment. Not for long.
while read -r process; do
    [ "$(cat "/proc/$process/comm")" = touch-memory ] || continue
    node=$(cat "$(cgroup_of "$process")/cpuset.mems.effective")
    afar=$(echo "$RANKS_ON" | tr ' ' '\n' | grep -v -x -e "$node" | head -n 1)
    environ_of "$process" "$(cpus_of "$afar")" >environ
    pages_beside "$process" "$node"
done <"$(cgroup_of "$(launcher_of wide main)")/cgroup.procs" >beside
say "wide: read from afar, so that $(wc -l <beside) ranks have pages elsewhere"
check_verified "wide: read from afar: oarlock verify --all" 0
passes "wide: every rank is held" are_held wide "$RANKS"
check_job wide wide "$ALL_CPUS" "$ALL_NODES"
say "wide: taskset said $(sed -n "s/.*new affinity/new affinity/p" /tmp/pods/wide/log/main.log | sort | uniq -c | paste -s -d' ')"
remove_pod_now wide

# A pod with the GPUs of one node: the container as a whole has that node's CPUs and memory.
node=$(entry 0 "$GPU_NODES")
gpus=
count=0
for index in $ALL_GPUS; do
    if [ "$(entry "$index" "$GPU_NODES")" = "$node" ]; then
        gpus="$gpus$index "
        count=$((count + 1))
    fi
done
put_sandbox one-node "$AUTO"
put_container one-node main "$gpus" "\"launch\",\"$count\",$RANK"
passes "one-node: $count ranks are ready" are_ready one-node main "$count"
# In a subshell: what is declared for the machine is for all of its GPUs.
(
    RANKS_ON=$(for _ in $gpus; do echo "$node"; done | paste -s -d' ')
    passes "one-node: every rank is held" are_held one-node "$count"
    check_job one-node one-node "$(cpus_of "$node")" "$node"
)
container=$(cgroup_of "$(launcher_of one-node main)")
check "one-node: the container's cpuset" "$(cpus_of "$node") $node" \
    "$(cat "$container/cpuset.cpus") $(cat "$container/cpuset.mems")"
remove_pod_now one-node

# Memory away from the CPUs, which may be anywhere: a memory policy, where plugin interface and runtime both know one.
afar=$(echo "$RANKS_ON" | tr ' ' '\n' | grep -v -x -e "$node" | head -n 1)
put_sandbox prefers "\"oarlock.dev/cpu-map\":\"$node\",\"oarlock.dev/mem-map\":\"$afar\",\"oarlock.dev/mem-policy\":\"preferred\""
put_container prefers main "" "\"launch\",\"1\",$RANK"
passes "prefers: its rank is ready" are_ready prefers main 1
expected="none $node"
# containerd had no policies in its plugin interface before 2.3.
case $RUNTIME-$CONTAINERD in
crio-* | *-2.3) ! knows_memory_policies "$OCI_RUNTIME" || expected="prefers $afar" ;;
esac
process=$(ranks_of prefers main | cut -d' ' -f2)
check "prefers: its memory policy and the nodes of its memory" "$expected" "$(policy_of "$process")"
check "prefers: its CPUs, and all nodes" "$(cpus_of "$node") $ALL_NODES" \
    "$(status_of "$process" Cpus_allowed_list) $(status_of "$process" Mems_allowed_list)"
remove_pod_now prefers

# A pod without our annotations is none of ours, whatever it holds.
put_job plain '"example.org/cpu-map":"auto"'
sleep 2
ranks_of plain main >ranks
check "plain: as many ranks" "$RANKS" "$(wc -l <ranks)"
while read -r rank process; do
    check "plain: rank $rank may run anywhere" "" "$(stray_threads "$process" "$ALL_CPUS")"
done <ranks
check "plain: no cgroup of a rank" 0 "$(rank_cgroups)"
check "plain: no cpuset" "" "$(cat "$(cgroup_of "$(launcher_of plain main)")/cpuset.cpus")"
remove_pod_now plain

# exclusive_pod POD CPUS [MORE]: a pod of one rank that holds cores of the first node alone, out of these CPUs. It is told
# as $has.
exclusive_pod() {
    put_sandbox "$1" "\"oarlock.dev/cpu-map\":\"exclusive\",\"oarlock.dev/ranks\":\"1\"${3:-}"
    put_container "$1" main "$(echo "$gpus" | cut -d' ' -f1)" "\"launch\",\"1\",$RANK" "" "\"cpuset_cpus\":\"$2\""
    passes "$1: its rank is ready" are_ready "$1" main 1
    passes "$1: its rank has a cgroup" has_a_rank_cgroup "$1"
    has=$(status_of "$(ranks_of "$1" main | cut -d' ' -f2)" Cpus_allowed_list)
}

# has_a_rank_cgroup POD: whether a rank of its main container is in one.
has_a_rank_cgroup() {
    case $(cgroup_of "$(ranks_of "$1" main | head -n 1 | cut -d' ' -f2)") in
    */oarlock-rank-*) ;;
    *) return 1 ;;
    esac
}

each_of "$(cpus_of "$node")" >all-of-node
half=$(head -n $(($(wc -l <all-of-node) / 2)) all-of-node | paste -s -d,)
exclusive_pod first "$half"
each_of "$has" >first-has
check "exclusive: the first pod has what it may use" "$half" "$(paste -s -d, first-has)"
exclusive_pod second "$(cpus_of "$node")"
each_of "$has" >second-has
check "exclusive: the second pod has the rest" "$(grep -v -x -F -f first-has all-of-node)" "$(cat second-has)"
put_sandbox third '"oarlock.dev/cpu-map":"exclusive","oarlock.dev/ranks":"1","oarlock.dev/on-failure":"refuse"'
seen=0
put_container third main "$(echo "$gpus" | cut -d' ' -f1)" "\"launch\",\"1\",$RANK" "" \
    "\"cpuset_cpus\":\"$(cpus_of "$node")\"" >refusal 2>&1 || seen=$?
cat refusal
check "exclusive: a third pod is refused" "1 told" "$seen $(grep -q 'held by .*default/first/main' refusal && echo told)"
remove_pod_now third
remove_pod_now first
exclusive_pod fourth "$(cpus_of "$node")"
check "exclusive: who comes later has what the first one had" "$half" "$(each_of "$has" | paste -s -d,)"
remove_pod_now second
remove_pod_now fourth
passes "no cgroup of a rank is left" are_rank_cgroups 0
check "no entry of the ledger is left" "" "$(ls /run/oarlock/ledger)"
