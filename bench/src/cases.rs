//! What is measured: the throughput cases. Data only.

/// A topic to be read to its end.
pub struct Case {
    pub name: &'static str,
    pub codes: usize,
    pub partitions: i32,
    /// Whether a code stays in one partition.
    pub keyed: bool,
    pub compression: &'static str,
    /// Windows are 60 s long; one begins each so many.
    pub slide_seconds: u32,
    /// Unless `RECORDS` says otherwise.
    pub records: usize,
    /// The trigger's own setting; none is its default.
    pub batch_records_max: Option<u32>,
    /// A point of a curve: runs once.
    pub once: bool,
}

/// What most cases are.
const USUAL: Case = Case {
    name: "codes-10",
    codes: 10,
    partitions: 8,
    keyed: true,
    compression: "none",
    slide_seconds: 60,
    records: 2_000_000,
    batch_records_max: None,
    once: false,
};
/// What the points of the curves are.
const POINT: Case = Case { records: 1_000_000, once: true, ..USUAL };

pub const CASES: [Case; 16] = [
    Case { records: 10_000_000, ..USUAL },
    Case { name: "records-1m", records: 1_000_000, ..USUAL },
    Case { name: "codes-100000", codes: 100_000, ..USUAL },
    Case { name: "codes-1000000", codes: 1_000_000, once: true, ..USUAL },
    Case { name: "one-partition", partitions: 1, ..USUAL },
    Case { name: "un-keyed", keyed: false, ..USUAL },
    Case { name: "lz4", compression: "lz4", ..USUAL },
    Case { name: "zstd", compression: "zstd", ..USUAL },
    Case { name: "hopping", slide_seconds: 15, ..USUAL },
    Case { name: "codes-100", codes: 100, ..POINT },
    Case { name: "codes-1000", codes: 1_000, ..POINT },
    Case { name: "codes-10000", codes: 10_000, ..POINT },
    Case { name: "partitions-4", partitions: 4, ..POINT },
    Case { name: "partitions-16", partitions: 16, ..POINT },
    Case { name: "partitions-64", partitions: 64, keyed: false, ..POINT },
    // What a call costs by itself: an instance, a statement, its answer.
    Case { name: "one-record-batches", records: 20_000, batch_records_max: Some(1), ..POINT },
];

/// What more and more hosts read: as many codes in each partition.
pub const SCALE: Case = Case { name: "scale", codes: 80, records: 8_000_000, ..USUAL };
