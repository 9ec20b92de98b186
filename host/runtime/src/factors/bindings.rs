//! The imports that the factors serve, in Rust: see `wit/host.wit`.
#![allow(missing_docs, reason = "made of the WIT")]

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "exagg:host/imports",
    imports: { default: async | trappable },
    with: {
        "spin:postgres/postgres@3.0.0.connection": crate::factors::outbound_pg::Connection,
        "spin:postgres/postgres@4.2.0.connection": crate::factors::outbound_pg::Connection,
        "spin:postgres/postgres@4.2.0.connection-builder": crate::factors::outbound_pg::ConnectionBuilder,
        "spin:key-value/key-value@3.0.0.store": crate::factors::key_value::Store,
    },
});
