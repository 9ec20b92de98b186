//! Settings that are checked before anything runs.

#[doc(hidden)]
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated from the WIT, which is documented there")]
pub mod bindings {
    use spin_sdk::wit_bindgen;
    wit_bindgen::generate!({
        runtime_path: "::spin_sdk::wit_bindgen::rt",
        world: "exagg:check/checked@0.1.0",
        path: "../wit/deps/exagg-check@0.1.0",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_check",
        default_bindings_module: "::exagg_sdk::check::bindings",
    });
}

/// Exports `$check`, an `async fn() -> Result<(), String>`. The host calls it when it starts, before the component is
/// swapped in, and in `exagg up --check`: an error refuses the start or the swap. It is for variables that cannot be
/// right; a database that is away is no reason.
#[macro_export]
macro_rules! check {
    ($check:path) => {
        // In a native program, a test say, several functions may stand side by side: the export has one name.
        #[cfg(not(target_family = "wasm"))]
        const _: fn() = || drop($check());

        #[cfg(target_family = "wasm")]
        struct ExaggCheck;

        #[cfg(target_family = "wasm")]
        impl $crate::check::bindings::Guest for ExaggCheck {
            async fn check() -> ::std::result::Result<(), ::std::string::String> {
                $check().await
            }
        }

        #[cfg(target_family = "wasm")]
        $crate::check::bindings::export_check!(ExaggCheck with_types_in $crate::check::bindings);
    };
}
