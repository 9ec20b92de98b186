//! The fuzzer of one target, by libFuzzer: `FUZZ_TARGET=record fuzz-functions …`.
#![no_main]

use std::sync::LazyLock;

static CHECK: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    fuzz_harness::target(&fuzz_functions::TARGETS, &name)
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| CHECK(input));
