//! A batch holds the records that were put into it, and its parts do: compared with plain lists.
//! The first bytes are its limits.

use exagg_clients::kafka::{Offset, Partition, TopicId, TopicPartition};
use exagg_trigger_kafka::batch::{BatchBuilder, BatchLimits, RecordRef, Source, records, split, without};
use exagg_trigger_kafka::bindings::exagg::kafka::types::Batch;
use fuzz_harness::columns::{self, Columns, Record};
use fuzz_harness::input::Input;

pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let records_max = usize::from(input.byte());
    let bytes_max = usize::from(input.byte()) * 8;
    let headers = input.byte().is_multiple_of(2);
    let (from, offered) = columns::records(&mut input);
    let (batch, taken) =
        build(from, &offered, BatchLimits { records_max, bytes_max, headers, record_bytes_max: usize::MAX });
    assert_holds(&batch, &taken);
    assert_eq!((batch.from_offset, batch.end_offset), (from, batch.next_offset));
    assert_parts(&batch, &taken);
}

fn source() -> Source {
    Source {
        partition: TopicPartition { topic: "t".to_owned(), partition: Partition(0) },
        topic_id: TopicId::default(),
        partition_count: 1,
        group: "g".to_owned(),
    }
}

/// Fills a batch until it is full; the record that was taken last is offered again, as a fetch may do.
fn build(from: i64, offered: &[Record], limits: BatchLimits) -> (Batch, Vec<Record>) {
    let mut builder = BatchBuilder::new(&source(), Offset(from), limits);
    let mut taken: Vec<Record> = Vec::new();
    for record in offered {
        let bytes: usize = taken.iter().map(size).sum();
        let is_full = taken.len() >= limits.records_max || bytes >= limits.bytes_max;
        assert_eq!(builder.is_full(), is_full);
        if is_full {
            break;
        }
        let wants_headers = builder.push(&borrowed(record));
        assert_eq!(wants_headers, limits.headers);
        let mut record = record.clone();
        if !wants_headers {
            record.headers.clear();
        }
        for (name, value) in &record.headers {
            builder.push_header(name, value.as_deref());
        }
        assert!(!builder.push(&borrowed(&record)), "an offset that was there is ignored");
        taken.push(record);
    }
    assert_eq!(builder.is_empty(), taken.is_empty());
    (builder.finish(None), taken)
}

fn size(record: &Record) -> usize {
    let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + length(value)).sum();
    length(&record.key) + length(&record.value) + headers
}

fn borrowed(record: &Record) -> RecordRef<'_> {
    let Record { offset, timestamp, key, value, .. } = record;
    RecordRef { offset: Offset(*offset), timestamp: *timestamp, key: key.as_deref(), value: value.as_deref() }
}

/// The batch is these records, by its columns (which functions read) and by its iterator.
fn assert_holds(batch: &Batch, expected: &[Record]) {
    let columns = Columns {
        offsets: batch.offsets.clone(),
        timestamps: batch.timestamps.clone(),
        keys: batch.keys.clone(),
        key_lengths: batch.key_lengths.clone(),
        values: batch.values.clone(),
        value_lengths: batch.value_lengths.clone(),
        headers: batch.headers.iter().map(|h| (h.record_index, h.name.clone(), h.value.clone())).collect(),
    };
    assert_eq!(columns, Columns::new(expected));
    let read = records(batch).map(|(record, headers)| Record {
        offset: record.offset.0,
        timestamp: record.timestamp,
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        headers: headers.iter().map(|header| (header.name.clone(), header.value.clone())).collect(),
    });
    assert_eq!(read.collect::<Vec<_>>(), expected);
    let is_inside = |offset: &i64| (batch.from_offset..batch.next_offset).contains(offset);
    assert!(batch.offsets.iter().all(is_inside));
}

fn assert_parts(batch: &Batch, held: &[Record]) {
    assert_eq!(split(batch).is_some(), held.len() > 1);
    if let Some((first, second)) = split(batch) {
        let (front, back) = held.split_at(held.len() / 2);
        assert_holds(&first, front);
        assert_holds(&second, back);
        assert_eq!(first.next_offset, second.from_offset);
        assert_eq!((first.from_offset, second.next_offset), (batch.from_offset, batch.next_offset));
    }
    for taken_out in held.iter().take(4) {
        let left: Vec<_> = held.iter().filter(|record| *record != taken_out).cloned().collect();
        let rest = without(batch, Offset(taken_out.offset));
        assert_holds(&rest, &left);
        assert_eq!((rest.from_offset, rest.next_offset), (batch.from_offset, batch.next_offset));
    }
}
