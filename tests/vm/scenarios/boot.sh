# The machine alone, without oarlock: nodes, distances and devices are what the shape declares.
. /vm/report.sh

for node in /sys/devices/system/node/node[0-9]*; do
    check "cpus of ${node##*/}" "$(cpus_of "${node##*node}")" "$(cat "$node/cpulist")"
    say "${node##*/}: cpus $(cat "$node/cpulist"), distances $(cat "$node/distance"), $(sed -n 's/.*MemTotal: *//p' "$node/meminfo")"
done
for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
    echo "${cpu##*/} $(cat "$cpu/topology/physical_package_id" "$cpu/topology/die_id" "$cpu/topology/core_id" "$cpu/topology/thread_siblings_list" "$cpu/cache/index3/shared_cpu_list" | tr '\n' ' ')"
done
index=0
for address in $(echo "$GPUS" | tr , ' '); do
    check "gpu $index is attached as declared" "$(entry $index "$GPU_NODES")" "$(cat "/sys/bus/pci/devices/$address/numa_node")"
    index=$((index + 1))
done
