# Makes the guest a target and an initiator of its own: modules, configfs, open-iscsi.
PS4='+$EPOCHREALTIME '
set -euxo pipefail
# Where LIO keeps what outlives it; rtslib moves it from /var to /etc if it can. Without a directory
# pr the kernel refuses persistent reservations.
mkdir -p /etc/target/{pr,alua} /etc/rtslib-fb-target/backup /var/target/{pr,alua}
modprobe -a configfs target_core_mod target_core_user target_core_file target_core_iblock \
    tcm_loop iscsi_target_mod iscsi_tcp sd_mod loop ext4 dm-flakey dm-log-writes
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config

# An open-iscsi of the guest's own: nothing of the host's configuration, no systemd.
mount -t tmpfs -o mode=755 tmpfs /etc/iscsi
mkdir -p /etc/iscsi/nodes /run/lock/iscsi
echo InitiatorName=iqn.2026-11.org.example:lab >/etc/iscsi/initiatorname.iscsi
cat >/etc/iscsi/iscsid.conf <<END
node.startup = manual
node.session.auth.chap_algs = MD5
node.session.initial_login_retry_max = 1
node.conn[0].timeo.login_timeout = 30
END
iscsid
