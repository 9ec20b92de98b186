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
        let mut client = database.client();
        let found = client
            .query(
                "SELECT extract(epoch FROM window_start)::int8, code, records, sum_vol, min_vol, max_vol, first_vol,
                        last_vol, avg_vol, extract(epoch FROM window_end)::int8
                 FROM public.aggregates WHERE stream = $1",
                &[&stream],
            )
            .unwrap();
        let mut differences = Vec::new();
        let mut missing = self.0.clone();
        for row in &found {
            let key: Key = (row.get(0), row.get(1));
            let Some(expected) = missing.remove(&key) else {
                differences.push(format!("{key:?} is too much, or there twice"));
                continue;
            };
            let exact = (row.get::<_, i64>(2), [4, 5, 6, 7].map(|column| row.get::<_, f64>(column)));
            let wanted = (expected.records, [expected.min, expected.max, expected.first, expected.last]);
            if exact != wanted {
                differences.push(format!("{key:?} is {exact:?}, not {wanted:?}"));
            }
            #[expect(clippy::cast_precision_loss, reason = "counts are small")]
            let average = expected.sum / expected.records as f64;
            for (what, found, wanted) in [("sum", row.get::<_, f64>(3), expected.sum), ("average", row.get(8), average)]
            {
                if (found - wanted).abs() > 1e-9 * wanted.abs().max(f64::MIN_POSITIVE) {
                    differences.push(format!("{key:?}: {what} is {found}, not {wanted}"));
                }
            }
        }
        differences.extend(missing.keys().map(|key| format!("{key:?} is missing")));
        differences.truncate(10);
        assert!(differences.is_empty(), "stream {stream}, {} rows for {}: {differences:#?}", found.len(), self.0.len());
    }
}
