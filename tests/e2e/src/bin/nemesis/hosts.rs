//! The hosts, each behind doors of its own, and what they say and take.

use std::fmt;
use std::time::{Duration, Instant};

use e2e::database::Database;
use e2e::gate::Gate;
use e2e::host::{Host, Setup};
use e2e::http;

use crate::{Shape, WINDOW_SECONDS};

/// How long a host may take to notice that its database is out of reach: a look a second, each of three at most.
const NOTICES_WITHIN: Duration = Duration::from_secs(5);
/// And that no broker answers: a heartbeat every other second, whose question is open for two.
const NOTICES_KAFKA_WITHIN: Duration = Duration::from_secs(6);
const MEMORY_MAX: u64 = 400 << 20;
const DESCRIPTORS_MAX: usize = 512;
const LOG_LINES_MAX: usize = 20_000;
/// Of all hosts together, those among them that a server has not noticed the end of.
const CONNECTIONS_MAX: i64 = 75;

/// What a host suffers from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Well,
    Down,
    Frozen,
    /// Nothing comes from PostgreSQL.
    WithoutPostgres,
    /// Nothing comes from Kafka.
    WithoutKafka,
    /// It comes late.
    Slow,
}

pub struct Victim<'a> {
    pub host: Host,
    pub postgres: Gate,
    pub kafka: &'a Gate,
    pub state: State,
    pub since: Instant,
    pub heals_at: Instant,
}

impl<'a> Victim<'a> {
    /// Starts the host of this number; the first one's clock is the one that may be wrong.
    pub fn start(shape: Shape, number: usize, name: &str, database: &Database, kafka: &'a Gate) -> Self {
        let postgres = Gate::opened(&database.host);
        let url = database.url.replace(&database.host, &postgres.address());
        let aggregator = "[component.aggregator-exchanges]\n";
        let setup = Setup::against(&kafka.address(), database, name)
            // As the manifest has them: a session of 20 s, and the end of the log.
            .replace("start = \"earliest\"\nrdkafka = { \"session.timeout.ms\" = \"6000\" }", "start = \"latest\"")
            // Only the bad version minds it.
            .replace(aggregator, &format!("{aggregator}environment = {{ TRAP_ALWAYS = \"1\" }}\n"))
            .variable("postgres_url", &url)
            .variable("postgres_host", &postgres.address())
            .variable("window_seconds", &WINDOW_SECONDS.to_string())
            .variable("allowed_lateness_seconds", "2")
            .variable("late", if shape.rejects_late { "reject" } else { "revise" })
            .components(&["aggregator-exchanges", "window-closer"]);
        let setup = if number == 0 { setup.clock_ahead(shape.clock_ahead_seconds) } else { setup };
        let now = Instant::now();
        Self { host: setup.start(), postgres, kafka, state: State::Well, since: now, heals_at: now }
    }

    /// From now on it suffers from this, for so long.
    pub fn suffers(&mut self, state: State, time: Duration) {
        (self.state, self.since) = (state, Instant::now());
        self.heals_at = self.since + time;
    }

    pub fn heal(&mut self) {
        match std::mem::replace(&mut self.state, State::Well) {
            State::Well => return,
            State::Down => self.host.restart(),
            State::Frozen => self.host.signal("CONT"),
            State::WithoutPostgres | State::WithoutKafka | State::Slow => {
                self.postgres.open();
                self.kafka.open();
            }
        }
        self.since = Instant::now();
    }

    /// Whether it must not say that it is ready: it had the time to notice why not. A host whose calls all wait for
    /// PostgreSQL asks nothing of Kafka.
    fn cannot_be_ready(&self, postgres_is_well: bool) -> bool {
        match self.state {
            State::WithoutPostgres => self.since.elapsed() > NOTICES_WITHIN,
            State::WithoutKafka => postgres_is_well && self.since.elapsed() > NOTICES_KAFKA_WITHIN,
            _ => false,
        }
    }
}

/// What hosts said of their readiness, beside what was so.
#[derive(Clone, Copy, Debug, Default)]
pub struct Readiness {
    looks: u32,
    pub wrongly_ready: u32,
}

impl Readiness {
    pub fn look(&mut self, victims: &[Victim<'_>], postgres_is_well: bool) {
        for victim in victims.iter().filter(|victim| victim.cannot_be_ready(postgres_is_well)) {
            let Some(answer) = http::try_get(victim.host.admin, "/readyz") else { continue };
            self.looks += 1;
            if answer.status == 200 {
                self.wrongly_ready += 1;
                println!("  ready {:.1} s after {:?} began", victim.since.elapsed().as_secs_f64(), victim.state);
            }
        }
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wrongly ready {} of {} looks", self.wrongly_ready, self.looks)
    }
}

/// What the hosts took at the most.
pub struct Bounds {
    memory: u64,
    descriptors: usize,
    log_lines: usize,
    connections: i64,
}

impl Bounds {
    /// Of hosts that run, and have had so many connections to PostgreSQL.
    pub fn of(victims: &[Victim<'_>], connections: i64) -> Self {
        let mut bounds = Self { memory: 0, descriptors: 0, log_lines: 0, connections };
        for Victim { host, .. } in victims {
            let descriptors = std::fs::read_dir(format!("/proc/{}/fd", host.pid())).map_or(0, Iterator::count);
            bounds.memory = bounds.memory.max(host.peak_memory());
            bounds.descriptors = bounds.descriptors.max(descriptors);
            bounds.log_lines = bounds.log_lines.max(host.log().lines().count());
        }
        bounds
    }

    pub fn are_kept(&self) -> bool {
        self.memory <= MEMORY_MAX
            && self.descriptors <= DESCRIPTORS_MAX
            && self.log_lines <= LOG_LINES_MAX
            && self.connections <= CONNECTIONS_MAX
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory, descriptors, log_lines, connections } = self;
        write!(
            f,
            "at most {} MiB, {descriptors} descriptors, {log_lines} log lines a host, {connections} connections in all",
            memory >> 20
        )
    }
}
