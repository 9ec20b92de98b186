//! The table, and the same as JSON, so that runs can be compared.

use serde_json::{Value, json};

use crate::cases::Measured;
use crate::cost::Cost;

#[derive(Default)]
pub struct Report(Vec<Measured>);

/// CPU-microseconds a record: the same as CPU-seconds a million of them.
fn micros(time: std::time::Duration, records: usize) -> f64 {
    time.as_secs_f64() * 1e6 / f64::from(u32::try_from(records).unwrap_or(u32::MAX))
}

fn mebibytes(bytes: u64) -> u64 {
    bytes / (1024 * 1024)
}

impl Report {
    pub fn add(&mut self, measured: Measured) {
        self.0.push(measured);
    }

    /// Prints the table and writes `target/bench/TIME.json`.
    pub fn write(&self) {
        println!();
        println!("| case | side | records/s | CPU µs a record | PostgreSQL µs a record | peak MiB | ratio to native |");
        println!("|---|---|---|---|---|---|---|");
        for m in &self.0 {
            let native = micros(m.native.cpu, m.records);
            let row = |side: &str, cost: &Cost| {
                let cpu = micros(cost.cpu, m.records);
                let rate = f64::from(u32::try_from(m.records).unwrap_or(u32::MAX)) / cost.wall.as_secs_f64();
                println!(
                    "| {} | {side} | {rate:.0} | {cpu:.2} | {:.2} | {} | {:.2} |",
                    m.case,
                    micros(cost.postgres_cpu, m.records),
                    mebibytes(cost.peak_memory_bytes),
                    cpu / native
                );
            };
            row("native", &m.native);
            row("host", &m.host);
            row(&format!("close {} rows", m.rows), &m.close);
        }
        let folder = e2e::root().join("target/bench");
        let file = folder.join(format!("{}.json", e2e::now()));
        let runs: Vec<Value> = self.0.iter().map(Measured::json).collect();
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(&file, Value::from(runs).to_string()).unwrap();
        println!("\n{}", file.display());
    }
}

impl Measured {
    fn json(&self) -> Value {
        let side = |cost: &Cost| {
            json!({
                "wall_seconds": cost.wall.as_secs_f64(),
                "cpu_seconds_per_million": micros(cost.cpu, self.records),
                "postgres_cpu_seconds_per_million": micros(cost.postgres_cpu, self.records),
                "peak_memory_mib": mebibytes(cost.peak_memory_bytes),
            })
        };
        json!({
            "case": self.case, "records": self.records, "rows": self.rows,
            "native": side(&self.native), "host": side(&self.host), "close": side(&self.close),
        })
    }
}
