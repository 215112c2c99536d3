#!/bin/sh
# Boots systemd in a host of the lab: systemd.sh UNITS GROUP. It is pid 1 of namespaces of its own, but for the network,
# which is the host's. UNITS is a directory with all the units that there are: nothing of this machine's own is started.
# GROUP is a control group (version 2) of which it is the root. What it could change of this machine is read-only, or
# has an empty file system over it.
set -eu
units=$1
if [ $$ -ne 1 ]; then
    echo $$ >"$2/cgroup.procs"
    exec unshare --fork --pid --mount --uts --ipc --cgroup --kill-child --propagation private sh "$0" "$units"
fi
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount --bind /etc /etc
mount -o remount,bind,ro /etc
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for place in /run /var/lib /var/log; do
    mount -t tmpfs -o mode=755 tmpfs $place
done
mkdir /run/dev
for node in null zero full random urandom tty; do
    touch /run/dev/$node
    mount --bind /dev/$node /run/dev/$node
done
mount --move /run/dev /dev 2>/dev/null || mount --rbind /run/dev /dev
mkdir -p /dev/pts /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
for systemd in /lib/systemd/systemd /usr/lib/systemd/systemd; do
    [ ! -x $systemd ] || exec env -i container=ulpm PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        SYSTEMD_UNIT_PATH="$units" $systemd --system --log-target=console --log-level=info --show-status=no
done
