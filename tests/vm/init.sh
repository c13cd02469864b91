#!/bin/busybox sh
# The guest's first process: makes a small system, and runs the scenario, under systemd where that is asked for.
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin:/debian/bin VM=/vm REPORT=/dev/ttyS1
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
if [ "${CGROUP_DRIVER:-}" = systemd ]; then
    # This unit and what it needs, which is nothing, and none of a distribution's.
    mkdir -p /etc/systemd/system
    cat >/etc/systemd/system/scenario.service <<END_OF_UNIT
[Unit]
DefaultDependencies=no
[Service]
ExecStart=/bin/sh /vm/run.sh
Environment=PATH=$PATH VM=$VM REPORT=$REPORT
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
END_OF_UNIT
    [ ! -e /usr/bin/dbus-daemon ] || . /vm/bus.sh
    exec /usr/lib/systemd/systemd --unit=scenario.service
fi
. /vm/run.sh
