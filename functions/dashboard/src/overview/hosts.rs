//! Hosts as the API shows them.

use serde::Serialize;

use super::facts::{self, Facts};

#[derive(Debug, Serialize)]
pub struct Host {
    pub host: String,
    pub name: String,
    pub started_at: String,
    pub seen_at: String,
    /// `ready`, `not-ready`, `stopping`, `stopped`, `lost`.
    pub state: String,
    pub reasons: Vec<String>,
    pub memory_bytes: i64,
    pub memory_budget_bytes: i64,
    pub cpu_percent: f64,
    pub clock_ahead_seconds: Option<f64>,
    pub stages: Vec<String>,
}

impl Host {
    pub fn new(facts: &Facts, host: &facts::Host) -> Self {
        let state = &host.state;
        Self {
            host: host.host.clone(),
            name: state.name.clone(),
            started_at: facts.ago(host.started_ago),
            seen_at: facts.ago(host.seen_ago),
            state: if host.is_lost() { "lost".to_owned() } else { state.state.clone() },
            reasons: state.reasons.clone(),
            memory_bytes: state.memory_bytes,
            memory_budget_bytes: state.memory_budget_bytes.unwrap_or_default(),
            cpu_percent: state.cpu_percent,
            clock_ahead_seconds: state.clock_ahead_seconds,
            stages: state.stages.iter().map(|stage| stage.id.clone()).collect(),
        }
    }
}
