//! The table, the same as JSON, so that runs can be compared, and a plot of the last ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cost::{Cost, Measured};

#[derive(Default)]
pub struct Report {
    measured: Vec<Measured>,
    /// What the live case found.
    pub live: Option<Value>,
    /// What a live stream's final rows cost beside others.
    pub beside: Option<Value>,
    /// How soon rows are final.
    pub closing: Option<Value>,
    /// What looking costs with many codes.
    pub many: Option<Value>,
    /// What each route of the dashboard takes over many rows.
    pub rows: Option<Value>,
    /// What many pages cost that are open.
    pub pages: Option<Value>,
    /// What a record costs with more and more hosts.
    pub scale: Option<Value>,
    /// What idle streams cost.
    pub streams: Option<Value>,
}

/// Runs that the plot shows.
const RUNS_SHOWN: usize = 20;

/// CPU-microseconds a record: the same as CPU-seconds a million of them.
fn micros(time: std::time::Duration, records: usize) -> f64 {
    time.as_secs_f64() * 1e6 / f64::from(u32::try_from(records).unwrap_or(u32::MAX))
}

fn mebibytes(bytes: u64) -> u64 {
    bytes / (1024 * 1024)
}

impl Report {
    pub fn add(&mut self, measured: Measured) {
        self.measured.push(measured);
    }

    /// Prints the table and writes `target/bench/TIME.json`.
    pub fn write(&self) {
        println!();
        println!("| case | side | records/s | CPU µs a record | PostgreSQL µs a record | peak MiB | ratio to native |");
        println!("|---|---|---|---|---|---|---|");
        for m in &self.measured {
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
        let cases: Vec<Value> = self.measured.iter().map(Measured::json).collect();
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(
            &file,
            json!({ "cases": cases, "live": self.live, "beside": self.beside, "closing": self.closing, "many": self.many,
                    "rows": self.rows, "pages": self.pages, "scale": self.scale, "streams": self.streams })
                .to_string(),
        )
        .unwrap();
        std::fs::write(folder.join("plot.svg"), plot(&folder)).unwrap();
        println!("\n{} and plot.svg beside it", file.display());
    }
}

/// The ratio of the host's CPU time to the baseline's, case by case, over the last runs.
fn plot(folder: &Path) -> String {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let mut lines: BTreeMap<String, Vec<(usize, f64)>> = BTreeMap::new();
    for (run, file) in files.iter().rev().take(RUNS_SHOWN).rev().enumerate() {
        let results: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap_or_default();
        for case in results["cases"].as_array().into_iter().flatten() {
            let cpu = |side: &str| case[side]["cpu_seconds_per_million"].as_f64();
            if let (Some(name), Some(host), Some(native)) = (case["case"].as_str(), cpu("host"), cpu("native")) {
                lines.entry(name.to_owned()).or_default().push((run, host / native));
            }
        }
    }
    let (x, y) = (|run: usize| 50 + run * 30, |ratio: f64| 380.0 - ratio.min(4.0) * 90.0);
    let mut svg =
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"900\" height=\"420\" font-size=\"11\">\n".to_owned();
    for ratio in [0.0, 1.0, 2.0, 3.0, 4.0] {
        let y = y(ratio);
        svg += &format!("<path d=\"M50 {y}H650\" stroke=\"#ccc\"/><text x=\"20\" y=\"{y}\">{ratio}</text>\n");
    }
    svg += "<text x=\"50\" y=\"410\">CPU time a record, host / native, one point a run</text>\n";
    for (index, (name, points)) in lines.iter().enumerate() {
        let colour = format!("hsl({}, 70%, 40%)", index * 47 % 360);
        let line: String = points.iter().map(|(run, ratio)| format!("{},{} ", x(*run), y(*ratio))).collect();
        let dots: String = points
            .iter()
            .map(|(run, ratio)| format!("<circle cx=\"{}\" cy=\"{}\" r=\"3\" fill=\"{colour}\"/>", x(*run), y(*ratio)))
            .collect();
        svg += &format!(
            "<polyline points=\"{line}\" fill=\"none\" stroke=\"{colour}\"/>{dots}\
             <text x=\"670\" y=\"{}\" fill=\"{colour}\">{name}</text>\n",
            30 + index * 18
        );
    }
    svg + "</svg>\n"
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
