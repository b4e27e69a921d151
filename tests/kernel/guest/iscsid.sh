# An open-iscsi of the guest's own: nothing of the host's configuration, no systemd.
set -euxo pipefail
modprobe -a virtio_net iscsi_tcp sd_mod ext4
busybox ip addr add 10.0.2.15/24 dev eth0
busybox ip link set eth0 up
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
