//! The columns of a batch, from plain records: host and functions are both compared with this.

use crate::input::Input;

/// Offsets begin below this and rise by less than 256 a record: none is near the end of 64 bits.
const FROM_MAX: i64 = 1 << 40;
/// What two bytes of a timestamp are added to; 0 is a record without one.
const TIMESTAMP: i64 = 1_700_000_000_000;

/// One record, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub offset: i64,
    /// Unix milliseconds, or -1.
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// The same records, as a batch has them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Columns {
    pub offsets: Vec<i64>,
    pub timestamps: Vec<i64>,
    pub keys: Vec<u8>,
    pub key_lengths: Vec<i32>,
    pub values: Vec<u8>,
    pub value_lengths: Vec<i32>,
    /// With the record's place in the batch.
    pub headers: Vec<(u32, String, Option<Vec<u8>>)>,
}

/// Where a log's part begins, and its records: in the order of their offsets, with holes.
pub fn records(input: &mut Input<'_>) -> (i64, Vec<Record>) {
    let from = (i64::from(input.byte()) << 33) % FROM_MAX;
    let mut offset = from;
    let mut records = Vec::new();
    while !input.is_empty() {
        offset += i64::from(input.byte());
        let age = i64::from(input.byte());
        let bytes = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        let (key, value) = (bytes(input.optional()), bytes(input.optional()));
        let headers = (0..input.byte() % 4).map(|_| {
            let name = String::from_utf8_lossy(input.optional().unwrap_or_default()).into_owned();
            (name, bytes(input.optional()))
        });
        let headers = headers.collect();
        records.push(Record { offset, timestamp: if age == 0 { -1 } else { TIMESTAMP + age }, key, value, headers });
        offset += 1;
    }
    (from, records)
}

/// Null is the length -1, which is not the empty one.
fn length(bytes: Option<&Vec<u8>>) -> i32 {
    bytes.map_or(-1, |bytes| i32::try_from(bytes.len()).unwrap_or(i32::MAX))
}

impl Columns {
    pub fn new(records: &[Record]) -> Self {
        let mut columns = Self::default();
        for (index, record) in (0..).zip(records) {
            columns.offsets.push(record.offset);
            columns.timestamps.push(record.timestamp);
            columns.keys.extend(record.key.iter().flatten());
            columns.key_lengths.push(length(record.key.as_ref()));
            columns.values.extend(record.value.iter().flatten());
            columns.value_lengths.push(length(record.value.as_ref()));
            columns.headers.extend(record.headers.iter().map(|(name, value)| (index, name.clone(), value.clone())));
        }
        columns
    }
}
