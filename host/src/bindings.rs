//! What the WIT comes to in Rust: the imports that the factors serve, and the exports that the
//! triggers call.

/// The imports: see `wit/host.wit`.
pub mod imports {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "exagg:host/imports",
        imports: { default: async | trappable },
        with: {
            "spin:postgres/postgres@3.0.0.connection": crate::factors::outbound_pg::Connection,
            "spin:postgres/postgres@4.2.0.connection": crate::factors::outbound_pg::Connection,
            "spin:postgres/postgres@4.2.0.connection-builder": crate::factors::outbound_pg::ConnectionBuilder,
            "spin:key-value/key-value@3.0.0.store": crate::factors::key_value::Store,
        },
    });
}

/// The export of a component of the kafka trigger.
pub mod kafka {
    wasmtime::component::bindgen!({
        path: "../wit/deps/exagg-kafka@0.1.0",
        world: "exagg:kafka/kafka-function",
        exports: { default: async | store },
    });
}

/// The export of a component of the cron trigger.
pub mod cron {
    wasmtime::component::bindgen!({
        path: "../wit/deps/spin-cron@3.0.0",
        world: "spin:cron/spin-cron",
        exports: { default: async | store },
    });
}
