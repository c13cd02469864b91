# A real data-parallel training under torchrun in an annotated pod, whose image knows nothing of us: every rank is held to
# the CPUs and the memory of its GPU's node.
. "$VM/report.sh"
. "$VM/ranks.sh"
. "$VM/node.sh"
. "$VM/pod.sh"

RESERVED_CPUS=
trap 'keep_logs "$RUNTIME" agent' EXIT

# process_inside CGROUP PID: the process that has this number in its container.
process_inside() {
    while read -r process; do
        [ "$(status_of "$process" NSpid | sed 's/.*[[:space:]]//')" != "$2" ] || echo "$process"
    done <"$1/cgroup.procs"
}

start_runtime
start_agent
passes "the agent knows what runs" have_synchronised 0

# Four ranks, two on each node: every one imports torch, which takes an emulated CPU half a minute.
GPUS_USED="0 1 6 7"
RANKS=4
RANKS_ON=$(for gpu in $GPUS_USED; do entry "$gpu" "$RANKS_ON"; done | paste -s -d' ')
mkdir /tmp/train
put_sandbox training '"oarlock.dev/cpu-map":"auto","oarlock.dev/mem-map":"auto","oarlock.dev/omp-threads":"1"'
put_container training main "$GPUS_USED" "\"sh\",\"-c\",
\"PATH=/bin:/debian/bin; exec torchrun --standalone --no-python --nproc-per-node $RANKS python3 /vm/train.py /train $AVERAGE\"" \
    "" "" '{"container_path":"/debian","host_path":"/debian","readonly":true},
{"container_path":"/vm","host_path":"/vm","readonly":true},{"container_path":"/train","host_path":"/tmp/train"}'
launcher=$(launcher_of training main)
wait_for "$RANKS" "$launcher" find /tmp/train -name '[0-9]' || true
ls /tmp/train
container=$(cgroup_of "$launcher")
for rank in 0 1 2 3; do
    process=$(process_inside "$container" "$(cat "/tmp/train/$rank")")
    check "process $process is rank $rank" "$rank" "$(rank_of "$process")"
    check_rank "$process" 16 training
done
check "torchrun itself may use all of the container" "$(cat "$container/cpuset.cpus.effective")" \
    "$(status_of "$launcher" Cpus_allowed_list)"
check "a rank is told how many threads to start" 1 "$(variable_of "$process" OMP_NUM_THREADS)"
touch /tmp/train/stop

# has_exited: whether the container is at its end.
has_exited() {
    cri state "$(cat /tmp/pods/training/main)" | grep exited >/tmp/exited
}
passes "the training ends" has_exited
check "trained" "exited 0 Completed" "$(cat /tmp/exited)"
cat /tmp/pods/training/log/main.log
