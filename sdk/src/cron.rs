//! Scheduled functions: the world of Spin's official cron trigger.

#[doc(hidden)]
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated from the WIT, which is documented there")]
pub mod bindings {
    use spin_sdk::wit_bindgen;
    wit_bindgen::generate!({
        runtime_path: "::spin_sdk::wit_bindgen::rt",
        world: "spin:cron/spin-cron@3.0.0",
        path: "../wit/deps/spin-cron@3.0.0",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_cron_function",
        default_bindings_module: "::exagg_sdk::cron::bindings",
    });
}

pub use bindings::spin::cron::cron_types::{Error, Metadata};

/// Exports `$handler`, an `async fn(Metadata) -> Result<(), String>`, as a cron function; and with `check = $check` an
/// `async fn() -> Result<(), String>` that says whether the settings are right ([`crate::check!`]).
#[macro_export]
macro_rules! cron_function {
    ($handler:path, check = $check:path) => {
        $crate::cron_function!($handler);
        $crate::check!($check);
    };
    ($handler:path) => {
        struct ExaggCronFunction;

        impl $crate::cron::bindings::Guest for ExaggCronFunction {
            async fn handle_cron_event(
                metadata: $crate::cron::Metadata,
            ) -> ::std::result::Result<(), $crate::cron::Error> {
                $handler(metadata)
                    .await
                    .map_err(|reason: ::std::string::String| $crate::cron::Error::Other(reason))
            }
        }

        $crate::cron::bindings::export_cron_function!(ExaggCronFunction with_types_in $crate::cron::bindings);
    };
}
