//! Records of one partition to batches: closed by count or bytes. Pure.

use std::sync::Arc;

use exagg_clients::kafka::{Offset, Partition, TopicId, TopicPartition};
use exagg_columns::{Columns, Record};
use exagg_unpack::{self as unpack, CUT_KEY_BYTES, CUT_VALUE_BYTES, marker};

use crate::bindings::exagg::kafka::types::{Batch, Header};

/// A batch that is being filled, and the offset that it begins at.
#[derive(Debug)]
pub struct BatchBuilder {
    limits: BatchLimits,
    header_bytes: usize,
    last: Last,
    batch: Batch,
}

/// What a batch may hold.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Of one batch, from 1 to 1,000,000; the default is 10,000.
    pub records_max: usize,
    /// Of keys, values and headers.
    pub bytes_max: usize,
    /// Whether headers are read: librdkafka allocates to look for them, also where there are none.
    pub headers: bool,
    /// Of one record's key, value and headers, as far as they are read: what is larger is cut.
    pub record_bytes_max: usize,
}

/// The record added last.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    /// Of key, value and the headers so far.
    bytes: usize,
    /// How many headers there were before it.
    headers_before: usize,
    is_cut: bool,
}

/// One record, borrowed from wherever it was fetched to.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// The record's place in its partition; offsets ascend, and may leave holes.
    pub offset: Offset,
    /// Unix milliseconds, or -1.
    pub timestamp: i64,
    /// None is Kafka's null, which differs from an empty key.
    pub key: Option<&'a [u8]>,
    /// None is Kafka's null: a tombstone in a compacted topic.
    pub value: Option<&'a [u8]>,
}

/// How much a batch holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// How many records there are: the length of the columns of offsets, times and lengths.
    pub records: usize,
    /// Bytes of all keys as they are in the batch, cut where they are.
    pub key_bytes: usize,
    /// Bytes of all values as they are in the batch, cut where they are.
    pub value_bytes: usize,
}

impl Size {
    /// Of keys and values.
    pub fn bytes(self) -> usize {
        self.key_bytes + self.value_bytes
    }
}

/// Where the batches of a partition are from: what all of them have in common for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The topic by its name, and the number of the partition.
    pub partition: TopicPartition,
    /// The id that the topic had when the position was last validated; empty before that.
    pub topic_id: TopicId,
    /// How many partitions the topic had when it was last described; 0 before that.
    pub partition_count: i32,
    /// The stage's consumer group; a replay has the text `exagg replay` there.
    pub group: String,
}

impl Source {
    /// The source of a batch.
    pub fn of(batch: &Batch) -> Self {
        Self {
            partition: TopicPartition { topic: batch.topic.clone(), partition: Partition(batch.partition) },
            topic_id: TopicId(batch.topic_id.clone()),
            partition_count: batch.partition_count,
            group: batch.group.clone(),
        }
    }
}

/// A batch without records: `[from, from)`.
pub fn empty(source: &Source, from: Offset, end: Offset) -> Batch {
    Batch {
        topic: source.partition.topic.clone(),
        topic_id: source.topic_id.0.clone(),
        partition: source.partition.partition.0,
        partition_count: source.partition_count,
        group: source.group.clone(),
        from_offset: from.0,
        next_offset: from.0,
        end_offset: end.max(from).0,
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

fn header_bytes(name: &str, value: Option<&[u8]>) -> usize {
    name.len() + value.map_or(0, <[u8]>::len)
}

/// Shortens the last entry of a column.
fn truncate(column: &mut Vec<u8>, lengths: &mut [i32], bytes_max: usize) {
    let Some(length) = lengths.last_mut() else { return };
    if let (Ok(bytes), Ok(shorter)) = (usize::try_from(*length), i32::try_from(bytes_max))
        && bytes > bytes_max
    {
        column.truncate(column.len() - bytes + bytes_max);
        *length = shorter;
    }
}

impl BatchBuilder {
    /// A batch without records, which begins at the offset `from`.
    pub fn new(source: &Source, from: Offset, limits: BatchLimits) -> Self {
        Self { limits, header_bytes: 0, last: Last::default(), batch: empty(source, from, from) }
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

    /// What is in the batch so far, for the `reserve` of the next one.
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
        self.batch.offsets.len() >= self.limits.records_max || bytes >= self.limits.bytes_max
    }

    /// Adds the record, and says whether its headers are to be added as well: also those of a batch without
    /// headers, once a record may have the sign of a cut among them. One below the batch's position was applied
    /// before and is ignored: a fetch may begin earlier than it was asked to.
    pub fn push(&mut self, record: &RecordRef<'_>) -> bool {
        if record.offset.0 < self.batch.next_offset {
            return false;
        }
        let batch = &mut self.batch;
        batch.offsets.push(record.offset.0);
        batch.timestamps.push(record.timestamp);
        push(&mut batch.keys, &mut batch.key_lengths, record.key);
        push(&mut batch.values, &mut batch.value_lengths, record.value);
        batch.next_offset = record.offset.next().0;
        let (key_bytes, value_bytes) = (record.key.map(<[u8]>::len), record.value.map(<[u8]>::len));
        let bytes = key_bytes.unwrap_or_default() + value_bytes.unwrap_or_default();
        self.last = Last { bytes, headers_before: batch.headers.len(), is_cut: false };
        if bytes > self.limits.record_bytes_max {
            self.cut_last(key_bytes.map(|bytes| bytes as u64), value_bytes.map(|bytes| bytes as u64));
        }
        self.limits.headers || unpack::has_cut()
    }

    /// Adds a header to the record added last. The sign of a cut becomes the one that functions are given; a
    /// header of that name which a producer wrote is dropped, so that functions can trust the name.
    pub fn push_header(&mut self, name: &str, value: Option<&[u8]>) {
        if name == marker::NAME {
            if let Some(cut) = unpack::read_marker(name, value) {
                self.cut_last(cut.key_bytes, cut.value_bytes);
            }
            return;
        }
        if self.last.is_cut || !self.limits.headers {
            return;
        }
        self.last.bytes += name.len() + value.map_or(0, <[u8]>::len);
        if self.last.bytes > self.limits.record_bytes_max {
            let length = |lengths: &[i32]| lengths.last().and_then(|length| u64::try_from(*length).ok());
            let (key, value) = (length(&self.batch.key_lengths), length(&self.batch.value_lengths));
            self.cut_last(key, value);
        } else {
            self.add_header(name, value);
        }
    }

    /// Leaves the head of the record added last, and one header that says how long its key and value are.
    fn cut_last(&mut self, key_bytes: Option<u64>, value_bytes: Option<u64>) {
        let batch = &mut self.batch;
        truncate(&mut batch.keys, &mut batch.key_lengths, CUT_KEY_BYTES);
        truncate(&mut batch.values, &mut batch.value_lengths, CUT_VALUE_BYTES);
        let dropped = batch.headers.drain(self.last.headers_before..);
        self.header_bytes -= dropped.map(|header| header_bytes(&header.name, header.value.as_deref())).sum::<usize>();
        self.last.is_cut = true;
        self.add_header(marker::NAME, Some(marker::lengths(key_bytes, value_bytes).as_bytes()));
    }

    fn add_header(&mut self, name: &str, value: Option<&[u8]>) {
        self.header_bytes += header_bytes(name, value);
        let record_index = u32::try_from(self.batch.offsets.len().saturating_sub(1)).unwrap_or(u32::MAX);
        self.batch.headers.push(Header { record_index, name: name.to_owned(), value: value.map(<[u8]>::to_vec) });
    }

    /// The partition ended here: holes before it (markers, compaction) are part of the interval.
    pub fn end_at(&mut self, position: Offset) {
        self.batch.next_offset = self.batch.next_offset.max(position.0);
    }

    /// Where the interval ends so far.
    pub fn next_offset(&self) -> Offset {
        Offset(self.batch.next_offset)
    }

    /// True while the interval is empty.
    pub fn is_empty(&self) -> bool {
        self.batch.from_offset == self.batch.next_offset
    }

    /// The batch, with the partition's end where it is known, which is never below its own next offset.
    pub fn finish(mut self, end: Option<Offset>) -> Batch {
        self.batch.end_offset = end.unwrap_or_default().0.max(self.batch.next_offset);
        self.batch
    }
}

/// The records of a batch, in order, with their headers.
pub fn records(batch: &Batch) -> impl Iterator<Item = (RecordRef<'_>, &[Header])> {
    let columns = Columns {
        offsets: &batch.offsets,
        timestamps: &batch.timestamps,
        keys: &batch.keys,
        key_lengths: &batch.key_lengths,
        values: &batch.values,
        value_lengths: &batch.value_lengths,
    };
    // Headers stand in the order of their records.
    let mut headers_left = batch.headers.as_slice();
    columns.records().map(move |Record { index, offset, timestamp, key, value }| {
        let record = RecordRef { offset: Offset(offset), timestamp: timestamp.unwrap_or(-1), key, value };
        let own = headers_left.iter().take_while(|header| header.record_index as usize == index).count();
        let (headers, left) = headers_left.split_at(own);
        headers_left = left;
        (record, headers)
    })
}

/// The lengths that the key and the value of a cut record have in truth; none for a whole record.
pub fn cut_lengths(headers: &[Header]) -> Option<(Option<u64>, Option<u64>)> {
    let header = headers.iter().find(|header| header.name == marker::NAME)?;
    marker::read_lengths(header.value.as_deref()?)
}

/// The same interval with only the records that `keep` holds for.
fn part(batch: &Batch, from: i64, next: i64, keep: impl Fn(i64) -> bool) -> Arc<Batch> {
    let source = Source::of(batch);
    let everything =
        BatchLimits { records_max: usize::MAX, bytes_max: usize::MAX, headers: true, record_bytes_max: usize::MAX };
    let mut builder = BatchBuilder::new(&source, Offset(from), everything);
    for (record, headers) in records(batch).filter(|(record, _)| keep(record.offset.0)) {
        builder.push(&record);
        for header in headers {
            builder.add_header(&header.name, header.value.as_deref());
        }
    }
    builder.end_at(Offset(next));
    Arc::new(builder.finish(Some(Offset(batch.end_offset))))
}

/// Two halves whose intervals meet; none for a batch of less than two records.
pub fn split(batch: &Batch) -> Option<(Arc<Batch>, Arc<Batch>)> {
    let middle = *batch.offsets.get(batch.offsets.len().checked_div(2).filter(|half| *half > 0)?)?;
    let first = part(batch, batch.from_offset, middle, |offset| offset < middle);
    Some((first, part(batch, middle, batch.next_offset, |offset| offset >= middle)))
}

/// The batch without its cut records, whose offsets become holes.
pub fn without_cut(batch: &Batch) -> Arc<Batch> {
    let cut: Vec<i64> = records(batch)
        .filter(|(_, headers)| cut_lengths(headers).is_some())
        .map(|(record, _)| record.offset.0)
        .collect();
    part(batch, batch.from_offset, batch.next_offset, |offset| cut.binary_search(&offset).is_err())
}

/// The batch without one record, whose offset becomes a hole.
pub fn without(batch: &Batch, offset: Offset) -> Arc<Batch> {
    part(batch, batch.from_offset, batch.next_offset, |other| other != offset.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        Source {
            partition: TopicPartition { topic: "t".into(), partition: Partition(0) },
            topic_id: TopicId::default(),
            partition_count: 1,
            group: "g".into(),
        }
    }

    fn builder(records_max: usize, bytes_max: usize) -> BatchBuilder {
        let limits = BatchLimits { records_max, bytes_max, headers: true, record_bytes_max: 100_000 };
        BatchBuilder::new(&source(), Offset(5), limits)
    }

    fn record(offset: i64, value: &str) -> RecordRef<'_> {
        RecordRef { offset: Offset(offset), timestamp: offset, key: None, value: Some(value.as_bytes()) }
    }

    fn batch() -> Batch {
        let mut builder = builder(10, 1000);
        for (offset, value) in [(5, "a"), (7, "bb"), (8, ""), (9, "d")] {
            builder.push(&record(offset, value));
        }
        builder.push_header("h", Some(b"1"));
        builder.end_at(Offset(12));
        builder.finish(Some(Offset(20)))
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
    fn records_before_the_position_are_ignored() {
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
        let without = without(&batch(), Offset(9));
        assert_eq!((without.from_offset, without.next_offset), (5, 12));
        assert_eq!(without.offsets, [5, 7, 8]);
        assert!(without.headers.is_empty());
    }

    /// Name, and value as text, of all headers with the index of their record.
    fn headers(batch: &Batch) -> Vec<(u32, String, String)> {
        let value = |value: Option<&Vec<u8>>| String::from_utf8(value.unwrap().clone()).unwrap();
        let shown = |header: &Header| (header.record_index, header.name.clone(), value(header.value.as_ref()));
        batch.headers.iter().map(shown).collect()
    }

    fn owned((index, name, value): (u32, &str, &str)) -> (u32, String, String) {
        (index, name.to_owned(), value.to_owned())
    }

    #[test]
    fn a_record_above_the_limit_is_cut_and_says_so() {
        let mut builder = builder(10, 1_000_000);
        let large = "x".repeat(120_000);
        builder.push(&record(5, "a"));
        builder.push(&RecordRef { key: Some(large.as_bytes()), ..record(6, &large) });
        builder.push_header("dropped", Some(b"1"));
        builder.push(&RecordRef { value: None, key: Some(large.as_bytes()), ..record(7, "") });
        builder.push(&record(8, "b"));
        builder.push_header("kept", Some(b"2"));
        let batch = builder.finish(None);
        let (key, value) = (i32::try_from(CUT_KEY_BYTES).unwrap(), i32::try_from(CUT_VALUE_BYTES).unwrap());
        assert_eq!(
            (batch.key_lengths.as_slice(), batch.value_lengths.as_slice()),
            (&[-1, key, key, -1][..], &[1, value, -1, 1][..])
        );
        let expected = [(1, "exagg-cut", "120000:120000"), (2, "exagg-cut", "120000:-1"), (3, "kept", "2")];
        assert_eq!(headers(&batch), expected.map(owned));
        let found: Vec<_> = records(&batch).map(|(record, headers)| (record.offset.0, cut_lengths(headers))).collect();
        let large = Some(120_000);
        assert_eq!(found, [(5, None), (6, Some((large, large))), (7, Some((large, None))), (8, None)]);
        // A part keeps what says so.
        assert_eq!(headers(&split(&batch).unwrap().1), [(0, "exagg-cut", "120000:-1"), (1, "kept", "2")].map(owned));
        let whole = without_cut(&batch);
        assert_eq!((whole.offsets.as_slice(), whole.next_offset), (&[5, 8][..], 9));
        assert_eq!(records(&whole).last().unwrap().0.value, Some(&b"b"[..]));
    }

    #[test]
    fn headers_count_to_a_records_size() {
        let mut builder = builder(10, 1_000_000);
        builder.push(&record(5, "abc"));
        builder.push_header("small", Some(b"1"));
        builder.push_header("large", Some(&vec![b'x'; 100_000]));
        builder.push_header("behind", Some(b"1"));
        assert_eq!(builder.header_bytes, "exagg-cut-1:3".len());
        assert_eq!(headers(&builder.finish(None)), [(0, "exagg-cut", "-1:3")].map(owned));
    }

    #[test]
    fn the_sign_of_a_cut_is_ours_or_dropped() {
        let limits = BatchLimits { records_max: 10, bytes_max: 1000, headers: false, record_bytes_max: 2 };
        let mut builder = BatchBuilder::new(&source(), Offset(0), limits);
        let said = unpack::Cut {
            key_bytes: None,
            value_bytes: Some(140_000_000),
            record_bytes: 140_000_010,
            because: unpack::CutBecause::Record,
        };
        let ours = unpack::Marker::of_process().write(&said);
        builder.push(&record(0, "a"));
        builder.push_header("exagg-cut", Some(b"-1:7"));
        builder.push_header("other", Some(b"of a batch without headers"));
        builder.push(&record(1, "b"));
        builder.push_header("exagg-cut", Some(ours.as_bytes()));
        // Its head is above this stage's own limit: what it was in truth wins.
        builder.push(&record(2, "head"));
        builder.push_header("exagg-cut", Some(ours.as_bytes()));
        let batch = builder.finish(None);
        assert_eq!(headers(&batch), [(1, "exagg-cut", "-1:140000000"), (2, "exagg-cut", "-1:140000000")].map(owned));
        assert_eq!(batch.values, b"abhead");
    }
}
