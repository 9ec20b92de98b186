//! An independent computation of the rows, and what "equal" means: count, min, max, first, last
//! exact; sum and average to 1e-9 relative.

use std::collections::BTreeMap;

use crate::database::Database;

/// (window start in Unix seconds, code)
pub type Key = (i64, String);

/// One row.
#[derive(Clone, Debug)]
pub struct Row {
    pub records: i64,
    pub sum: f64,
    pub min: f64,
    pub max: f64,
    pub first: f64,
    pub last: f64,
    first_order: Order,
    last_order: Order,
}

/// (event time in microseconds, partition, offset)
type Order = (i64, i32, i64);

/// One record that counts.
#[derive(Clone, Debug)]
pub struct Counted {
    pub code: String,
    pub value: f64,
    pub time_us: i64,
    pub partition: i32,
    pub offset: i64,
}

/// Rows of a stream.
#[derive(Default)]
pub struct Oracle(BTreeMap<Key, Row>);

impl Oracle {
    /// Counts a record in each of its windows.
    pub fn count(&mut self, record: &Counted, window_seconds: i64, slide_seconds: i64) {
        let seconds = record.time_us.div_euclid(1_000_000);
        let order = (record.time_us, record.partition, record.offset);
        let value = record.value;
        let mut start = seconds.div_euclid(slide_seconds) * slide_seconds;
        while start + window_seconds > seconds {
            let row = self.0.entry((start, record.code.clone())).or_insert(Row {
                records: 0,
                sum: 0.0,
                min: f64::INFINITY,
                max: f64::NEG_INFINITY,
                first: value,
                last: value,
                first_order: order,
                last_order: order,
            });
            row.records += 1;
            row.sum += value;
            row.min = row.min.min(value);
            row.max = row.max.max(value);
            if order < row.first_order {
                (row.first, row.first_order) = (value, order);
            }
            if order > row.last_order {
                (row.last, row.last_order) = (value, order);
            }
            start -= slide_seconds;
        }
    }

    pub fn rows(&self) -> usize {
        self.0.len()
    }

    pub fn records(&self) -> i64 {
        self.0.values().map(|row| row.records).sum()
    }

    /// Compares with the final rows of a stream; panics with the first differences.
    pub fn assert_equal(&self, database: &Database, stream: &str) {
        let difference = self.compare(database, stream);
        assert!(difference.is_none(), "stream {stream}, {} rows expected: {difference:#?}", self.0.len());
    }

    /// Compares with the final rows of a stream.
    pub fn compare(&self, database: &Database, stream: &str) -> Difference {
        let mut client = database.client();
        let found = client
            .query(
                "SELECT extract(epoch FROM window_start)::int8, code, records, sum_vol, min_vol, max_vol, first_vol,
                        last_vol, avg_vol
                 FROM public.aggregates WHERE stream = $1",
                &[&stream],
            )
            .unwrap();
        let mut difference = Difference::default();
        let mut missing = self.0.clone();
        for row in &found {
            let key: Key = (row.get(0), row.get(1));
            let records: i64 = row.get(2);
            let Some(expected) = missing.remove(&key) else {
                difference.doubled += records;
                difference.note(format!("{key:?} is too much, or there twice"));
                continue;
            };
            difference.lost += (expected.records - records).max(0);
            difference.doubled += (records - expected.records).max(0);
            let values = [4, 5, 6, 7].map(|column| row.get::<_, f64>(column));
            let wanted = [expected.min, expected.max, expected.first, expected.last];
            #[expect(clippy::cast_precision_loss, reason = "counts are small")]
            let average = expected.sum / expected.records as f64;
            let near = |found: f64, wanted: f64| (found - wanted).abs() <= 1e-9 * wanted.abs().max(f64::MIN_POSITIVE);
            // To the last bit.
            let differs = values.map(f64::to_bits) != wanted.map(f64::to_bits)
                || !near(row.get(3), expected.sum)
                || !near(row.get(8), average);
            if differs || records != expected.records {
                difference.wrong += i64::from(differs);
                difference
                    .note(format!("{key:?}: {records} records, {values:?}, not {}, {wanted:?}", expected.records));
            }
        }
        for (key, expected) in &missing {
            difference.lost += expected.records;
            difference.note(format!("{key:?} is missing"));
        }
        difference
    }
}

/// What is wrong with the rows.
#[derive(Debug, Default)]
pub struct Difference {
    /// Records that count nowhere.
    pub lost: i64,
    /// Records that count more than once.
    pub doubled: i64,
    /// Rows with another sum, average, least, most, first or last.
    pub wrong: i64,
    /// The first of them in words.
    pub examples: Vec<String>,
}

impl Difference {
    pub fn is_none(&self) -> bool {
        (self.lost, self.doubled, self.wrong) == (0, 0, 0) && self.examples.is_empty()
    }

    fn note(&mut self, example: String) {
        if self.examples.len() < 10 {
            self.examples.push(example);
        }
    }
}
