#!/bin/sh
# make watch: runs the pipeline, and builds the functions anew when a source changes; the host, which runs with
# --watch, then swaps in those that came out different.
set -eu
stamp=target/watch.stamp
mkdir -p target
touch "$stamp"
rebuild() {
    # The shell's pid becomes the host's below: with it, this ends.
    while kill -0 $$ 2>/dev/null; do
        sleep 1
        [ -n "$(find functions sdk wit -type f -newer "$stamp" | head -n 1)" ] || continue
        touch "$stamp"
        make --no-print-directory functions || echo "the functions were not built: those from before go on"
    done
}
rebuild &
exec make --no-print-directory up UP_FLAGS=--watch
