//! What is published: a JSON object under the key of its exchange or city, so that all its
//! records are in one partition, in order.

use exagg_sdk::producer::Message;
use serde_json::{Map, Value};

/// How the reference writes times; they are UTC here.
const TIME_PATTERN: &str = "%Y-%m-%d %H:%M:%S";

#[derive(Debug, PartialEq)]
pub struct Record {
    pub key: String,
    pub value: Map<String, Value>,
}

impl Record {
    pub fn into_message(self, topic: &str) -> Message {
        Message {
            topic: topic.to_owned(),
            key: Some(self.key.into_bytes()),
            value: Some(Value::Object(self.value).to_string().into_bytes()),
            headers: Vec::new(),
        }
    }
}

/// Unix seconds as text, in UTC.
pub fn utc(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .strftime(TIME_PATTERN)
        .to_string()
}
