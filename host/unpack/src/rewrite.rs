//! A stream of records on its way to librdkafka: copied as it is, but for the records that are too large.

use super::marker::{CutBecause, Marker};
use super::record::{CutRecord, Varint};
use super::{CUT_KEY_BYTES, CUT_VALUE_BYTES, Limits, Output, UnpackError};

/// The shortest record: attributes, two deltas, two lengths and the number of headers.
const RECORD_BYTES_MIN: i64 = 6;
/// What a cut record has at most: key, value, and the rest generously.
const CUT_RECORD_BYTES_MAX: usize = CUT_VALUE_BYTES + CUT_KEY_BYTES + 1024;

/// What the next byte belongs to.
enum State {
    /// A record's length.
    Length(Varint),
    /// A record that is copied; so many bytes are left.
    Copied { left: usize },
    /// A record that is to be cut, and copied all the same as long as there is room: a stream that only
    /// claims to go on is given as it is.
    Suspect { start: usize, left: usize, record_bytes: u64, because: CutBecause },
    /// A record that is cut.
    Cut(Box<CutRecord>),
    /// What is behind the last record that could be taken.
    Dropped,
    /// No records of format 2: older formats, or garbage. Copied as far as there is room.
    Unknown,
}

/// Takes unpacked bytes and writes what is given on.
pub struct Rewriter<'a, O> {
    limits: Limits,
    marker: &'a Marker,
    out: &'a mut O,
    state: State,
    records: usize,
    cuts: usize,
    /// Bytes that came, kept or not.
    seen: u64,
    /// The batch has no room for whole records any more.
    is_full: bool,
}

impl<'a, O: Output> Rewriter<'a, O> {
    /// Begins at a record's length; what `out` holds already counts as a part of the batch.
    pub fn new(limits: Limits, marker: &'a Marker, out: &'a mut O) -> Self {
        let state = State::Length(Varint::default());
        Self { limits, marker, out, state, records: 0, cuts: 0, seen: 0, is_full: false }
    }

    /// Takes the next piece of the stream, wherever it ends; an error where what is to be cut cannot be read.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), UnpackError> {
        self.seen += chunk.len() as u64;
        let is_enough = self.seen > self.limits.work_bytes_max;
        // Up to `at` the chunk is looked through, up to `done` it is written or dropped.
        let (mut at, mut done) = (0, 0);
        while at < chunk.len() {
            match &mut self.state {
                State::Length(varint) => {
                    let length = varint.push(chunk[at]);
                    at += 1;
                    let varint = *varint;
                    match length {
                        Ok(None) => {}
                        Ok(Some(length)) if length >= RECORD_BYTES_MIN => {
                            let position = self.out.bytes().len() + at - done;
                            self.state = self.begin(length, position, varint.length());
                        }
                        _ => self.state = State::Unknown,
                    }
                }
                State::Copied { left } => {
                    let taken = (*left).min(chunk.len() - at);
                    at += taken;
                    *left -= taken;
                    if *left == 0 {
                        self.state = State::Length(Varint::default());
                    }
                }
                State::Suspect { left, .. } if *left > 0 => {
                    let taken = (*left).min(chunk.len() - at);
                    at += taken;
                    *left -= taken;
                }
                State::Suspect { start, record_bytes, because, .. } => {
                    let (start, mut cut) = (*start, CutRecord::new(*record_bytes, *because));
                    self.out.add(&chunk[done..at])?;
                    done = at;
                    self.take_back(start, &mut cut)?;
                    self.state = State::Cut(Box::new(cut));
                }
                State::Cut(cut) => {
                    at += cut.push(&chunk[at..])?;
                    done = at;
                    if is_enough && cut.has_head() {
                        cut.stand_for_the_rest();
                    }
                    if cut.is_over() {
                        cut.write(self.marker, self.out)?;
                        self.cuts += 1;
                        let is_last = cut.because() == CutBecause::Rest;
                        self.state = if is_last { State::Dropped } else { State::Length(Varint::default()) };
                    }
                }
                State::Dropped => (at, done) = (chunk.len(), chunk.len()),
                State::Unknown => at = chunk.len(),
            }
        }
        let room = self.limits.batch_bytes_max.saturating_sub(self.out.bytes().len());
        if matches!(self.state, State::Unknown) && chunk.len() - done > room {
            return Err(UnpackError::Malformed("what is in it are no records of format 2"));
        }
        self.out.add(&chunk[done..])
    }

    /// What becomes of a record whose length ends at `position` of the output.
    fn begin(&mut self, length: i64, position: usize, varint_bytes: usize) -> State {
        self.records += 1;
        let record_bytes = length.unsigned_abs();
        let length = usize::try_from(record_bytes).unwrap_or(usize::MAX);
        let Limits { record_bytes_max, batch_bytes_max, .. } = self.limits;
        let room = batch_bytes_max.saturating_sub(position);
        let is_large = length > record_bytes_max;
        let needed = if is_large { CUT_RECORD_BYTES_MAX.min(length) } else { length };
        let was_full = self.is_full;
        self.is_full |= needed > room;
        // Also cut, records would be without end: one stands for all that is behind it.
        let is_last = self.records > self.limits.batch_records_max
            || position > batch_bytes_max.saturating_mul(2)
            || self.seen > self.limits.work_bytes_max;
        let because = match (is_last, self.is_full, is_large) {
            (true, _, _) => CutBecause::Rest,
            (false, true, _) => CutBecause::Batch,
            (false, false, true) => CutBecause::Record,
            (false, false, false) => return State::Copied { left: length },
        };
        // Less than the record has: it is cut with the first byte that there is no room for.
        let left = if was_full || is_last { 0 } else { room.min(record_bytes_max) };
        State::Suspect { start: position - varint_bytes, left, record_bytes, because }
    }

    /// Gives what was copied of a record to what cuts it.
    fn take_back(&mut self, start: usize, cut: &mut CutRecord) -> Result<(), UnpackError> {
        let copied = &self.out.bytes()[start..];
        // The length in front is known already.
        let length = copied.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
        cut.push(copied.get(length..).unwrap_or_default())?;
        self.out.truncate(start);
        Ok(())
    }

    /// Whether the rest of the stream was dropped.
    pub fn is_short(&self) -> bool {
        matches!(self.state, State::Dropped)
    }

    /// The stream has ended. How many records were cut.
    pub fn finish(self) -> Result<usize, UnpackError> {
        match self.state {
            State::Cut(_) => Err(UnpackError::Malformed("it breaks off in a record")),
            _ => Ok(self.cuts),
        }
    }
}
