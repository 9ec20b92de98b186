//! The batch that a Kafka function is given.

#[doc(hidden)]
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated from the WIT, which is documented there")]
pub mod bindings {
    use spin_sdk::wit_bindgen;
    wit_bindgen::generate!({
        runtime_path: "::spin_sdk::wit_bindgen::rt",
        world: "exagg:kafka/kafka-function@0.1.0",
        path: "../wit/deps/exagg-kafka@0.1.0",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_kafka_function",
        default_bindings_module: "::exagg_sdk::kafka::bindings",
    });
}

pub use bindings::exagg::kafka::types::{Batch, LostRange, Outcome, Poisoned};
use exagg_columns::{Columns, Records};

/// One record of a batch, borrowed from it.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Position in its partition.
    pub offset: i64,
    /// Unix milliseconds; `None` where the record has no timestamp.
    pub timestamp: Option<i64>,
    /// `None` is a null key, which is not an empty one.
    pub key: Option<&'a [u8]>,
    /// `None` is a null value (a tombstone), which is not an empty one.
    pub value: Option<&'a [u8]>,
    index: u32,
    batch: &'a Batch,
}

/// What a record was that is given cut; `None` is a null key or value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Length of its key.
    pub key_bytes: Option<u64>,
    /// Length of its value.
    pub value_bytes: Option<u64>,
}

/// The header by which the host says that a record is cut. What producers write under this name is not given.
const CUT: &str = "exagg-cut";

impl Cut {
    fn parse(text: &[u8]) -> Option<Self> {
        let length = |text: &str| if text == "-1" { Some(None) } else { text.parse().ok().map(Some) };
        let (key, value) = std::str::from_utf8(text).ok()?.split_once(':')?;
        Some(Self { key_bytes: length(key)?, value_bytes: length(value)? })
    }
}

impl<'a> Message<'a> {
    /// What the record was, where it is given cut; none for a whole record.
    ///
    /// A record that is larger than the trigger's `record_bytes_max`, or stands in a batch that unpacks to more
    /// than the host takes, has only the head of its key and of its value, and no headers of its own. Functions are
    /// given such records where the trigger has `on_oversized = "give"`.
    pub fn cut(&self) -> Option<Cut> {
        if self.batch.headers.is_empty() {
            return None;
        }
        self.headers().find(|(name, _)| *name == CUT).and_then(|(_, value)| Cut::parse(value?))
    }

    /// The record's headers in their order: name, and value or null.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> {
        let index = self.index;
        // The host writes headers in record order.
        let headers = &self.batch.headers;
        let first = headers.partition_point(|header| header.record_index < index);
        headers[first..]
            .iter()
            .take_while(move |header| header.record_index == index)
            .map(|header| (header.name.as_str(), header.value.as_deref()))
    }
}

/// The records of a batch in offset order, without copies.
pub struct Messages<'a> {
    batch: &'a Batch,
    records: Records<'a>,
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    #[inline]
    fn next(&mut self) -> Option<Message<'a>> {
        let record = self.records.next()?;
        Some(Message {
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key,
            value: record.value,
            index: u32::try_from(record.index).unwrap_or(u32::MAX),
            batch: self.batch,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.records.size_hint()
    }
}

impl Batch {
    /// The records of the batch in offset order.
    pub fn messages(&self) -> Messages<'_> {
        let columns = Columns {
            offsets: &self.offsets,
            timestamps: &self.timestamps,
            keys: &self.keys,
            key_lengths: &self.key_lengths,
            values: &self.values,
            value_lengths: &self.value_lengths,
        };
        Messages { batch: self, records: columns.records() }
    }

    /// True for the batches without records, which tell where a partition stands.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }
}

/// Exports `$handler`, an `async fn(Batch) -> Outcome`, as a Kafka function; and with `check = $check` an
/// `async fn() -> Result<(), String>` that says whether the settings are right ([`crate::check!`]).
#[macro_export]
macro_rules! kafka_function {
    ($handler:path, check = $check:path) => {
        $crate::kafka_function!($handler);
        $crate::check!($check);
    };
    ($handler:path) => {
        struct ExaggKafkaFunction;

        impl $crate::kafka::bindings::Guest for ExaggKafkaFunction {
            async fn handle_batch(batch: $crate::kafka::Batch) -> $crate::kafka::Outcome {
                $handler(batch).await
            }
        }

        $crate::kafka::bindings::export_kafka_function!(ExaggKafkaFunction with_types_in $crate::kafka::bindings);
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use bindings::exagg::kafka::types::Header;

    fn batch() -> Batch {
        Batch {
            topic: "t".into(),
            topic_id: "id".into(),
            partition: 0,
            partition_count: 1,
            group: "g".into(),
            from_offset: 5,
            next_offset: 9,
            end_offset: 9,
            lost: None,
            offsets: vec![5, 6, 8],
            timestamps: vec![1, -1, 3],
            keys: b"k".to_vec(),
            key_lengths: vec![-1, 1, 0],
            values: b"abcd".to_vec(),
            value_lengths: vec![3, -1, 1],
            headers: vec![
                Header { record_index: 1, name: "a".into(), value: Some(b"1".to_vec()) },
                Header { record_index: 1, name: "b".into(), value: None },
                Header { record_index: 2, name: "c".into(), value: Some(Vec::new()) },
            ],
        }
    }

    #[test]
    fn messages_tell_null_from_empty() {
        let batch = batch();
        let seen: Vec<_> = batch.messages().map(|m| (m.offset, m.timestamp, m.key, m.value)).collect();
        assert_eq!(
            seen,
            vec![
                (5, Some(1), None, Some(&b"abc"[..])),
                (6, None, Some(&b"k"[..]), None),
                (8, Some(3), Some(&b""[..]), Some(&b"d"[..])),
            ]
        );
    }

    #[test]
    fn a_cut_record_says_how_long_it_was() {
        let mut batch = batch();
        assert!(batch.messages().all(|message| message.cut().is_none()));
        batch.headers = vec![
            Header { record_index: 0, name: CUT.into(), value: Some(b"-1:140000000".to_vec()) },
            Header { record_index: 1, name: CUT.into(), value: Some(b"5:-1".to_vec()) },
            Header { record_index: 2, name: CUT.into(), value: Some(b"nonsense".to_vec()) },
        ];
        let cuts: Vec<_> = batch.messages().map(|message| message.cut()).collect();
        let long = Cut { key_bytes: None, value_bytes: Some(140_000_000) };
        let key = Cut { key_bytes: Some(5), value_bytes: None };
        assert_eq!(cuts, [Some(long), Some(key), None]);
    }

    #[test]
    fn headers_belong_to_their_record() {
        let batch = batch();
        let headers: Vec<Vec<_>> = batch.messages().map(|m| m.headers().collect()).collect();
        assert_eq!(headers[0], vec![]);
        assert_eq!(headers[1], vec![("a", Some(&b"1"[..])), ("b", None)]);
        assert_eq!(headers[2], vec![("c", Some(&b""[..]))]);
    }
}
