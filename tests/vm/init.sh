#!/bin/busybox sh
# The first program of a machine: file systems, modules, network; then the agent takes its place.
/bin/busybox --install -s /bin
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /dev/hugepages
mount -t devpts -o ptmxmode=0666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
# What is being tested may itself lie there: a clone in /tmp.
for place in /tmp /run; do
    mkdir -p /new
    mount -t tmpfs tmpfs /new
    cp -a "$place/." /new
    mount --move /new "$place"
done
chmod 1777 /tmp /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t hugetlbfs hugetlbfs /dev/hugepages
ln -sf /proc/self/fd /dev/fd
for module in /lib/modules/load/*.ko; do
    insmod "$module" || echo "not loaded: $module"
done

hostname "$ULPM_NAME"
ip link set lo up
ip addr add "$ULPM_ADDRESS/24" dev eth0
# Every packet costs much under emulation: large ones.
ip link set eth0 mtu 9000 up
# The pids of the machines differ, as they would anywhere.
echo "$ULPM_PIDS" >/proc/sys/kernel/ns_last_pid
# What is paged out goes into compressed memory.
echo 128M >/sys/block/zram0/disksize
mkswap /dev/zram0 >/dev/null
swapon /dev/zram0
echo 16 >/proc/sys/vm/nr_hugepages

exec /agent __agent
