#!/bin/busybox sh
# The guest's first process: loads the modules, makes the cables, runs the tests, and ends the machine with the status.
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
echo "guest: up"
ulimit -l unlimited

# Programs are named by their paths: this shell has small ones of its own with the same names.
ip=/usr/bin/ip
while read -r module; do /usr/bin/insmod "$module" || echo "guest: $module was not loaded"; done </modules/list
$ip link set lo up

# Both ends of a cable are on this machine: each must take packets from the other for one of its own addresses.
for folder in all default; do
    echo 0 >/proc/sys/net/ipv4/conf/$folder/rp_filter
    echo 1 >/proc/sys/net/ipv4/conf/$folder/accept_local
done

# cable N: rxeaN at 10.80.N.1 and rxebN at 10.80.N.2, joined. A packet of 4 KiB fits into one of the network. Neighbours are told and
# not asked, for an answer would come from the loopback.
cable() {
    $ip link add "a$1" address "02:00:00:00:$1:01" mtu 9000 type veth peer name "b$1" address "02:00:00:00:$1:02" mtu 9000
    for end in a b; do
        echo 0 >"/proc/sys/net/ipv4/conf/$end$1/rp_filter"
        echo 1 >"/proc/sys/net/ipv4/conf/$end$1/accept_local"
    done
    $ip addr add "10.80.$1.1/24" dev "a$1"
    $ip addr add "10.80.$1.2/24" dev "b$1"
    $ip link set "a$1" up
    $ip link set "b$1" up
    $ip neigh replace "10.80.$1.2" lladdr "02:00:00:00:$1:02" dev "a$1" nud permanent
    $ip neigh replace "10.80.$1.1" lladdr "02:00:00:00:$1:01" dev "b$1" nud permanent
    /usr/bin/rdma link add "rxea$1" type rxe netdev "a$1"
    /usr/bin/rdma link add "rxeb$1" type rxe netdev "b$1"
}
for number in 1 2 3; do cable $number; done

sh /run.sh </dev/null 2>&1
status=$?
[ "$status" -le 127 ] || status=127
printf "\\$(printf %o "$status")" | dd of=/dev/port bs=1 seek=$((EXIT_PORT)) 2>/dev/null
