//! Stages as the API shows them: over all hosts that run them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::facts::{self, Facts};

#[derive(Debug, Serialize)]
pub struct Stage {
    pub id: String,
    pub trigger: String,
    pub component: String,
    pub stream: Option<String>,
    pub what: String,
    pub closes: bool,
    pub hosts: usize,
    pub versions: Vec<Version>,
    pub not_ready: Option<String>,
    pub failing: Option<String>,
    pub calls: u64,
    pub errors: u64,
    pub timeouts: u64,
    pub calls_per_second: f64,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub records: u64,
    pub records_per_second: f64,
    pub dead_letters: u64,
    pub cpu_seconds: f64,
    pub cpu_us_per_record: Option<f64>,
    pub memory_bytes: u64,
    pub postgres_seconds: f64,
    pub cold_starts: u64,
    pub refused: u64,
}

#[derive(Debug, Serialize)]
pub struct Version {
    pub digest: String,
    pub hosts: usize,
    pub on_trial: bool,
    pub taken_back: Option<String>,
}

/// In the order of their triggers' kinds along the pipeline, then of their ids.
pub fn all(facts: &Facts) -> Vec<Stage> {
    let mut by_id: BTreeMap<(u8, &str), Vec<&facts::Stage>> = BTreeMap::new();
    for (_, stage) in facts.stages() {
        let place = match stage.trigger.as_str() {
            "cron" if !stage.closes => 0,
            "kafka" => 1,
            "cron" => 2,
            _ => 3,
        };
        by_id.entry((place, &stage.id)).or_default().push(stage);
    }
    by_id.into_values().filter_map(|on_hosts| merged(&on_hosts)).collect()
}

fn merged(on_hosts: &[&facts::Stage]) -> Option<Stage> {
    let first = on_hosts.first()?;
    let sum = |of: fn(&facts::Stage) -> u64| on_hosts.iter().map(|stage| of(stage)).sum::<u64>();
    let total = |of: fn(&facts::Stage) -> f64| on_hosts.iter().map(|stage| of(stage)).sum::<f64>();
    // The slowest host's: quantiles cannot be added.
    let most = |of: fn(&facts::Stage) -> Option<f64>| on_hosts.iter().filter_map(|stage| of(stage)).reduce(f64::max);
    let any = |of: fn(&facts::Stage) -> Option<&String>| on_hosts.iter().find_map(|stage| of(stage)).cloned();
    let records = sum(|stage| stage.records);
    let cpu_seconds = total(|stage| stage.cpu_seconds);
    Some(Stage {
        id: first.id.clone(),
        trigger: first.trigger.clone(),
        component: first.component.clone(),
        stream: first.stream.clone(),
        what: first.what.clone(),
        closes: first.closes,
        hosts: on_hosts.len(),
        versions: versions(on_hosts),
        not_ready: any(|stage| stage.not_ready.as_ref()),
        failing: any(|stage| stage.failing.as_ref()),
        calls: sum(|stage| stage.calls),
        errors: sum(|stage| stage.errors),
        timeouts: sum(|stage| stage.timeouts),
        calls_per_second: total(|stage| stage.calls_per_second),
        p50_ms: most(|stage| stage.p50_ms),
        p99_ms: most(|stage| stage.p99_ms),
        records,
        records_per_second: total(|stage| stage.records_per_second),
        dead_letters: sum(|stage| stage.dead_letters),
        cpu_seconds,
        cpu_us_per_record: per_record(cpu_seconds, records),
        memory_bytes: sum(|stage| stage.memory_bytes),
        postgres_seconds: total(|stage| stage.postgres_seconds),
        cold_starts: sum(|stage| stage.cold_starts),
        refused: sum(|stage| stage.refused),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a count of records is far below 2^53")]
fn per_record(cpu_seconds: f64, records: u64) -> Option<f64> {
    (records > 0).then(|| cpu_seconds * 1e6 / records as f64)
}

fn versions(on_hosts: &[&facts::Stage]) -> Vec<Version> {
    let mut versions: Vec<Version> = Vec::new();
    for stage in on_hosts {
        match versions.iter_mut().find(|version| version.digest == stage.digest) {
            Some(version) => {
                version.hosts += 1;
                version.on_trial |= stage.on_trial;
                version.taken_back = version.taken_back.take().or_else(|| stage.rolled_back.clone());
            }
            None => versions.push(Version {
                digest: stage.digest.clone(),
                hosts: 1,
                on_trial: stage.on_trial,
                taken_back: stage.rolled_back.clone(),
            }),
        }
    }
    versions
}
