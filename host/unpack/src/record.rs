//! One record of Kafka's format 2 that is cut while it streams by: its head is kept, its tail is dropped.

use super::marker::{Cut, CutBecause, Marker, NAME};
use super::{CUT_IN_BATCH_KEY_BYTES, CUT_IN_BATCH_VALUE_BYTES, CUT_KEY_BYTES, CUT_VALUE_BYTES, Output, UnpackError};

/// A number of variable length that comes byte by byte; zigzag, as Kafka has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Varint {
    bits: u64,
    bytes: u32,
}

/// Longest number of 64 bits.
const VARINT_BYTES_MAX: u32 = 10;

impl Varint {
    /// Takes a byte; gives the number with its last one. An error where it has no end.
    pub fn push(&mut self, byte: u8) -> Result<Option<i64>, UnpackError> {
        if self.bytes == VARINT_BYTES_MAX {
            return Err(UnpackError::Malformed("a number has no end"));
        }
        self.bits |= u64::from(byte & 0x7f).checked_shl(7 * self.bytes).unwrap_or_default();
        self.bytes += 1;
        let number = (self.bits >> 1).cast_signed() ^ -((self.bits & 1).cast_signed());
        Ok((byte & 0x80 == 0).then_some(number))
    }

    /// Bytes that it was written in so far.
    pub fn length(self) -> usize {
        self.bytes as usize
    }
}

/// Writes a number.
pub fn write_varint(out: &mut Vec<u8>, number: i64) {
    let mut bits = ((number << 1) ^ (number >> 63)).cast_unsigned();
    while bits >= 0x80 {
        out.push(bits.to_le_bytes()[0] | 0x80);
        bits >>= 7;
    }
    out.push(bits.to_le_bytes()[0]);
}

fn write_length(out: &mut Vec<u8>, length: usize) {
    // Kept parts are at most 64 KiB.
    write_varint(out, i64::try_from(length).unwrap_or(i64::MAX));
}

/// What comes next of the record.
enum Field {
    Attributes,
    TimestampDelta,
    OffsetDelta,
    KeyLength,
    Key(u64),
    ValueLength,
    Value(u64),
    /// Headers: all of the rest, which is dropped.
    Rest,
}

/// A key or a value: how long it is, and the head of it.
#[derive(Default)]
struct Part {
    length: Option<u64>,
    head: Vec<u8>,
    head_bytes_max: usize,
}

impl Part {
    fn is_full(&self) -> bool {
        self.head.len() >= self.head_bytes_max
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.head_bytes_max - self.head.len();
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn write(&self, out: &mut Vec<u8>) {
        if self.length.is_some() {
            write_length(out, self.head.len());
            out.extend_from_slice(&self.head);
        } else {
            write_varint(out, -1);
        }
    }
}

/// A record on its way.
pub struct CutRecord {
    record_bytes: u64,
    because: CutBecause,
    /// Bytes that are still to come.
    left: u64,
    field: Field,
    varint: Varint,
    /// Attributes, timestamp delta and offset delta as they came.
    place: Vec<u8>,
    key: Part,
    value: Part,
}

impl CutRecord {
    /// A record whose length was just read.
    pub fn new(record_bytes: u64, because: CutBecause) -> Self {
        let (key, value) = match because {
            CutBecause::Record => (CUT_KEY_BYTES, CUT_VALUE_BYTES),
            CutBecause::Batch | CutBecause::Rest => (CUT_IN_BATCH_KEY_BYTES, CUT_IN_BATCH_VALUE_BYTES),
        };
        Self {
            record_bytes,
            because,
            left: record_bytes,
            field: Field::Attributes,
            varint: Varint::default(),
            place: Vec::new(),
            key: Part { head_bytes_max: key, ..Part::default() },
            value: Part { head_bytes_max: value, ..Part::default() },
        }
    }

    /// Whether all that is kept of it is there.
    pub fn has_head(&self) -> bool {
        match self.field {
            Field::Key(_) => self.key.is_full(),
            Field::Value(_) => self.value.is_full(),
            Field::Rest => true,
            _ => false,
        }
    }

    /// What is still to come of it is not read, nor what is behind it.
    pub fn stand_for_the_rest(&mut self) {
        (self.because, self.field, self.left) = (CutBecause::Rest, Field::Rest, 0);
    }

    /// True when all of it went by.
    pub fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Takes what is its own of `bytes`, and says how much that was.
    pub fn push(&mut self, bytes: &[u8]) -> Result<usize, UnpackError> {
        let own = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let mut at = 0;
        while at < own {
            let taken = self.take(&bytes[at..own])?;
            at += taken;
            self.left -= taken as u64;
            self.check()?;
        }
        Ok(own)
    }

    /// A key or value cannot be longer than what is left.
    fn check(&self) -> Result<(), UnpackError> {
        match self.field {
            Field::Key(left) | Field::Value(left) if left > self.left => {
                Err(UnpackError::Malformed("a part is longer than its record"))
            }
            _ => Ok(()),
        }
    }

    /// Takes bytes of one field, at least one.
    fn take(&mut self, bytes: &[u8]) -> Result<usize, UnpackError> {
        match self.field {
            Field::Attributes => {
                self.place.push(bytes[0]);
                self.field = Field::TimestampDelta;
            }
            Field::TimestampDelta | Field::OffsetDelta => {
                self.place.push(bytes[0]);
                if self.number(bytes[0])?.is_some() {
                    let is_first = matches!(self.field, Field::TimestampDelta);
                    self.field = if is_first { Field::OffsetDelta } else { Field::KeyLength };
                }
            }
            Field::KeyLength => {
                if let Some(length) = self.number(bytes[0])? {
                    self.key.length = part_length(length)?;
                    self.field = self.key.length.filter(|left| *left > 0).map_or(Field::ValueLength, Field::Key);
                }
            }
            Field::ValueLength => {
                if let Some(length) = self.number(bytes[0])? {
                    self.value.length = part_length(length)?;
                    self.field = self.value.length.filter(|left| *left > 0).map_or(Field::Rest, Field::Value);
                }
            }
            Field::Key(left) => {
                let (bytes, left) = first(bytes, left);
                self.key.keep(bytes);
                self.field = if left == 0 { Field::ValueLength } else { Field::Key(left) };
                return Ok(bytes.len());
            }
            Field::Value(left) => {
                let (bytes, left) = first(bytes, left);
                self.value.keep(bytes);
                self.field = if left == 0 { Field::Rest } else { Field::Value(left) };
                return Ok(bytes.len());
            }
            Field::Rest => return Ok(bytes.len()),
        }
        Ok(1)
    }

    fn number(&mut self, byte: u8) -> Result<Option<i64>, UnpackError> {
        let number = self.varint.push(byte)?;
        if number.is_some() {
            self.varint = Varint::default();
        }
        Ok(number)
    }

    /// What it was made with, or [`CutBecause::Rest`] after [`CutRecord::stand_for_the_rest`].
    pub fn because(&self) -> CutBecause {
        self.because
    }

    /// Writes what is left of it, with a header that says so.
    pub fn write(&self, marker: &Marker, out: &mut impl Output) -> Result<(), UnpackError> {
        if !matches!(self.field, Field::Rest) {
            return Err(UnpackError::Malformed("a record ends before its value"));
        }
        let cut = Cut {
            key_bytes: self.key.length,
            value_bytes: self.value.length,
            record_bytes: self.record_bytes,
            because: self.because,
        };
        let said = marker.write(&cut);
        let mut record = self.place.clone();
        record.reserve(self.key.head.len() + self.value.head.len() + NAME.len() + said.len() + 32);
        self.key.write(&mut record);
        self.value.write(&mut record);
        write_varint(&mut record, 1);
        for text in [NAME, &said] {
            write_length(&mut record, text.len());
            record.extend_from_slice(text.as_bytes());
        }
        let mut length = Vec::new();
        write_length(&mut length, record.len());
        out.add(&length)?;
        out.add(&record)
    }
}

/// The bytes that belong to a part with so many left, and how many are left then.
fn first(bytes: &[u8], left: u64) -> (&[u8], u64) {
    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (&bytes[..taken], left - taken as u64)
}

fn part_length(length: i64) -> Result<Option<u64>, UnpackError> {
    match length {
        -1 => Ok(None),
        length => u64::try_from(length).map(Some).map_err(|_| UnpackError::Malformed("a part has a negative length")),
    }
}
