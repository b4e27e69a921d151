#!/bin/busybox sh
# The initramfs's only program: see the host's file system over 9p, lay a tmpfs over it, go there.
# An error ends PID 1, so the kernel panics, panic=-1 reboots, and QEMU's -no-reboot ends the guest.
set -e
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
exec >/dev/console 2>&1
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in /modules/*; do insmod "$module"; done

# version and msize as measured; loose caching is safe only for what nobody changes meanwhile.
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose,access=any root /lower
mount -t tmpfs -o mode=755 tmpfs /upper
mkdir /upper/upper /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/upper,workdir=/upper/work overlay /new

# What changes while the guest runs, scripts and results, crosses without a cache.
mkdir -p /new/lab "/new/lib/modules/$(uname -r)"
mount -t 9p -o rw,trans=virtio,version=9p2000.L,msize=512000,cache=none,access=any lab /new/lab
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose,access=any \
    modules "/new/lib/modules/$(uname -r)"
umount /sys /proc
exec switch_root -c /dev/console /new /bin/bash /lab/init.sh
