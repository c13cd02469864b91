# The kernel crate's tests of what only a kernel can do, on real cgroups with several nodes: rank cgroups, process events.
. "$VM/report.sh"

TREE=/sys/fs/cgroup
echo '+cpuset +memory' >$TREE/cgroup.subtree_control
mkdir $TREE/tests
echo '+cpuset +memory' >$TREE/tests/cgroup.subtree_control

seen=0
OARLOCK_CGROUP_TESTS=$TREE/tests kernel-tests --test-threads 1 --nocapture rank_cgroup::live exec_events >tests.log 2>&1 ||
    seen=$?
cat tests.log
check 'the tests of the kernel crate pass' 0 "$seen"
check 'none of them was left out' '' "$(grep 'not run' tests.log || true)"
check 'there are so many' yes "$([ "$(grep -c '^test .*live.*ok$' tests.log)" -ge 10 ] && echo yes)"
check 'no cgroup is left behind' '' "$(ls -d $TREE/tests/*/ 2>/dev/null || true)"
