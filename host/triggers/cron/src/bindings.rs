//! The export of a component of the cron trigger, in Rust.
#![allow(missing_docs, reason = "made of the WIT")]

wasmtime::component::bindgen!({
    path: "../../../wit/deps/spin-cron@3.0.0",
    world: "spin:cron/spin-cron",
    exports: { default: async | store },
});
