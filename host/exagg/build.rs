//! Has the linker put the host's functions in the place of librdkafka's that unpack batches: `src/sys.rs`.

/// What `src/sys.rs` has a `__wrap_` function for.
const WRAPPED: [&str; 6] = [
    "rd_gz_decompress",
    "rd_kafka_lz4_decompress",
    "rd_kafka_zstd_decompress",
    "rd_kafka_snappy_uncompressed_length",
    "rd_kafka_snappy_uncompress",
    "rd_kafka_snappy_java_uncompress",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The linkers of other systems have no such option: there librdkafka's own functions stay.
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        for name in WRAPPED {
            println!("cargo:rustc-link-arg-bins=-Wl,--wrap={name}");
        }
    }
}
