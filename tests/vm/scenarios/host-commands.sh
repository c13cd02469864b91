# oarlock status, verify and unpin beside a container that is managed: its ledger entry and its rank cgroups are made here by
# hand, as the agent makes them, rank 0 on the last node and rank 1 on the first.
. "$VM/report.sh"
. "$VM/ranks.sh"

TREE=/sys/fs/cgroup
ID=4e2f9d
SCOPE=$TREE/kubepods.slice/cri-containerd-$ID.scope
LAST=$(($(ls -d /sys/devices/system/node/node[0-9]* | wc -l) - 1))
EVERYTHING=$(cat $TREE/cpuset.cpus.effective)
NODES=$(cat $TREE/cpuset.mems.effective)

oarlock() {
    command=$1
    shift
    /bin/oarlock "$command" --run-dir /tmp/run "$@"
}

# status_of COMMAND...: its exit status. What it printed is in said.txt.
status_of() {
    seen=0
    "$@" >said.txt 2>&1 || seen=$?
    cat said.txt >&2
    echo "$seen"
}

# said TEXT: whether it was.
said() {
    grep -q -F -- "$1" said.txt && echo yes || echo no
}

# rank_cgroup RANK NODE: made by hand.
rank_cgroup() {
    mkdir "$SCOPE/oarlock-rank-$1"
    echo threaded >"$SCOPE/oarlock-rank-$1/cgroup.type"
    echo +cpuset >"$SCOPE/cgroup.subtree_control"
    cpus_of "$2" >"$SCOPE/oarlock-rank-$1/cpuset.cpus"
    echo "$2" >"$SCOPE/oarlock-rank-$1/cpuset.mems"
}

# start_rank RANK CGROUP LOG: a rank that touches memory there.
start_rank() {
    (
        sh -c 'echo $PPID' >"$2/cgroup.procs"
        LOCAL_RANK=$1 exec touch-memory --mib 32 --threads 3 --hold 600
    ) >"$3" 2>&1 &
    wait_for 1 $! ready_pids "$3"
    pid=$(ready_pids "$3")
}

echo '+cpuset +memory' >$TREE/cgroup.subtree_control
mkdir $TREE/kubepods.slice
echo '+cpuset +memory' >$TREE/kubepods.slice/cgroup.subtree_control
mkdir "$SCOPE"
echo "$EVERYTHING" >"$SCOPE/cpuset.cpus"
(
    sh -c 'echo $PPID' >"$SCOPE/cgroup.procs"
    exec sleep 600
) &
launcher=$!
mkdir -p run/ledger
cat >run/ledger/$ID.json <<END
{"id": "$ID", "name": "trainer", "pod": {"namespace": "ml", "name": "job-0", "uid": "7"},
 "boot": "$(cat /proc/sys/kernel/random/boot_id)", "source": "nri",
 "cgroup": "/kubepods.slice/cri-containerd-$ID.scope",
 "ranks": {"cpu_map": "auto", "mem_map": "auto", "mem_policy": "bind", "ranks": [
   {"cpus": "$(cpus_of $LAST)", "mems": "$LAST", "gpus": [0]},
   {"cpus": "$(cpus_of 0)", "mems": "0", "gpus": [1]},
   {"cpus": "$(cpus_of 0)", "mems": "0", "gpus": [2]}]},
 "container": {"cpus": "$EVERYTHING", "mems": "$NODES"}, "before": {"cpus": "$(cpus_of 0)", "mems": null},
 "later": "kept"}
END
rank_cgroup 0 $LAST
rank_cgroup 1 0
start_rank 0 "$SCOPE/oarlock-rank-0" rank0.log
rank0=$pid
start_rank 1 "$SCOPE/oarlock-rank-1" rank1.log
rank1=$pid

check 'status: it answers' 0 "$(status_of oarlock status --format json)"
check 'status: two ranks of three run, and both are bound' yes "$(said '"ranks_with_process":2,"ranks_bound":2')"
check 'status: a cgroup holds them' yes "$(said "\"processes\":[$rank0],\"cpus_bound\":true,\"mems_bound\":true,\"held_by\":\"cgroup\"")"
check 'verify: all as planned' 0 "$(status_of oarlock verify --all)"
check 'verify: the rank that does not run is named' yes "$(said '3 ranks, of which 2 have no process')"
check 'verify: a pod by its name' 0 "$(status_of oarlock verify --pod ml/job-0)"

cpus_of 0 >"$SCOPE/oarlock-rank-0/cpuset.cpus"
check 'verify: another wall is not as planned' 1 "$(status_of oarlock verify --container ${ID%d})"
check 'verify: the threads behind it are named' yes "$(said "thread $rank0 (touch-memory) and 2 others may run on cpus $(cpus_of 0); planned are $(cpus_of $LAST)")"
check 'status: one rank is not bound' 0 "$(status_of oarlock status)"
check 'status: it is named' yes "$(said 'warning: ml/job-0/trainer: not bound as planned: rank 0')"
cpus_of $LAST >"$SCOPE/oarlock-rank-0/cpuset.cpus"
echo 0 >"$SCOPE/oarlock-rank-0/cpuset.mems"
check 'verify: pages that moved away are not as planned' 1 "$(status_of oarlock verify --all)"
check 'verify: the pages are counted' yes "$(said "KiB) are on other nodes than the planned $LAST")"
echo $LAST >"$SCOPE/oarlock-rank-0/cpuset.mems"
check 'verify: and all as planned again' 0 "$(status_of oarlock verify --all)"

echo "$rank1" >"$SCOPE/oarlock-rank-0/cgroup.procs"
check 'verify: a rank in the cgroup of another' 1 "$(status_of oarlock verify --all)"
check 'verify: both are named' yes "$(said 'it is held as rank 0, and its environment says LOCAL_RANK=1')"

check 'unpin: it is done' 0 "$(status_of oarlock unpin --container $ID)"
check 'unpin: what was done is said' yes "$(said 'ml/job-0/trainer: 2 rank cgroups removed, cpuset restored')"
check 'unpin: no rank cgroup is left' '' "$(ls -d "$SCOPE"/*/ 2>/dev/null || true)"
check 'unpin: the container is an ordinary one' 'domain:' "$(cat "$SCOPE/cgroup.type"):$(cat "$SCOPE/cgroup.subtree_control")"
check 'unpin: it has the cpus that it had before' "$(cpus_of 0)" "$(cat "$SCOPE/cpuset.cpus")"
for pid in "$rank0" "$rank1" "$launcher"; do
    check "unpin: process $pid is back in it" "0::${SCOPE#"$TREE"}" "$(cat "/proc/$pid/cgroup")"
    check "unpin: all its threads have the container's cpus" '' "$(stray_threads "$pid" "$(cpus_of 0)")"
done
check 'unpin: the entry says so' yes "$(grep -q '"unpinned":true' run/ledger/$ID.json && echo yes)"
check 'unpin: and keeps what others wrote' yes "$(grep -q '"later":"kept"' run/ledger/$ID.json && echo yes)"
check 'verify: nothing is planned for it any more' 0 "$(status_of oarlock verify --all)"
check 'verify: that is said' yes "$(said "ml/job-0/trainer ($ID): unpinned by hand")"
check 'unpin: a second time does no harm' 0 "$(status_of oarlock unpin --all)"

kill "$launcher" "$rank0" "$rank1"
wait || true
rmdir "$SCOPE"
check 'unpin: a container that has ended is forgotten' 0 "$(status_of oarlock unpin --all)"
check 'unpin: its entry is gone' '' "$(ls run/ledger)"
