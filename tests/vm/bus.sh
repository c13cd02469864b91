# The system's bus, where somebody asks systemd over it: its units, and rights for root alone.
echo 'root:x:0:0:root:/:/bin/sh' >/etc/passwd
cat >/etc/systemd/system/dbus.socket <<END_OF_UNIT
[Unit]
DefaultDependencies=no
[Socket]
ListenStream=/run/dbus/system_bus_socket
END_OF_UNIT
cat >/etc/systemd/system/dbus.service <<END_OF_UNIT
[Unit]
DefaultDependencies=no
Requires=dbus.socket
[Service]
Type=notify
ExecStart=/usr/bin/dbus-daemon --config-file=/etc/bus.conf --address=systemd: --nofork --nopidfile --systemd-activation
END_OF_UNIT
cat >/etc/bus.conf <<END_OF_CONFIG
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="root"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
END_OF_CONFIG
sed -i 's/^DefaultDependencies=no/&\nWants=dbus.service\nAfter=dbus.service/' /etc/systemd/system/scenario.service
