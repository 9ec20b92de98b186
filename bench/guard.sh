#!/bin/sh
# Counts the instructions that the native core (bench/fold: parse and fold) takes a record, and fails
# when they are more than a tenth above what stands in bench/instructions.txt. Unlike times, counts are
# the same on a busy machine. Where the rise is meant: write the new number there, and say why.
set -eu
cd "$(dirname "$0")/.."
if ! command -v valgrind >/dev/null; then
    echo "valgrind is missing (Debian: apt-get install valgrind)"
    exit 1
fi
cargo build --quiet --release -p fold
count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null target/release/fold "$1" 2>&1 |
        sed -n 's/.*Collected : *\([0-9]*\).*/\1/p'
}
# The program makes its records itself: that is not the core's.
with=$(count once)
without=$(count none)
if [ -z "$with" ] || [ -z "$without" ]; then
    echo "valgrind counted nothing: run it by hand: valgrind --tool=callgrind target/release/fold once"
    exit 1
fi
records=200000
now=$(((with - without) / records))
before=$(cat bench/instructions.txt)
echo "parse and fold: $now instructions a record; $before before, and a tenth more is allowed"
if [ $((now * 10)) -gt $((before * 11)) ]; then
    echo "it has risen by more than a tenth: mend it, or write the new count to bench/instructions.txt"
    exit 1
fi
