//! The records of a Kafka batch, read from the flat columns in which they cross the sandbox.
//!
//! `wit/deps/exagg-kafka` says how the columns are laid out. Host and functions have types of their own for a
//! batch, generated from it on both sides; how a batch is read stands here, once.
#![warn(missing_docs)]

/// The columns of a batch, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    /// One element a record, as in all but `keys` and `values`.
    pub offsets: &'a [i64],
    /// Unix milliseconds; negative where the record has no timestamp.
    pub timestamps: &'a [i64],
    /// All keys, one behind the other.
    pub keys: &'a [u8],
    /// Bytes; negative for a null key.
    pub key_lengths: &'a [i32],
    /// All values, one behind the other.
    pub values: &'a [u8],
    /// Bytes; negative for a null value.
    pub value_lengths: &'a [i32],
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its place in the batch, by which headers name it.
    pub index: usize,
    /// Its position in the partition.
    pub offset: i64,
    /// Unix milliseconds; none where the record has no timestamp.
    pub timestamp: Option<i64>,
    /// None is a null key, which is not an empty one.
    pub key: Option<&'a [u8]>,
    /// None is a null value (a tombstone), which is not an empty one.
    pub value: Option<&'a [u8]>,
}

/// The records in offset order, without copies. Columns that are too short give nulls, never a panic.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    columns: Columns<'a>,
    index: usize,
    key_at: usize,
    value_at: usize,
}

impl<'a> Columns<'a> {
    /// The records, from the first on.
    pub fn records(self) -> Records<'a> {
        Records { columns: self, index: 0, key_at: 0, value_at: 0 }
    }
}

/// The next `length` bytes of a column; a negative length is a null.
fn take<'a>(column: &'a [u8], at: &mut usize, length: Option<&i32>) -> Option<&'a [u8]> {
    let length = usize::try_from(*length?).ok()?;
    let bytes = column.get(*at..at.checked_add(length)?)?;
    *at += length;
    Some(bytes)
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    #[inline]
    fn next(&mut self) -> Option<Record<'a>> {
        let (columns, index) = (&self.columns, self.index);
        let offset = *columns.offsets.get(index)?;
        self.index += 1;
        Some(Record {
            index,
            offset,
            timestamp: columns.timestamps.get(index).copied().filter(|timestamp| *timestamp >= 0),
            key: take(columns.keys, &mut self.key_at, columns.key_lengths.get(index)),
            value: take(columns.values, &mut self.value_at, columns.value_lengths.get(index)),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.columns.offsets.len() - self.index;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Records<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_are_told_from_what_is_empty() {
        let columns = Columns {
            offsets: &[5, 6, 8],
            timestamps: &[1, -1, 3],
            keys: b"k",
            key_lengths: &[-1, 1, 0],
            values: b"abcd",
            value_lengths: &[3, -1, 1],
        };
        let seen: Vec<_> = columns.records().map(|r| (r.index, r.offset, r.timestamp, r.key, r.value)).collect();
        assert_eq!(
            seen,
            [
                (0, 5, Some(1), None, Some(&b"abc"[..])),
                (1, 6, None, Some(&b"k"[..]), None),
                (2, 8, Some(3), Some(&b""[..]), Some(&b"d"[..])),
            ]
        );
        assert_eq!(columns.records().len(), 3);
    }

    #[test]
    fn columns_that_are_too_short_are_nulls() {
        let columns = Columns {
            offsets: &[5, 6],
            timestamps: &[],
            keys: b"",
            key_lengths: &[],
            values: b"abc",
            value_lengths: &[i32::MAX, 3],
        };
        let seen: Vec<_> = columns.records().map(|record| (record.timestamp, record.key, record.value)).collect();
        assert_eq!(seen, [(None, None, None), (None, None, Some(&b"abc"[..]))]);
    }
}
