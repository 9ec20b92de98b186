//! Watermarks that do not keep up, and records that are not counted.

use super::{Finding, Severity, counted, start, word};
use crate::overview::facts::{self, Facts};
use crate::overview::streams::Stream;

/// How much longer than its idle time-out a partition may hold the watermark back.
const HELD_SECONDS: i64 = 10;
/// A stream that is further behind is told.
const BEHIND_SECONDS: f64 = 30.0;
/// A gap is told for so long.
const GAP_SECONDS: f64 = 600.0;
const MICROS: i64 = 1_000_000;

pub fn look(facts: &Facts, streams: &[Stream], findings: &mut Vec<Finding>) {
    for (stream, shown) in facts.streams.iter().zip(streams) {
        held(facts, stream, shown, findings);
        behind(facts, shown, findings);
        gap(facts, stream, findings);
        rejects(facts, stream, findings);
    }
}

/// A partition that is read, and whose events are older than the others' for longer than silence explains.
fn held(facts: &Facts, stream: &facts::Stream, shown: &Stream, findings: &mut Vec<Finding>) {
    let Some(holder) = shown.partitions.iter().find(|partition| partition.holds_watermark) else { return };
    // Why it is not read is told already.
    if holder.state != "reading" {
        return;
    }
    let newest = stream.partitions.iter().filter_map(|partition| partition.event_us).max();
    let (Some(newest), Some(watermark)) = (newest.map(|us| us.min(facts.now_us)), stream.watermark_us) else { return };
    let behind = (newest - watermark) / MICROS;
    if behind <= stream.idle_timeout_seconds + HELD_SECONDS {
        return;
    }
    findings.push(Finding {
        severity: Severity::Warning,
        cause: "watermark_held",
        text: format!(
            "Partition {} of topic {} holds the watermark of stream {}, {} behind the others: no later window is closed.",
            holder.partition,
            holder.topic,
            stream.stream,
            counted(behind, "second", "seconds")
        ),
        since: None,
        command: Some(start(facts.component(&stream.stream))),
    });
}

fn behind(facts: &Facts, shown: &Stream, findings: &mut Vec<Finding>) {
    let Some(seconds) = shown.seconds_behind.filter(|seconds| *seconds > BEHIND_SECONDS) else { return };
    let left = shown.seconds_left.map_or_else(
        || "it does not shrink".to_owned(),
        |left| format!("at this rate it has caught up in {left:.0} s"),
    );
    findings.push(Finding {
        severity: Severity::Warning,
        cause: "behind",
        text: format!("Stream {} is {seconds:.0} s behind, and {left}.", shown.stream),
        since: Some(facts.ago(seconds)),
        command: Some(start(facts.component(&shown.stream))),
    });
}

fn gap(facts: &Facts, stream: &facts::Stream, findings: &mut Vec<Finding>) {
    let Some(gap) = stream.latest_gap.as_ref().filter(|gap| gap.seen_ago < GAP_SECONDS) else { return };
    findings.push(Finding {
        severity: Severity::Warning,
        cause: "gap",
        text: format!(
            "{} of topic {} partition {} were lost before they were read, from offset {} on: {}",
            counted(gap.next_offset - gap.from_offset, "record", "records"),
            gap.topic,
            gap.partition,
            gap.from_offset,
            gap.reason
        ),
        since: Some(facts.ago(gap.seen_ago)),
        command: Some(format!(
            "kafka-configs.sh --bootstrap-server BROKER --alter --entity-type topics --entity-name {} \
             --add-config retention.ms=604800000",
            word(&gap.topic)
        )),
    });
}

/// Records ahead of the clock and late ones have causes of their own.
fn rejects(facts: &Facts, stream: &facts::Stream, findings: &mut Vec<Finding>) {
    let name = word(&stream.stream);
    for lately in &stream.rejected_lately {
        let records = counted(lately.records, "record", "records");
        let (verb, have) = if lately.records == 1 { ("is", "has") } else { ("are", "have") };
        let (cause, text, command) = match lately.reason.as_str() {
            "future" => (
                "future_clock",
                format!(
                    "{records} of stream {} {verb} ahead of the clock and not counted: a producer's clock is wrong.",
                    stream.stream
                ),
                format!("exagg rejects --stream {name}"),
            ),
            "late" => (
                "records_late",
                format!(
                    "{records} of stream {} came after their windows were closed and {verb} not counted.",
                    stream.stream
                ),
                format!("exagg replay --stream {name} --from earliest"),
            ),
            reason => (
                "records_rejected",
                format!("{records} of stream {} {have} been rejected within five minutes: {reason}.", stream.stream),
                format!("exagg rejects --stream {name}"),
            ),
        };
        findings.push(Finding {
            severity: Severity::Warning,
            cause,
            text,
            since: Some(facts.ago(lately.first_ago)),
            command: Some(command),
        });
    }
}
