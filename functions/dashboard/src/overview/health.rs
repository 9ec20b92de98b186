//! What is wrong with the pipeline, since when, and the command that mends it or shows more.
//!
//! # Layout
//! - here: a finding, and the order of looking.
//! - [`reading`]: partitions and stages that do not do their work.
//! - [`results`]: watermarks, and records that are not counted.

mod reading;
mod results;

use serde::Serialize;

use super::facts::Facts;
use super::streams::Stream;

/// Findings that are told at the most.
const FINDINGS_MAX: usize = 50;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Results are late, missing or not made.
    Error,
    /// Somebody should look.
    Warning,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// A name that stays the same.
    pub cause: &'static str,
    pub text: String,
    pub since: Option<String>,
    pub command: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Healthy,
    Degraded,
    Failing,
}

#[derive(Debug, Serialize)]
pub struct Health {
    pub state: State,
    pub sentence: String,
    pub since: Option<String>,
    pub command: Option<String>,
    /// The worst first.
    pub findings: Vec<Finding>,
}

impl Health {
    pub fn new(facts: &Facts, streams: &[Stream]) -> Self {
        let mut findings = Vec::new();
        reading::look(facts, streams, &mut findings);
        results::look(facts, streams, &mut findings);
        // What stands first is looked for first, among what is as bad.
        findings.sort_by_key(|finding| finding.severity);
        findings.truncate(FINDINGS_MAX);
        let first = findings.first();
        Self {
            state: match first.map(|finding| finding.severity) {
                None => State::Healthy,
                Some(Severity::Warning) => State::Degraded,
                Some(Severity::Error) => State::Failing,
            },
            sentence: first.map_or_else(|| healthy(streams), |finding| finding.text.clone()),
            since: first.and_then(|finding| finding.since.clone()),
            command: first.and_then(|finding| finding.command.clone()),
            findings,
        }
    }
}

fn healthy(streams: &[Stream]) -> String {
    let most = streams.iter().filter_map(|stream| stream.seconds_behind).reduce(f64::max);
    match (streams.len(), most) {
        (0, _) => "Everything is ready, and no stream has been read yet.".to_owned(),
        (1, Some(seconds)) => format!("Everything is well: the stream is {seconds:.1} s behind."),
        (1, None) => "Everything is well.".to_owned(),
        (count, Some(seconds)) => {
            format!("Everything is well: of {count} streams none is more than {seconds:.1} s behind.")
        }
        (count, None) => format!("Everything is well with {count} streams."),
    }
}

/// A text as one word of a shell.
pub fn word(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@=,".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// How a component is started on a host of its own.
fn start(component: Option<&str>) -> String {
    component.map_or_else(|| "exagg up".to_owned(), |component| format!("exagg up --component-id {}", word(component)))
}

/// A number of things, with its noun.
fn counted(count: i64, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}
