//! Functions keep to interfaces that a stock Spin host has, Kafka aside. Needs the built functions.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use wasmtime::component::types::ComponentItem;

/// What Spin 4.1 serves to functions (its world, by packages).
const STOCK: [&str; 13] = [
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:http/",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
    "wasi:keyvalue/",
    "wasi:config/",
    "spin:variables/variables@3.0.0",
    "spin:postgres/postgres@3.0.0",
    "spin:postgres/postgres@4.2.0",
    "spin:key-value/key-value@3.0.0",
];

/// The interfaces whose functions a host has to serve. One that only names types asks for nothing: its
/// import is satisfied by any host.
fn imports(function: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/wasm32-wasip2/function").join(function);
    let mut config = wasmtime::Config::new();
    config.wasm_component_model_async(true);
    let engine = wasmtime::Engine::new(&config).unwrap();
    let component = wasmtime::component::Component::from_file(&engine, path).unwrap();
    let asks = |item: &ComponentItem| match item {
        ComponentItem::ComponentInstance(instance) => {
            instance.exports(&engine).any(|(_, export)| !matches!(export.ty, ComponentItem::Type(_)))
        }
        _ => true,
    };
    let imports = component.component_type();
    imports.imports(&engine).filter(|(_, import)| asks(&import.ty)).map(|(name, _)| name.to_owned()).collect()
}

fn strangers(function: &str) -> Vec<String> {
    let is_stock = |name: &String| STOCK.iter().any(|stock| name.starts_with(stock));
    imports(function).into_iter().filter(|name| !is_stock(name)).collect()
}

#[test]
fn dashboard_window_closer_and_aggregator_run_under_any_spin_that_has_their_trigger() {
    assert_eq!(strangers("dashboard.wasm"), [""; 0]);
    assert_eq!(strangers("window_closer.wasm"), [""; 0]);
    assert_eq!(strangers("aggregator.wasm"), [""; 0]);
}

#[test]
fn the_fetcher_needs_the_producer_beside() {
    assert_eq!(strangers("fetcher.wasm"), ["exagg:kafka/producer@0.1.0"]);
}
