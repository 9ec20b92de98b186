//! Partitions that are not read, and stages and hosts that do not do their work.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Severity, counted, start, word};
use crate::overview::facts::{self, Facts, Host, Stage, StagePartition};
use crate::overview::streams::Stream;

/// By how much the clock of a host may differ from PostgreSQL's.
const CLOCKS_DIFFER_SECONDS: f64 = 5.0;
/// The readers of partitions are heard of every few seconds.
const HEARD_SECONDS: f64 = 10.0;
/// A partition that waits for longer is told.
const WAITING_SECONDS: f64 = 5.0;
/// A watermark that could rise and does not for so long has no window-closer.
const CLOSER_SECONDS: f64 = 3.5;

pub fn look(facts: &Facts, streams: &[Stream], findings: &mut Vec<Finding>) {
    if facts.live().next().is_none() {
        findings.push(no_host(facts, streams));
        return;
    }
    stopped(facts, findings);
    not_ready(facts, findings);
    unattended(facts, streams, findings);
    closer(facts, findings);
    lost(facts, findings);
    budgets(facts, findings);
    waiting(facts, findings);
    failing(facts, findings);
    versions(facts, findings);
    clocks(facts, findings);
}

/// No host says that it is there.
fn no_host(facts: &Facts, streams: &[Stream]) -> Finding {
    let seen = streams.iter().flat_map(|stream| &stream.partitions).map(|partition| partition.seen_seconds_ago);
    let seen = seen.reduce(f64::min);
    if facts.hosts.is_empty() && seen.is_some_and(|seconds| seconds < HEARD_SECONDS) {
        return Finding {
            severity: Severity::Warning,
            cause: "hosts_silent",
            text: "Records are read, and no host says so: their role may not write exagg_hosts, or they are older than it."
                .to_owned(),
            since: None,
            command: Some("psql -v ON_ERROR_STOP=1 -f migrations/roles.sql \"$OWNER_URL\"".to_owned()),
        };
    }
    let lost = facts.hosts.iter().map(|host| host.seen_ago).reduce(f64::min);
    Finding {
        severity: Severity::Error,
        cause: "no_host",
        text: "No host runs: nothing is read, and no window is closed.".to_owned(),
        since: lost.or(seen).map(|seconds| facts.ago(seconds)),
        command: Some("exagg up".to_owned()),
    }
}

/// What a person has to mend comes first.
fn stopped(facts: &Facts, findings: &mut Vec<Finding>) {
    for (stage, partition) in in_state(facts, "stopped") {
        let reason = partition.reason.as_deref().unwrap_or_default();
        let swap = format!("exagg swap {} fixed.wasm", word(&stage.component));
        let (cause, command) = mended(stage, &partition.topic, reason).unwrap_or(("partition_stopped", swap));
        findings.push(Finding {
            severity: Severity::Error,
            cause,
            text: format!("Partition {} of topic {} is stopped: {reason}", partition.partition, partition.topic),
            since: partition.since.clone(),
            command: Some(command),
        });
    }
}

/// The cause that a reason tells of, and what mends it; none where it tells of none in particular.
fn mended(stage: &Stage, topic: &str, reason: &str) -> Option<(&'static str, String)> {
    let (stream, topic) = (word(stage.stream.as_deref().unwrap_or("STREAM")), word(topic));
    Some(if reason.contains("cannot be applied") {
        ("poison_record", format!("exagg swap {} fixed.wasm", word(&stage.component)))
    } else if reason.contains("were deleted before they were read") {
        ("gap", format!("exagg reset --stream {stream} --topic {topic}"))
    } else if reason.contains("recreated") {
        ("topic_recreated", format!("exagg reset --stream {stream} --topic {topic}"))
    } else if reason.contains("were made with") {
        ("settings_changed", format!("exagg replay --stream {stream} --from earliest"))
    } else {
        return None;
    })
}

/// Partitions of hosts that are there, also those of functions that write no stream.
fn in_state<'a>(facts: &'a Facts, state: &'a str) -> impl Iterator<Item = (&'a Stage, &'a StagePartition)> {
    let all = facts.stages().flat_map(|(_, stage)| stage.partitions.iter().flatten().map(move |p| (stage, p)));
    all.filter(move |(_, partition)| partition.state == state)
}

/// Stages that cannot work, but for what their partitions say themselves. What several say is told once.
fn not_ready(facts: &Facts, findings: &mut Vec<Finding>) {
    let mut by_reason: BTreeMap<&str, Vec<&Stage>> = BTreeMap::new();
    for (_, stage) in facts.stages() {
        if let Some(reason) = stage.not_ready.as_deref().filter(|reason| !reason.starts_with("topic ")) {
            by_reason.entry(reason).or_default().push(stage);
        }
    }
    for (reason, stages) in by_reason {
        let ids = stages.iter().map(|stage| stage.id.as_str()).collect::<BTreeSet<_>>();
        let ids = ids.into_iter().collect::<Vec<_>>().join(", ");
        let since = stages.iter().filter_map(|stage| stage.not_ready_since.clone()).min();
        let topic = reason.strip_prefix("there is no topic ");
        let (cause, severity, text, command) = if let Some(topic) = topic {
            let first = topic.split(", ").next().unwrap_or(topic);
            let create =
                format!("kafka-topics.sh --bootstrap-server BROKER --create --topic {} --partitions 4", word(first));
            ("topic_missing", Severity::Error, format!("There is no topic {topic}, which {ids} should read."), create)
        } else if reason.contains("broker") || reason.contains("cluster") {
            let ask = "kafka-broker-api-versions.sh --bootstrap-server BROKER".to_owned();
            ("kafka_unreachable", Severity::Error, format!("Kafka cannot be used: {reason} (stages {ids})."), ask)
        } else if reason == "it joins its consumer group" {
            let status = "exagg status".to_owned();
            ("joining", Severity::Warning, format!("The consumer groups of {ids} rebalance."), status)
        } else {
            ("stage_not_ready", Severity::Error, format!("{ids} cannot work: {reason}"), "exagg status".to_owned())
        };
        findings.push(Finding { severity, cause, text, since, command: Some(command) });
    }
}

fn unattended(facts: &Facts, streams: &[Stream], findings: &mut Vec<Finding>) {
    for stream in streams {
        let of_stream: Vec<_> = stream.partitions.iter().filter(|partition| partition.state == "unattended").collect();
        let Some(first) = of_stream.first() else { continue };
        let longest = of_stream.iter().map(|partition| partition.seen_seconds_ago).fold(0.0, f64::max);
        let which = match of_stream.len() {
            1 => format!("Partition {} of topic {}", first.partition, first.topic),
            count => format!("{count} partitions of stream {}", stream.stream),
        };
        let verb = if of_stream.len() == 1 { "is" } else { "are" };
        let mut writers = facts.writers(&stream.stream).peekable();
        // Its stage runs, and reads other topics now.
        let is_retired = writers.peek().is_some() && !writers.any(|(_, stage)| stage.reads(&first.topic));
        let (name, topic) = (word(&stream.stream), word(&first.topic));
        let command = match facts.component(&stream.stream) {
            _ if is_retired => format!("exagg forget --stream {name} --topic {topic}"),
            Some(component) => start(Some(component)),
            None => format!("exagg up   # or, where it is not wanted any more: exagg drop --stream {name}"),
        };
        findings.push(Finding {
            severity: Severity::Error,
            cause: "partition_unattended",
            text: format!("{which} {verb} read by no host, and no window of {} closes by itself.", stream.stream),
            since: Some(facts.ago(longest)),
            command: Some(command),
        });
    }
}

/// Whether windows are closed: the hosts that did it are there, and watermarks rise where they can.
fn closer(facts: &Facts, findings: &mut Vec<Finding>) {
    let all = facts.hosts.iter().flat_map(|host| host.state.stages.iter().map(move |stage| (host, stage)));
    let closers: Vec<(&Host, &Stage)> = all.filter(|(_, stage)| stage.closes).collect();
    let is_there = closers.iter().any(|(host, _)| !host.is_lost() && !host.is_stopped());
    let held_up = facts.streams.iter().find_map(|stream| held_up_for(facts, stream).map(|seconds| (stream, seconds)));
    // A host that says nothing may close them; where there is no stream, there is nothing to close.
    let is_away = !is_there && !closers.is_empty() && !facts.streams.is_empty();
    if !is_away && held_up.is_none() {
        return;
    }
    let component = closers.first().map_or("window-closer", |(_, stage)| &stage.component);
    let seen = closers.iter().map(|(host, _)| host.seen_ago).reduce(f64::min).filter(|_| !is_there);
    let since = held_up.map(|(_, seconds)| seconds).or(seen).map(|seconds| facts.ago(seconds));
    // Without records nothing is late yet.
    let is_pending = facts.streams.iter().any(|stream| stream.open_windows > 0);
    let text = match held_up {
        Some((stream, _)) if is_there => {
            format!("The window-closer does not come to its work: the watermark of stream {} stands.", stream.stream)
        }
        _ => "No window-closer runs: windows stay open, and no row becomes final.".to_owned(),
    };
    findings.push(Finding {
        severity: if is_pending { Severity::Error } else { Severity::Warning },
        cause: "closer_away",
        text,
        since,
        command: Some(if is_there { "exagg status".to_owned() } else { start(Some(component)) }),
    });
}

/// For how long a stream's watermark could have risen and has not; none where that is no time worth the name. It could
/// since the last record of the partition that is the furthest behind, if all partitions have been heard of.
fn held_up_for(facts: &Facts, stream: &facts::Stream) -> Option<f64> {
    let counts = stream.partitions.iter().fold(BTreeMap::new(), |mut counts, partition| {
        *counts.entry(&partition.topic).or_insert(0) += 1;
        counts
    });
    if stream.partitions.iter().any(|partition| counts[&partition.topic] < partition.partition_count) {
        return None;
    }
    let last = stream.partitions.iter().min_by_key(|partition| partition.event_us)?;
    let could_rise = last.event_us.map(|us| us.min(facts.now_us)) > stream.watermark_us;
    let seconds = last.silent_for.min(stream.updated_ago);
    (could_rise && stream.first_pending_us.is_some() && seconds > CLOSER_SECONDS).then_some(seconds)
}

/// Hosts that ended without a word; an error where nobody else has their stages.
fn lost(facts: &Facts, findings: &mut Vec<Finding>) {
    let there: BTreeSet<&str> = facts.stages().map(|(_, stage)| stage.id.as_str()).collect();
    for host in facts.hosts.iter().filter(|host| host.is_lost() && host.state.state != "stopping") {
        let mut missing: Vec<&str> = host
            .state
            .stages
            .iter()
            .filter(|stage| !there.contains(&*stage.id))
            .map(|stage| &*stage.component)
            .collect();
        missing.dedup();
        let is_restarted =
            facts.live().any(|live| live.state.name == host.state.name && live.started_ago < host.seen_ago);
        if missing.is_empty() && is_restarted {
            continue;
        }
        let others = if missing.is_empty() { "" } else { ", and nobody else runs its stages" };
        let command = missing.iter().fold("exagg up".to_owned(), |up, id| format!("{up} --component-id {}", word(id)));
        findings.push(Finding {
            severity: if missing.is_empty() { Severity::Warning } else { Severity::Error },
            cause: "host_lost",
            text: format!("The host {} is gone without having stopped{others}.", host.state.name),
            since: Some(facts.ago(host.seen_ago)),
            command: Some(command).filter(|_| !missing.is_empty()),
        });
    }
}

fn is_of_budget(reason: &str) -> bool {
    reason.contains("budget of ") || reason.contains("there was no room")
}

fn budgets(facts: &Facts, findings: &mut Vec<Finding>) {
    let told = "curl -s http://127.0.0.1:9464/metrics | grep exagg_component_";
    for (_, stage) in facts.stages() {
        let partitions = stage.partitions.iter().flatten();
        let reasons = partitions.filter_map(|partition| partition.reason.as_ref()).chain(&stage.failing);
        let used_up = reasons.into_iter().find(|reason| is_of_budget(reason));
        if used_up.is_none() && stage.refused_since.is_none() {
            continue;
        }
        let text = match used_up {
            Some(reason) => format!("{} has come to the end of its budget: {reason}", stage.component),
            None => format!("{} has come to the end of its budget, and was refused a resource.", stage.component),
        };
        findings.push(Finding {
            severity: if used_up.is_some() { Severity::Error } else { Severity::Warning },
            cause: "budget_used_up",
            text,
            since: stage.refused_since.clone(),
            command: Some(told.to_owned()),
        });
    }
}

/// Partitions that have tried something again for a while: that they try once is usual where a replay ends, or a database
/// fails over.
fn waiting(facts: &Facts, findings: &mut Vec<Finding>) {
    let mut told = BTreeSet::new();
    for (stage, partition) in in_state(facts, "waiting") {
        let reason = partition.reason.as_deref().unwrap_or_default();
        let is_brief = partition.since.as_deref().is_some_and(|since| facts.is_within(since, WAITING_SECONDS));
        // Told above, or the same of another partition.
        if is_brief || is_of_budget(reason) || !told.insert((&stage.id, reason)) {
            continue;
        }
        let (cause, command) = match mended(stage, &partition.topic, reason) {
            Some(mended) => mended,
            None if reason.contains("trapped") => {
                ("function_failing", format!("exagg swap {} --back", word(&stage.component)))
            }
            None => ("partition_waiting", "exagg status".to_owned()),
        };
        findings.push(Finding {
            severity: Severity::Error,
            cause,
            text: format!("Partition {} of topic {} waits: {reason}", partition.partition, partition.topic),
            since: partition.since.clone(),
            command: Some(command),
        });
    }
}

/// Functions whose last call failed.
fn failing(facts: &Facts, findings: &mut Vec<Finding>) {
    let mut told = BTreeSet::new();
    for (_, stage) in facts.stages() {
        let Some(reason) = stage.failing.as_deref().filter(|reason| !reason.contains("budget of ")) else { continue };
        if !told.insert((&stage.id, reason)) {
            continue;
        }
        findings.push(Finding {
            severity: if stage.closes { Severity::Error } else { Severity::Warning },
            cause: "function_failing",
            text: format!("The last call of {} failed: {reason}", stage.component),
            since: stage.failing_since.clone(),
            command: Some("exagg status".to_owned()),
        });
    }
}

fn versions(facts: &Facts, findings: &mut Vec<Finding>) {
    let mut told = BTreeSet::new();
    for (_, stage) in facts.stages() {
        let Some(reason) = stage.rolled_back.as_deref().filter(|_| told.insert(&stage.component)) else { continue };
        findings.push(Finding {
            severity: Severity::Warning,
            cause: "version_taken_back",
            text: format!("A new version of {} was taken back, and the one before runs: {reason}", stage.component),
            since: stage.rolled_back_since.clone(),
            command: Some(format!("exagg swap {} fixed.wasm", word(&stage.component))),
        });
    }
}

fn clocks(facts: &Facts, findings: &mut Vec<Finding>) {
    let differs =
        |host: &&Host| host.state.clock_ahead_seconds.is_some_and(|ahead| ahead.abs() > CLOCKS_DIFFER_SECONDS);
    for host in facts.live().filter(differs) {
        let ahead = host.state.clock_ahead_seconds.unwrap_or_default();
        let direction = if ahead > 0.0 { "ahead of" } else { "behind" };
        #[expect(clippy::cast_possible_truncation, reason = "seconds to be shown")]
        let by = counted(ahead.abs().round() as i64, "second", "seconds");
        findings.push(Finding {
            severity: Severity::Warning,
            cause: "clock_differs",
            text: format!("The clock of host {} is {by} {direction} PostgreSQL's.", host.state.name),
            since: None,
            command: Some("timedatectl set-ntp true".to_owned()),
        });
    }
}
