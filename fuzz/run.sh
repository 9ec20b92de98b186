#!/bin/sh
# Fuzzes what is read from outside, guided by coverage: fuzz/run.sh SECONDS [TARGET…]. SECONDS is the whole
# time, in equal parts for the targets, without what compiling takes. What breaks a target is kept in
# fuzz/regressions, where the tests replay it from then on; what is only interesting, in target/fuzz.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:?"fuzz/run.sh SECONDS [TARGET...]"}
shift
functions="record messages"
host="manifest locked oci configuration admin batch"
targets=${*:-$functions $host}
if ! command -v g++ >/dev/null && ! command -v c++ >/dev/null; then
    echo "a C++ compiler is missing, for libFuzzer (Debian: apt-get install build-essential)"
    exit 1
fi

folder=${CARGO_TARGET_DIR:-target}
crate_of() {
    case " $functions " in *" $1 "*) echo fuzz-functions && return ;; esac
    case " $host " in *" $1 "*) echo fuzz-host && return ;; esac
    echo "there is no target $1: there is $functions $host" >&2
    exit 1
}
count=0
crates=""
for target in $targets; do
    crate=$(crate_of "$target")
    case "$crates" in *"$crate"*) ;; *) crates="$crates $crate" ;; esac
    count=$((count + 1))
done
for crate in $crates; do
    # Each by itself: one selection of crates would bring other features.
    RUSTC_WORKSPACE_WRAPPER="$PWD/fuzz/rustc.sh" cargo build --release -p "$crate" --features libfuzzer
done

each=$((seconds / count))
[ "$each" -gt 0 ] || each=1
broken=0
for target in $targets; do
    corpus=$folder/fuzz/$target
    regressions=fuzz/regressions/$target
    log=$folder/fuzz/$target.log
    mkdir -p "$corpus" "$regressions"
    set -- -max_total_time="$each" -timeout=10 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1 \
        -artifact_prefix="$regressions/" "$corpus" "fuzz/seeds/$target" "$regressions"
    [ ! -f "fuzz/dictionaries/$target" ] || set -- -dict="fuzz/dictionaries/$target" "$@"
    status=0
    FUZZ_TARGET=$target "$folder/release/$(crate_of "$target")" "$@" >"$log" 2>&1 || status=$?
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    echo "$target: ${executions:-?} executions in $each s, ${coverage:-?} places reached"
    # Only where nothing is kept.
    rmdir "$regressions" 2>/dev/null || true
    if [ "$status" -ne 0 ]; then
        broken=1
        echo "$target is broken:"
        # The first message: what libFuzzer adds comes behind it.
        grep -v '^#[0-9]*[[:space:]]' "$log" | grep -A 5 -m 1 -E 'panicked|ERROR' || tail -n 20 "$log"
        kept=$(sed -n 's/.*Test unit written to \(.*\)/\1/p' "$log")
        echo "the input: ${kept:-none, see $log}"
    fi
done
rmdir fuzz/regressions 2>/dev/null || true
exit $broken
