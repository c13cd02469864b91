# torchrun as the launcher, with `oarlock exec` between it and the ranks, and a real data-parallel training under both
# launchers. Runs in a guest and on the host: MAPS and RANKS_ON say what is planned, and AVERAGE how
# the training averages its gradients.
. "$VM/report.sh"
. "$VM/ranks.sh"

export OMP_NUM_THREADS=1

# look WHO MIB PIDS: every rank by our own eyes, then by oarlock's.
look() {
    for pid in $3; do
        check_rank "$pid" "$2" "$1"
    done
    verify "$1: verified" 0 "$3"
}

# train WHO LAUNCHER...: the training under a launcher, looked at while its ranks stay.
train() {
    who=$1
    shift
    folder=$PWD/$who
    mkdir "$folder"
    "$@" python3 "$VM/train.py" "$folder" "$AVERAGE" >"$folder.log" 2>&1 &
    launcher=$!
    if wait_for "$RANKS" "$launcher" find "$folder" -name '[0-9]'; then
        look "$who" 16 "$(cat "$folder"/[0-9])"
    fi
    touch "$folder/stop"
    status=0
    wait "$launcher" || status=$?
    cat "$folder.log"
    check "$who: trained" 0 "$status"
}

torchrun --standalone --no-python --nproc-per-node "$RANKS" oarlock exec $MAPS -- \
    touch-memory --mib 64 --threads 2 --hold 600 >touch.log 2>&1 &
launcher=$!
wait_for "$RANKS" "$launcher" ready_pids touch.log || cat touch.log
look "torchrun" 64 "$(ready_pids touch.log)"
kill "$launcher"
wait "$launcher" || true

# Four ranks train, two on each node: every one imports torch, which takes an emulated CPU half a minute.
if [ "$RANKS" -eq 8 ]; then
    RANKS=4
    RANKS_ON=$(echo "$RANKS_ON" | cut -d' ' -f1,2,7,8)
    MAPS="--cpu-map auto --mem-map auto --gpus $(echo "$GPUS" | cut -d, -f1,2,7,8)"
fi
train "torchrun-training" torchrun --standalone --no-python --nproc-per-node "$RANKS" oarlock exec $MAPS --
train "run-training" oarlock run --nproc-per-node "$RANKS" $MAPS --
