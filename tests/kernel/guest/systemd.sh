# Makes systemd the guest's PID 1, which starts what Debian's own units make a system, then the jobs.
# Nothing of the host's configuration: neither its units, nor its file systems, nor its first boot,
# nor that it may be a container.
mount -t tmpfs -o mode=755 tmpfs /etc/systemd/system
mkdir -p /etc/tmpfiles.d
ln -sf /dev/null /etc/tmpfiles.d/tmp.conf # else a boot empties /tmp
: >/etc/fstab
tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
rm -f /.dockerenv

cat >/etc/systemd/system/lab.service <<END
[Service]
Type=exec
PassEnvironment=PATH HOME LC_ALL
WorkingDirectory=/
ExecStart=/bin/bash -c 'exec bash /lab/jobs.sh >/dev/console 2>&1'
END
exec /lib/systemd/systemd --unit=lab.service --show-status=false
