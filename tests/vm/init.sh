#!/bin/busybox sh
# The guest's first process: makes a small system, runs the scenario, reports its end, and switches the machine off.
/bin/busybox --install -s /bin
export PATH=/bin:/debian/bin VM=/vm REPORT=/dev/ttyS1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up
hostname "$(sed -n 's/^SHAPE=//p' /vm/shape.env)"
exec </dev/null >/dev/console 2>&1
stty -F /dev/ttyS1 raw

. /vm/report.sh
report hello
for module in /vm/modules/*.ko; do
    [ -e "$module" ] && insmod "$module"
done
[ -e /dev/vda ] && mount -t ext4 -o ro /dev/vda /debian
cd /tmp
sh -eu /vm/scenario.sh
report "end $?"
poweroff -f
