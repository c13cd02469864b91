# Runs the scenario, reports its end, and switches the machine off.
. "$VM/report.sh"
cd /tmp
# Before the host ends the guest's time, so that there is one for its last words.
timeout -s TERM $(($(cat /vm/limit) - 45)) sh -eu /vm/scenario.sh
report "end $?"
poweroff -f
