# The kernel shows the machine that the shape declares, and oarlock plans it so. The host compares plan.json with the
# declaration, and plans machine.json a second time.
. /vm/report.sh

index=0
for address in $(echo "$GPUS" | tr , ' '); do
    check "gpu $index is attached as declared" "$(entry $index "$GPU_NODES")" "$(cat "/sys/bus/pci/devices/$address/numa_node")"
    index=$((index + 1))
done

oarlock topology
oarlock plan --gpus "$GPUS" --cpu-map auto --mem-map auto
oarlock plan --gpus "$GPUS" --cpu-map auto --mem-map auto --format json >/tmp/plan.json
send plan.json /tmp/plan.json
oarlock capture --output /tmp/machine.json
send machine.json /tmp/machine.json
