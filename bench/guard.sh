#!/bin/sh
# Counts the instructions that a record takes, of the native core (bench/fold: parse and fold) and of the host's path in
# front of it (bench/path: librdkafka takes a broker's answer apart, the kafka trigger makes batches of it), and fails when
# they are more than a tenth above what stands in bench/instructions.txt. Unlike times, counts are the same on a busy
# machine. Where the rise is meant: write the new number there, and say why. `make guard` builds both.
set -eu
cd "$(dirname "$0")/.."
if ! command -v valgrind >/dev/null; then
    echo "valgrind is missing (Debian: apt-get install valgrind)"
    exit 1
fi
# Arguments: options of callgrind, and what to run.
count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$@" 2>&1 | sed -n 's/.*Collected : *\([0-9]*\).*/\1/p'
}

failed=0
# A name in bench/instructions.txt, what it is, the instructions counted, and of how many records.
judge() {
    if [ -z "$3" ] || [ "$3" -eq 0 ]; then
        echo "valgrind counted nothing of $2: run it by hand"
        exit 1
    fi
    now=$(($3 / $4))
    before=$(sed -n "s/^$1 //p" bench/instructions.txt)
    echo "$2: $now instructions a record; $before before, and a tenth more is allowed"
    if [ $((now * 10)) -gt $((before * 11)) ]; then
        echo "it has risen by more than a tenth: mend it, or write the new count to bench/instructions.txt"
        failed=1
    fi
}

# The program makes its records itself: that is not the core's.
with=$(count target/release/fold once)
without=$(count target/release/fold none)
judge fold "parse and fold" $((${with:-0} - ${without:-0})) 200000
# Two threads' work: that on answers, and that on queues. All else is the producer's, and the broker's own.
path=$(count --toggle-collect=rd_kafka_broker_fetch_reply '--toggle-collect=*path_take*' target/release/path)
judge path "from a broker's answer to a batch" "${path:-0}" 160000
exit "$failed"
