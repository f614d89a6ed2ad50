# What the guest is for: the tests, and then the latency of one way, by the system's own tool and by ours.
/tests/links --include-ignored --test-threads=1 || exit 1

# The two ends of cable 1 are two machines to each other: who calls one end's address calls from the other end.
/usr/bin/ip route replace table local local 10.80.1.1 dev a1 proto kernel scope host src 10.80.1.2
/usr/bin/ip route replace table local local 10.80.1.2 dev b1 proto kernel scope host src 10.80.1.1
/tests/replicas --include-ignored --test-threads=1 || exit 1

# The tool's table ends with a line of bytes, rounds, least, most and median, in us.
system() {
    timeout 60 ib_send_lat -c UC -x 1 -F -n 1000 -s "$1" -d rxea1 >/dev/null 2>&1 &
    sleep 1
    timeout 60 ib_send_lat -c UC -x 1 -F -n 1000 -s "$1" -d rxeb1 127.0.0.1 2>/dev/null |
        awk -v bytes="$1" '$1 == bytes { print $5 }'
    wait
}

ours() {
    timeout 60 /tests/latency rxea1 "$1" &
    timeout 60 /tests/latency rxeb1 127.0.0.1 "$1" | sed -n 's/.* p50 \([0-9.]*\) .*/\1/p'
    wait
}

# In turn, so that what changes over time meets both.
for bytes in 64 4000; do
    for turn in 1 2 3 4 5 6 7; do
        echo "latency of $bytes bytes: system $(system $bytes) ours $(ours $bytes)"
    done
done
