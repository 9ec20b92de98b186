//! Publishing records to Kafka, at least once.

#[doc(hidden)]
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated from the WIT, which is documented there")]
pub mod bindings {
    use spin_sdk::wit_bindgen;
    wit_bindgen::generate!({
        runtime_path: "::spin_sdk::wit_bindgen::rt",
        world: "exagg:kafka/kafka-producer@0.1.0",
        path: "../wit/deps/exagg-kafka@0.1.0",
        generate_all,
    });
}

pub use bindings::exagg::kafka::producer::{Delivery, Error, Message};

/// Sends `messages` to the cluster at `brokers` and waits until all in-sync replicas have each.
///
/// # Errors
/// When a broker is not in `allowed_outbound_hosts`, a message is not valid, or not every
/// message was acknowledged (some may be stored: delivery is at least once).
pub async fn send(brokers: &str, messages: Vec<Message>) -> Result<Vec<Delivery>, Error> {
    bindings::exagg::kafka::producer::send(brokers.to_owned(), messages).await
}
