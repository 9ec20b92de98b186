//! What the aggregator's pure core costs a record (parse and fold), beside `serde_json::Value` and a
//! map of sums. Machines are noisy: read the ratio. With the argument `once` the core runs once over the
//! records, with `none` not at all: the difference is what `bench/guard.sh` counts.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use window::event::{Record, Schema};
use window::fields::{FieldNames, Places};
use window::fold::Fold;
use window::time::{EventTime, TimeFormat};
use window::windows::Windows;

const RECORDS: usize = 200_000;
const RUNS: usize = 7;

fn records() -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(7);
    let record = |number: usize| {
        let second = number / 1_000 % 60;
        format!(
            r#"{{"code":"EX{}","markets":512,"volume":{:.2},"bidTotal":1.5,"askTotal":2.5,"depth":4.0,"visitors":1000,"volumePerVisitor":12.25,"time":"2023-11-14 22:13:{second:02}"}}"#,
            random.usize(..10),
            random.f64() * 1e10,
        )
    };
    (0..RECORDS).map(record).collect()
}

/// The least time of several runs: the others were disturbed.
fn least(mut run: impl FnMut()) -> Duration {
    let time = || {
        let began = Instant::now();
        run();
        began.elapsed()
    };
    std::iter::repeat_with(time).take(RUNS).min().unwrap_or_default()
}

fn core(records: &[String], schema: &Schema, windows: Windows) {
    let (mut reader, mut fold) = (schema.reader(), Fold::default());
    for (record, offset) in records.iter().zip(0..) {
        if let Ok(event) = reader.read(Record::from(record.as_bytes()), EventTime(i64::MAX)) {
            fold.add(event, offset, windows, |_| true);
        }
    }
    black_box(fold.into_windows());
}

fn baseline(records: &[String]) {
    let mut sums: HashMap<String, (u64, f64)> = HashMap::new();
    for record in records {
        if let Ok(value) = serde_json::from_str::<serde_json::Value>(record) {
            let code = value["code"].as_str().unwrap_or_default().to_owned();
            let sum = sums.entry(code).or_default();
            sum.0 += 1;
            sum.1 += value["volume"].as_f64().unwrap_or_default();
        }
    }
    black_box(sums);
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a short run")]
fn per_record(time: Duration) -> f64 {
    time.as_nanos() as f64 / RECORDS as f64
}

fn main() {
    let Ok(time_format) = TimeFormat::new("%Y-%m-%d %H:%M:%S", "UTC") else { return };
    let schema = Schema {
        names: FieldNames { key: "code".to_owned(), value: "volume".to_owned(), time: "time".to_owned() },
        places: Places::default(),
        numbers_in_text: false,
        time_format,
        max_future_seconds: 60,
    };
    let records = records();
    let Ok(windows) = Windows::new(60, 60) else { return };
    match std::env::args().nth(1).as_deref() {
        Some("once") => return core(&records, &schema, windows),
        Some("none") => return,
        _ => {}
    }
    let core = per_record(least(|| core(&records, &schema, windows)));
    let baseline = per_record(least(|| baseline(&records)));
    println!(
        "core: parse and fold {core:.0} ns a record, serde_json::Value {baseline:.0}, ratio {:.2}",
        core / baseline
    );
}
