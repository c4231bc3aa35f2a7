#!/bin/busybox sh
# The first process of a lab guest: file systems, modules, then the program that takes the lab's orders.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t debugfs debug /sys/kernel/debug
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
for module in /lib/boot/*; do
  insmod "$module" || echo "lab: cannot load $module"
done
ip link set lo up
echo "lab: user space is up"
# The guest's own control must survive what the workload suffers; what it starts is put back to 0.
echo -1000 >/proc/self/oom_score_adj
/bin/vmtide-guest
echo "lab: the control program ended with $?"
poweroff -f
