//! The host under siege, once a second: its probes, what it says of itself, and what it holds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use e2e::host::Host;
use e2e::http;

use crate::app::PIPELINE;
use crate::group::{Cage, status};

/// A probe that takes longer is not answered, as Kubernetes and we see it.
const PROBE_TIME_MAX: Duration = Duration::from_secs(2);
const REASONS_MAX: usize = 60;
const EXAMPLES_MAX: usize = 5;

/// What one process holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    pub bytes: u64,
    pub descriptors: usize,
    pub threads: u64,
}

impl Held {
    pub fn now(cage: &Cage, pid: u32) -> Self {
        Self {
            bytes: cage.used(pid),
            descriptors: std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count),
            threads: status(pid, "Threads:"),
        }
    }

    fn most(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.max(other.bytes),
            descriptors: self.descriptors.max(other.descriptors),
            threads: self.threads.max(other.threads),
        }
    }
}

pub struct Watch<'a> {
    cage: &'a Cage,
    host: &'a Host,
    pub start: Held,
    pub most: Held,
    pub probes: u32,
    pub unanswered: u32,
    pub slowest: Duration,
    pub ready: u32,
    pub not_ready: u32,
    /// Why it was not ready, and how often; numbers are left out.
    pub reasons: BTreeMap<String, u32>,
    /// Reasons that were not so, and probes without an answer.
    pub complaints: Vec<String>,
    pub untrue: u32,
    applied: i64,
}

impl<'a> Watch<'a> {
    pub fn new(cage: &'a Cage, host: &'a Host) -> Self {
        let start = Held::now(cage, host.pid());
        Self {
            cage,
            host,
            start,
            most: start,
            probes: 0,
            unanswered: 0,
            slowest: Duration::ZERO,
            ready: 0,
            not_ready: 0,
            reasons: BTreeMap::new(),
            complaints: Vec::new(),
            untrue: 0,
            applied: 0,
        }
    }

    /// One look; `applied` is how many records are applied so far.
    pub fn look(&mut self, applied: i64) {
        let moves = std::mem::replace(&mut self.applied, applied) < applied;
        let (admin, app) = (self.host.admin, self.host.listen);
        if let Some((code, body)) = self.probe(admin, "/livez")
            && code != 200
        {
            self.fail(&format!("/livez: {code} {body}"));
        }
        for (port, path) in [(admin, "/readyz"), (app, "/.well-known/exagg/ready")] {
            match self.probe(port, path) {
                Some((200, _)) => self.ready += 1,
                Some((503, body)) => self.doubt(&body, moves),
                Some((code, body)) => self.fail(&format!("{path}: {code} {body}")),
                None => {}
            }
        }
        self.most = self.most.most(Held::now(self.cage, self.host.pid()));
    }

    fn probe(&mut self, port: u16, path: &str) -> Option<(u16, String)> {
        self.probes += 1;
        let began = Instant::now();
        let answer = http::try_get_within(port, path, PROBE_TIME_MAX);
        let time = began.elapsed();
        self.slowest = self.slowest.max(time);
        let Some(answer) = answer.filter(|_| time <= PROBE_TIME_MAX) else {
            self.fail(&format!("{path} was not answered in {time:?}"));
            return None;
        };
        Some((answer.status, answer.body))
    }

    fn fail(&mut self, complaint: &str) {
        self.unanswered += 1;
        self.complain(complaint);
    }

    fn complain(&mut self, complaint: &str) {
        if self.complaints.len() < EXAMPLES_MAX {
            self.complaints.push(complaint.trim().to_owned());
        }
    }

    /// A host that says it is not ready names the stages that cannot do their work, and no others.
    fn doubt(&mut self, body: &str, moves: bool) {
        self.not_ready += 1;
        for reason in body.lines() {
            let Some((stage, _)) = reason.split_once(": ") else {
                self.fail(&format!("not ready without a stage: {reason}"));
                continue;
            };
            let is_pipeline = PIPELINE.iter().any(|component| stage.starts_with(&format!("{component}-")));
            // The database serves whom it lets apply; so does the reader. The closer's ticks all have to pass.
            let works = moves || stage.starts_with("window-closer");
            if (is_pipeline || stage == "database") && works {
                self.untrue += 1;
                self.complain(reason);
            }
            let known: String = reason.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
            if self.reasons.len() < REASONS_MAX || self.reasons.contains_key(&known) {
                *self.reasons.entry(known).or_default() += 1;
            }
        }
    }

    /// Whether it is there, and was not waited for.
    pub fn is_alive(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.host.pid())).unwrap_or_default();
        let state = status.lines().find_map(|line| line.strip_prefix("State:"));
        state.is_some_and(|state| !state.trim_start().starts_with(['Z', 'X']))
    }

    pub fn log_bytes(&self) -> u64 {
        std::fs::metadata(self.host.setup.folder().join("host.log")).map_or(0, |file| file.len())
    }
}
