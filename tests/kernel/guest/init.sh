#!/bin/bash
# PID 1 of the guest once it stands on the host's file system: set up what a system needs, and let
# the jobs begin, under systemd where the lab wants that.
: >/lab/up # the host boots once more what does not come this far
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lock
busybox hostname lab
busybox ip link set lo up
if [ -f /lab/network ]; then
    # Addresses and no route: the guest reaches QEMU's stand-in for the host or the other end of a
    # cable, and nothing else.
    modprobe virtio_net
    number=0
    while read -r address; do
        busybox ip addr add "$address" dev "eth$number"
        busybox ip link set "eth$number" up
        number=$((number + 1))
    done </lab/network
fi

# /tmp stays the overlay's: a clone of the project may live there.

cd /
[ ! -f /lab/systemd.sh ] || exec bash /lab/systemd.sh
exec bash /lab/jobs.sh
