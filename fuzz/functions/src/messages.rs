//! The messages of a batch are the records that its columns were made of.

use exagg_sdk::kafka::Batch;
use exagg_sdk::kafka::bindings::exagg::kafka::types::Header;
use fuzz_harness::columns::{Columns, Record, records};
use fuzz_harness::input::Input;

pub fn check(bytes: &[u8]) {
    let (from, records) = records(&mut Input::new(bytes));
    let batch = batch(from, &records);
    let seen: Vec<_> = batch
        .messages()
        .map(|message| Record {
            offset: message.offset,
            timestamp: message.timestamp.unwrap_or(-1),
            key: message.key.map(<[u8]>::to_vec),
            value: message.value.map(<[u8]>::to_vec),
            headers: message.headers().map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect(),
        })
        .collect();
    assert_eq!(seen, records);
    assert_eq!(batch.messages().size_hint(), (records.len(), Some(records.len())));
    assert_eq!(batch.is_empty(), records.is_empty());
}

fn batch(from: i64, records: &[Record]) -> Batch {
    let columns = Columns::new(records);
    let next = records.last().map_or(from, |record| record.offset + 1);
    let header = |(record_index, name, value)| Header { record_index, name, value };
    Batch {
        topic: "t".to_owned(),
        topic_id: "id".to_owned(),
        partition: 0,
        partition_count: 1,
        group: "g".to_owned(),
        from_offset: from,
        next_offset: next,
        end_offset: next,
        lost: None,
        offsets: columns.offsets,
        timestamps: columns.timestamps,
        keys: columns.keys,
        key_lengths: columns.key_lengths,
        values: columns.values,
        value_lengths: columns.value_lengths,
        headers: columns.headers.into_iter().map(header).collect(),
    }
}
