//! Records of one partition to batches: closed by count or bytes. Pure.

use std::sync::Arc;

use crate::bindings::kafka::exagg::kafka::types::{Batch, Header};

/// A batch that is being filled, and the place in the log that it begins at.
#[derive(Debug)]
pub struct BatchBuilder {
    contents: Contents,
    header_bytes: usize,
    batch: Batch,
}

/// What a batch may hold.
#[derive(Clone, Copy, Debug)]
pub struct Contents {
    pub records_max: usize,
    /// Of keys, values and headers.
    pub bytes_max: usize,
    /// Whether headers are read: librdkafka allocates to look for them, also where there are none.
    pub headers: bool,
}

/// One record, borrowed from wherever it was fetched to.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    pub offset: i64,
    /// Unix milliseconds, or -1.
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
}

/// How much a batch holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub records: usize,
    pub key_bytes: usize,
    pub value_bytes: usize,
}

/// What all batches of a partition have in common for a while.
#[derive(Clone, Debug, Default)]
pub struct Place {
    pub topic: String,
    pub topic_id: String,
    pub partition: i32,
    pub partition_count: i32,
    pub group: String,
}

/// A batch without records: `[from, from)`.
pub fn empty(place: &Place, from: i64, end: i64) -> Batch {
    Batch {
        topic: place.topic.clone(),
        topic_id: place.topic_id.clone(),
        partition: place.partition,
        partition_count: place.partition_count,
        group: place.group.clone(),
        from_offset: from,
        next_offset: from,
        end_offset: end.max(from),
        lost: None,
        offsets: Vec::new(),
        timestamps: Vec::new(),
        keys: Vec::new(),
        key_lengths: Vec::new(),
        values: Vec::new(),
        value_lengths: Vec::new(),
        headers: Vec::new(),
    }
}

fn push(column: &mut Vec<u8>, lengths: &mut Vec<i32>, bytes: Option<&[u8]>) {
    column.extend_from_slice(bytes.unwrap_or_default());
    // A record is below 2 GiB by Kafka's own format.
    lengths.push(bytes.map_or(-1, |bytes| i32::try_from(bytes.len()).unwrap_or(i32::MAX)));
}

impl BatchBuilder {
    pub fn new(place: &Place, from: i64, contents: Contents) -> Self {
        Self { contents, header_bytes: 0, batch: empty(place, from, from) }
    }

    /// Makes room for as much as the batch before held: columns that grow by doubling hold twice what
    /// they need.
    #[must_use]
    pub fn reserve(mut self, like: Size) -> Self {
        let batch = &mut self.batch;
        batch.offsets.reserve(like.records);
        batch.timestamps.reserve(like.records);
        batch.key_lengths.reserve(like.records);
        batch.value_lengths.reserve(like.records);
        batch.keys.reserve(like.key_bytes);
        batch.values.reserve(like.value_bytes);
        self
    }

    pub fn size(&self) -> Size {
        Size {
            records: self.batch.offsets.len(),
            key_bytes: self.batch.keys.len(),
            value_bytes: self.batch.values.len(),
        }
    }

    /// True when it holds as much as it may: the record that reaches a limit is still taken.
    pub fn is_full(&self) -> bool {
        let bytes = self.batch.keys.len() + self.batch.values.len() + self.header_bytes;
        self.batch.offsets.len() >= self.contents.records_max || bytes >= self.contents.bytes_max
    }

    /// Adds the record, and says whether its headers are to be added as well. One below the batch's position
    /// was applied before and is passed over: a fetch may begin earlier than it was asked to.
    pub fn push(&mut self, record: &RecordRef<'_>) -> bool {
        if record.offset < self.batch.next_offset {
            return false;
        }
        let batch = &mut self.batch;
        batch.offsets.push(record.offset);
        batch.timestamps.push(record.timestamp);
        push(&mut batch.keys, &mut batch.key_lengths, record.key);
        push(&mut batch.values, &mut batch.value_lengths, record.value);
        batch.next_offset = record.offset + 1;
        self.contents.headers
    }

    /// Adds a header to the record added last.
    pub fn push_header(&mut self, name: &str, value: Option<&[u8]>) {
        self.header_bytes += name.len() + value.map_or(0, <[u8]>::len);
        let record_index = u32::try_from(self.batch.offsets.len().saturating_sub(1)).unwrap_or(u32::MAX);
        self.batch.headers.push(Header { record_index, name: name.to_owned(), value: value.map(<[u8]>::to_vec) });
    }

    /// The partition ended here: holes before it (markers, compaction) are part of the interval.
    pub fn end_at(&mut self, position: i64) {
        self.batch.next_offset = self.batch.next_offset.max(position);
    }

    /// True while the interval is empty.
    pub fn is_empty(&self) -> bool {
        self.batch.from_offset == self.batch.next_offset
    }

    pub fn finish(mut self, end: Option<i64>) -> Batch {
        self.batch.end_offset = end.unwrap_or_default().max(self.batch.next_offset);
        self.batch
    }
}

/// The next `length` bytes of a column; a negative length is a null.
fn take<'a>(column: &'a [u8], at: &mut usize, length: i32) -> Option<&'a [u8]> {
    let length = usize::try_from(length).ok()?;
    let bytes = &column[*at..*at + length];
    *at += length;
    Some(bytes)
}

/// The records of a batch, in order, with their headers.
pub fn records(batch: &Batch) -> impl Iterator<Item = (RecordRef<'_>, Vec<&Header>)> {
    let (mut key_at, mut value_at) = (0, 0);
    (0..batch.offsets.len()).map(move |index| {
        let record = RecordRef {
            offset: batch.offsets[index],
            timestamp: batch.timestamps[index],
            key: take(&batch.keys, &mut key_at, batch.key_lengths[index]),
            value: take(&batch.values, &mut value_at, batch.value_lengths[index]),
        };
        let headers = batch.headers.iter().filter(move |header| header.record_index as usize == index).collect();
        (record, headers)
    })
}

/// The same interval with only the records that `keep` holds for.
fn part(batch: &Batch, from: i64, next: i64, keep: impl Fn(i64) -> bool) -> Arc<Batch> {
    let place = Place {
        topic: batch.topic.clone(),
        topic_id: batch.topic_id.clone(),
        partition: batch.partition,
        partition_count: batch.partition_count,
        group: batch.group.clone(),
    };
    let everything = Contents { records_max: usize::MAX, bytes_max: usize::MAX, headers: true };
    let mut builder = BatchBuilder::new(&place, from, everything);
    for (record, headers) in records(batch).filter(|(record, _)| keep(record.offset)) {
        builder.push(&record);
        for header in headers {
            builder.push_header(&header.name, header.value.as_deref());
        }
    }
    builder.end_at(next);
    Arc::new(builder.finish(Some(batch.end_offset)))
}

/// Two halves whose intervals meet; none for a batch of less than two records.
pub fn split(batch: &Batch) -> Option<(Arc<Batch>, Arc<Batch>)> {
    let middle = *batch.offsets.get(batch.offsets.len().checked_div(2).filter(|half| *half > 0)?)?;
    let first = part(batch, batch.from_offset, middle, |offset| offset < middle);
    Some((first, part(batch, middle, batch.next_offset, |offset| offset >= middle)))
}

/// The batch without one record, whose offset becomes a hole.
pub fn without(batch: &Batch, offset: i64) -> Arc<Batch> {
    part(batch, batch.from_offset, batch.next_offset, |other| other != offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder(records_max: usize, bytes_max: usize) -> BatchBuilder {
        let contents = Contents { records_max, bytes_max, headers: true };
        BatchBuilder::new(&Place { topic: "t".into(), ..Place::default() }, 5, contents)
    }

    fn record(offset: i64, value: &str) -> RecordRef<'_> {
        RecordRef { offset, timestamp: offset, key: None, value: Some(value.as_bytes()) }
    }

    fn batch() -> Batch {
        let mut builder = builder(10, 1000);
        for (offset, value) in [(5, "a"), (7, "bb"), (8, ""), (9, "d")] {
            builder.push(&record(offset, value));
        }
        builder.push_header("h", Some(b"1"));
        builder.end_at(12);
        builder.finish(Some(20))
    }

    #[test]
    fn the_interval_covers_holes_and_markers() {
        let batch = batch();
        assert_eq!((batch.from_offset, batch.next_offset, batch.end_offset), (5, 12, 20));
        assert_eq!(batch.offsets, [5, 7, 8, 9]);
    }

    #[test]
    fn a_batch_closes_by_count_and_by_bytes() {
        let mut full = builder(2, 1000);
        full.push(&record(5, "a"));
        assert!(!full.is_full());
        full.push(&record(6, "a"));
        assert!(full.is_full());
        let mut full = builder(10, 4);
        full.push(&record(5, "abc"));
        assert!(!full.is_full());
        full.push(&record(6, "longer than what is left"));
        assert!(full.is_full());
    }

    #[test]
    fn room_is_made_for_what_the_batch_before_held() {
        let mut before = builder(10, 1000);
        before.push(&record(5, "abc"));
        let size = before.size();
        assert_eq!(size, Size { records: 1, key_bytes: 0, value_bytes: 3 });
        let reserved = builder(10, 1000).reserve(size);
        assert!(reserved.is_empty() && reserved.batch.values.capacity() >= 3);
    }

    #[test]
    fn records_before_the_position_are_passed_over() {
        let mut builder = builder(10, 1000);
        assert!(!builder.push(&record(4, "old")));
        assert!(builder.is_empty());
        builder.push(&record(5, "new"));
        builder.push(&record(5, "again"));
        assert_eq!(builder.finish(None).offsets, [5]);
    }

    #[test]
    fn halves_meet_and_keep_everything() {
        let batch = batch();
        let (first, second) = split(&batch).unwrap();
        assert_eq!((first.from_offset, first.next_offset, first.offsets.as_slice()), (5, 8, &[5, 7][..]));
        assert_eq!((second.from_offset, second.next_offset, second.offsets.as_slice()), (8, 12, &[8, 9][..]));
        assert_eq!(second.headers.len(), 1);
        assert_eq!(second.headers[0].record_index, 1);
        let (one, _) = split(&first).unwrap();
        assert!(split(&one).is_none());
    }

    #[test]
    fn a_record_taken_out_becomes_a_hole() {
        let without = without(&batch(), 9);
        assert_eq!((without.from_offset, without.next_offset), (5, 12));
        assert_eq!(without.offsets, [5, 7, 8]);
        assert!(without.headers.is_empty());
    }
}
