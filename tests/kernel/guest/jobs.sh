# Runs each job of /lab/jobs in the order of its name, leaves its exit code in /lab/JOB.rc, and
# powers off.
for job in /lab/jobs/*; do
    name=$(basename "$job")
    echo "lab: $name begins at $(cut -d' ' -f1 /proc/uptime) s"
    timeout "$(cat /lab/job-seconds)" bash "$job" >"/lab/$name.log" 2>&1
    rc=$?
    echo "lab: $name ends with $rc at $(cut -d' ' -f1 /proc/uptime) s"
    # Renamed into place: a file that is there is whole.
    echo $rc >"/lab/$name.rc.new"
    mv "/lab/$name.rc.new" "/lab/$name.rc"
done
sync
busybox poweroff -f
