# The kernel shows the machine that the shape declares, and oarlock plans it so. The host compares plan.json with the
# declaration, and plans machine.json a second time.
. "$VM/report.sh"

for node in /sys/devices/system/node/node[0-9]*; do
    check "cpus of ${node##*/}" "$(cpus_of "${node##*node}")" "$(cat "$node/cpulist")"
    say "${node##*/}: cpus $(cat "$node/cpulist"), distances $(cat "$node/distance"), $(sed -n 's/.*MemTotal: *//p' "$node/meminfo")"
done
index=0
for address in $(echo "$GPUS" | tr , ' '); do
    check "the node of gpu $index" "$(entry $index "$GPU_NODES")" "$(cat "/sys/bus/pci/devices/$address/numa_node")"
    index=$((index + 1))
done

oarlock topology
oarlock plan $MAPS
oarlock plan $MAPS --format json >plan.json
send plan.json plan.json
oarlock capture --output machine.json
send machine.json machine.json
