# What oarlock is for, once through: the plan, the ranks bound by it, and what they really have.
. "$VM/report.sh"
. "$VM/ranks.sh"

# show FILE: its lines, for whoever watches.
show() {
    say
    while IFS= read -r line; do say "$line"; done <"$1"
    say
}

say "the plan, with --cpu-map auto --mem-map auto:"
oarlock plan $MAPS >plan.txt
show plan.txt
oarlock plan $MAPS --format svg >oarlock-demo.svg
send oarlock-demo.svg oarlock-demo.svg

say "$RANKS ranks that touch 64 MiB each, under oarlock run"
oarlock run $MAPS -- touch-memory --mib 64 --threads 2 --hold 600 >run.log 2>&1 &
wait_for "$RANKS" $! ready_pids run.log || cat run.log

say "what every rank has, read from /proc:"
for pid in $(ready_pids run.log); do echo "$(rank_of "$pid") $pid"; done | sort -n >ranks
verify "verified as planned" 0 "$(cut -d' ' -f2 ranks)"
show verified.txt
