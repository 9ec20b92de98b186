//! What `exagg_overview` gives: the streams with their partitions, and what the hosts say of themselves. Ages are in seconds
//! by PostgreSQL's clock. What a host of another version does not say has a default.

use serde::Deserialize;

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Facts {
    /// PostgreSQL's clock: microseconds since the epoch.
    pub now_us: i64,
    pub hosts: Vec<Host>,
    pub streams: Vec<Stream>,
}

/// A row of `exagg_hosts`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Host {
    pub host: String,
    pub started_ago: f64,
    pub seen_ago: f64,
    /// For how long it could have said something and did not.
    pub silent_for: f64,
    pub state: HostState,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HostState {
    pub name: String,
    /// `ready`, `not-ready`, `stopping`, `stopped`.
    pub state: String,
    pub reasons: Vec<String>,
    pub memory_bytes: i64,
    pub memory_budget_bytes: Option<i64>,
    pub cpu_percent: f64,
    pub clock_ahead_seconds: Option<f64>,
    pub stages: Vec<Stage>,
}

/// A stage on one host.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Stage {
    pub id: String,
    pub trigger: String,
    pub component: String,
    pub stream: Option<String>,
    /// Topics, a schedule, or a route.
    pub what: String,
    /// Whether it is what closes windows.
    pub closes: bool,
    pub digest: String,
    pub on_trial: bool,
    pub rolled_back: Option<String>,
    pub rolled_back_since: Option<String>,
    pub not_ready: Option<String>,
    pub not_ready_since: Option<String>,
    pub failing: Option<String>,
    pub failing_since: Option<String>,
    /// None where it reads none; of very many, those in trouble and some of the others.
    pub partitions: Option<Vec<StagePartition>>,
    /// How many it reads.
    pub partition_count: Option<usize>,
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
    pub memory_bytes: u64,
    pub postgres_seconds: f64,
    pub cold_starts: u64,
    pub refused: u64,
    /// Where something was refused within the last half minute.
    pub refused_since: Option<String>,
    pub lag_history: Vec<Option<f64>>,
    /// The number of the latest entry of the history, the same for all hosts.
    pub lag_slot: i64,
}

impl Stage {
    /// Whether it reads partitions that it does not name.
    pub fn is_cut(&self) -> bool {
        let named = self.partitions.as_ref().map_or(0, Vec::len);
        self.partition_count.is_some_and(|count| count > named)
    }

    /// Whether it reads this topic.
    pub fn reads(&self, topic: &str) -> bool {
        self.what.split(", ").any(|known| known == topic)
    }
}

/// A partition as the stage that reads it has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct StagePartition {
    pub topic: String,
    pub partition: i32,
    pub next_offset: Option<i64>,
    pub end_offset: i64,
    pub lag_seconds: f64,
    /// `reading`, `waiting`, `stopped`.
    pub state: String,
    pub reason: Option<String>,
    pub since: Option<String>,
}

/// A row of `streams`, with what belongs to it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Stream {
    pub stream: String,
    pub window_seconds: i64,
    pub slide_seconds: i64,
    pub allowed_lateness_seconds: i64,
    pub idle_timeout_seconds: i64,
    pub late: String,
    pub watermark_us: Option<i64>,
    pub held_by: String,
    /// Since a window-closer, or a change of settings, wrote its row.
    pub updated_ago: f64,
    pub open_windows: i64,
    /// The end of the first window that is pending.
    pub first_pending_us: Option<i64>,
    /// At most 10,000.
    pub rejected: i64,
    pub rejected_lately: Vec<RejectedLately>,
    /// At most 1,000.
    pub gaps: i64,
    pub latest_gap: Option<Gap>,
    pub partitions: Vec<Partition>,
}

/// Rejects of the last five minutes, at most the latest 10,000 of a stream.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RejectedLately {
    pub reason: String,
    pub records: i64,
    pub first_ago: f64,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Gap {
    pub seen_ago: f64,
    pub topic: String,
    pub partition: i32,
    pub from_offset: i64,
    pub next_offset: i64,
    pub reason: String,
}

/// A row of `progress`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Partition {
    pub topic: String,
    pub partition: i32,
    pub partition_count: i32,
    pub next_offset: i64,
    pub end_offset: i64,
    pub event_us: Option<i64>,
    pub seen_ago: f64,
    pub silent_for: f64,
}

/// After so long without a word a host is taken to be gone: it writes every two seconds.
const LOST_SECONDS: f64 = 4.0;

impl Host {
    /// Whether it has stopped, and said so.
    pub fn is_stopped(&self) -> bool {
        self.state.state == "stopped"
    }

    /// Whether it is gone without a word.
    pub fn is_lost(&self) -> bool {
        !self.is_stopped() && self.silent_for > LOST_SECONDS
    }
}

impl Facts {
    /// Hosts that are there.
    pub fn live(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|host| !host.is_lost() && !host.is_stopped())
    }

    /// The stages of hosts that are there, each with its host.
    pub fn stages(&self) -> impl Iterator<Item = (&Host, &Stage)> {
        self.live().flat_map(|host| host.state.stages.iter().map(move |stage| (host, stage)))
    }

    /// The stages that write a stream, each with its host.
    pub fn writers<'a>(&'a self, stream: &'a str) -> impl Iterator<Item = (&'a Host, &'a Stage)> {
        self.stages().filter(move |(_, stage)| stage.stream.as_deref() == Some(stream))
    }

    /// Whether a host that is gone without a word had a partition.
    pub fn was_lost_with(&self, topic: &str, partition: i32) -> bool {
        let stages = self.hosts.iter().filter(|host| host.is_lost()).flat_map(|host| &host.state.stages);
        let mut partitions = stages.flat_map(|stage| stage.partitions.iter().flatten());
        partitions.any(|told| told.topic == topic && told.partition == partition)
    }

    /// The component that writes a stream, also where only hosts that are gone have told of it.
    pub fn component(&self, stream: &str) -> Option<&str> {
        let stages = self.hosts.iter().flat_map(|host| &host.state.stages);
        stages.into_iter().find(|stage| stage.stream.as_deref() == Some(stream)).map(|stage| stage.component.as_str())
    }

    /// Whether a time that a host wrote was so many seconds ago at the most.
    pub fn is_within(&self, since: &str, seconds: f64) -> bool {
        let since = since.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_microsecond);
        since.is_ok_and(|since| self.now_us - since <= micros(seconds))
    }

    /// The moment that was so many seconds ago, as the API writes it.
    pub fn ago(&self, seconds: f64) -> String {
        time(self.now_us - micros(seconds))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "ages are far below 2^53 microseconds")]
fn micros(seconds: f64) -> i64 {
    (seconds * 1e6) as i64
}

/// A time as the API writes it, to the millisecond.
pub fn time(us: i64) -> String {
    let time = jiff::Timestamp::from_microsecond(us.div_euclid(1_000) * 1_000).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{time:.3}")
}
