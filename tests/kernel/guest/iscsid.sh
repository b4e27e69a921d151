# An open-iscsi of the guest's own: nothing of the host's configuration, no systemd.
PS4='+$EPOCHREALTIME '
set -euxo pipefail
modprobe -a iscsi_tcp sd_mod ext4
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
