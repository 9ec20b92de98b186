#!/bin/sh
# What cargo calls in place of rustc for the crates of this workspace (RUSTC_WORKSPACE_WRAPPER): the code
# counts where it goes and tells what it compares, for libFuzzer; and sums that overflow end it. All of
# these flags are the stable compiler's. Dependencies stay as they are, and are not compiled anew.
case " $* " in
*" build_script_"* | *" proc-macro "*) exec "$@" ;;
esac
exec "$@" -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 \
    -C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table \
    -C llvm-args=-sanitizer-coverage-trace-compares -C overflow-checks=on -C debug-assertions=on
