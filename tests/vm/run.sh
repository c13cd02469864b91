# Runs the scenario, reports its end, and switches the machine off.
. "$VM/report.sh"
cd /tmp
sh -eu /vm/scenario.sh
report "end $?"
poweroff -f
