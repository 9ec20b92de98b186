use exagg_sdk::kafka::{Batch, Outcome};

exagg_sdk::kafka_function!(handle);

/// Gets the records of one partition in their order. What comes after `Applied` is not given again,
/// unless a host dies before it has committed that: write so that a second time changes nothing.
async fn handle(batch: Batch) -> Outcome {
    for message in batch.messages() {
        let value = String::from_utf8_lossy(message.value.unwrap_or_default());
        println!("{}/{} offset {}: {value}", batch.topic, batch.partition, message.offset);
    }
    Outcome::Applied
}
