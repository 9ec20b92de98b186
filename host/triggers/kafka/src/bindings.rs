//! The export of a component of the kafka trigger, in Rust.
#![allow(missing_docs, reason = "made of the WIT")]

wasmtime::component::bindgen!({
    path: "../../../wit/deps/exagg-kafka@0.1.0",
    world: "exagg:kafka/kafka-function",
    exports: { default: async | store },
});
