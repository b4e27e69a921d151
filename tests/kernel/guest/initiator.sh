# The kernel's initiator against one portal on the host: discover, log in, format, mount, write,
# unmount, check; where AGAIN is not empty mount again and compare, discard, check; log out.
# Given: PORTAL (address:port), TARGET, USER_NAME and SECRET (empty: no CHAP), AGAIN, and /lab/data.
# Leaves, in $OUT: what discovery said, the disk's limits, and the digest as read back.
PS4='+$EPOCHREALTIME '
set -euxo pipefail
mkdir -p "$OUT"
login() { iscsiadm -m node -T "$TARGET" -p "$PORTAL" --login; }
chap() {
    for setting in authmethod=CHAP "username=$USER_NAME" "password=$1"; do
        iscsiadm -m node -T "$TARGET" -p "$PORTAL" -o update \
            -n "node.session.auth.${setting%%=*}" -v "${setting#*=}"
    done
}

discovery() { iscsiadm -m discoverydb -t sendtargets -p "$PORTAL" "$@"; }
discovery -o new
if [ -n "$SECRET" ]; then
    for setting in authmethod=CHAP "username=$USER_NAME" "password=$SECRET"; do
        discovery -o update -n "discovery.sendtargets.auth.${setting%%=*}" -v "${setting#*=}"
    done
fi
discovery --discover | tee "$OUT/discovered"
# A portal on the host's loopback names an address that means another machine in here; so the node
# is made by hand, at the address where it was discovered.
discovery -o delete
rm -rf /etc/iscsi/nodes/*
iscsiadm -m node -o new -T "$TARGET" -p "$PORTAL"

if [ -n "$SECRET" ]; then
    rc=0; login || rc=$?
    echo "$rc" >"$OUT/rc-without-secret"
    chap "not-$SECRET"
    rc=0; login || rc=$?
    echo "$rc" >"$OUT/rc-wrong-secret"
    chap "$SECRET"
fi
login

device=
for attempt in $(seq 300); do
    device=$(ls -d /sys/class/iscsi_session/session*/device/target*/*/block/sd* | head -1) && break
    sleep 0.1
done 2>/dev/null
test -n "$device"
disk=/dev/$(basename "$device")
for limit in size ro queue/logical_block_size queue/physical_block_size queue/max_sectors_kb \
    queue/write_cache queue/discard_max_bytes queue/write_zeroes_max_bytes; do
    echo "$limit $(cat "$device/$limit")"
done | tee "$OUT/limits"

mkdir -p /mnt/lab
mkfs.ext4 -q -F "$disk"
mount "$disk" /mnt/lab
cp /lab/data /mnt/lab/data
sync
umount /mnt/lab
e2fsck -fn "$disk"
if [ -n "$AGAIN" ]; then
    echo 3 >/proc/sys/vm/drop_caches
    mount "$disk" /mnt/lab
    sha256sum </mnt/lab/data | cut -d' ' -f1 >"$OUT/sha256"
    cp /mnt/lab/data /mnt/lab/more
    sync
    rm /mnt/lab/more
    sync # ext4 frees blocks when its journal has the removal, and fstrim looks at free ones
    fstrim -v /mnt/lab | tee "$OUT/trimmed"
    umount /mnt/lab
    e2fsck -fn "$disk"
fi
iscsiadm -m node -T "$TARGET" -p "$PORTAL" --logout
iscsiadm -m node -T "$TARGET" -p "$PORTAL" -o delete
! iscsiadm -m session
