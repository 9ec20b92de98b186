//! `exagg status`: what a running host says of itself, for people.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use exagg_common::printable::printable;
use serde_json::Value;

use crate::admin::budget;
use crate::admin_client::{AdminEndpoint, endpoints, request};
use crate::cli::{ADMIN_DEFAULT, Status};
use crate::config::Environment;

/// Asks the hosts and prints.
pub async fn run(args: &Status, environment: &Environment) -> Result<()> {
    let asked = endpoints(args.admin, &args.state_dir, environment)?;
    let mut silent = Vec::new();
    let mut answered = false;
    for endpoint in &asked {
        match tell(endpoint, args.json).await {
            Ok(()) => answered = true,
            Err(error) => silent.push(error),
        }
    }
    if !answered && args.admin.is_none() {
        // A host elsewhere on this machine: it has its usual address.
        let usual = AdminEndpoint::Address(ADMIN_DEFAULT.parse()?, None);
        if tell(&usual, args.json).await.is_ok() {
            return Ok(());
        }
    }
    // The socket of a host that was killed stays, and one that hangs is to be seen.
    for error in silent.iter().filter(|_| answered) {
        eprintln!("{}", printable(&format!("{error:#}")));
    }
    match silent.pop() {
        Some(error) if !answered => Err(error),
        _ => Ok(()),
    }
}

async fn tell(endpoint: &AdminEndpoint, as_json: bool) -> Result<()> {
    let answer = request(endpoint, "GET", "/status", Bytes::new()).await?;
    ensure!(answer.status == 200, "the host answers {}: {}", answer.status, printable(answer.body.trim_end()));
    if as_json {
        println!("{}", answer.body);
        return Ok(());
    }
    let status: Value = serde_json::from_str(&answer.body).context("the host's answer is not JSON")?;
    print!("{}", render(&status));
    Ok(())
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text).into_owned(),
        other => other.to_string(),
    }
}

fn render(status: &Value) -> String {
    let mut out =
        format!("{} ({})\n", text(&status["app"]), if status["ready"] == true { "ready" } else { "not ready" });
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    // What a person has to mend stands before everything else.
    for stage in list(&status["stages"]) {
        for p in list(&stage["partitions"]).iter().filter(|p| p["state"] == "stopped") {
            out += &format!(
                "STOPPED: {}/{} of stage {} at {}: {}\n  mend that, then swap the function, or start the host again\n",
                text(&p["topic"]),
                text(&p["partition"]),
                text(&stage["id"]),
                text(&p["next_offset"]),
                printable(p["reason"].as_str().unwrap_or_default())
            );
        }
    }
    for stage in list(&status["stages"]) {
        out += &format!(
            "stage {} ({} -> {}, {:.12})\n",
            text(&stage["id"]),
            text(&stage["trigger"]),
            text(&stage["component"]),
            text(&stage["digest"])
        );
        if let Some(reason) = stage["rolled_back"].as_str() {
            out += &format!("  a new version was taken back: {}\n", printable(reason));
        }
        if stage["on_trial"] == true {
            out += &format!("  swapped in lately; before it ran {:.12}\n", text(&stage["previous"]));
        }
        if let Some(held) = stage["held"].as_object().filter(|held| !held.is_empty()) {
            out += &format!("  holds {}\n", budget::in_words(held));
        }
        if let Some(reason) = stage["not_ready"].as_str() {
            out += &format!("  not ready: {}\n", printable(reason));
        }
        if let Some(reason) = stage["failing"].as_str() {
            out += &format!("  its last call failed: {}\n", printable(reason));
        }
        out += &partitions(&stage);
    }
    if let Some(error) = status["streams"]["error"].as_str() {
        out += &format!("streams: {}\n", printable(error));
    }
    for s in list(&status["streams"]) {
        out += &format!(
            "stream {}: watermark {} (held by {}), lag {}, {} open windows, {} rejected records, {} gaps\n",
            text(&s["stream"]),
            text(&s["watermark"]),
            text(&s["watermark_held_by"]),
            text(&s["lag_records"]),
            text(&s["open_windows"]),
            text(&s["rejected_records"]),
            text(&s["gaps"])
        );
    }
    out
}

/// How far a stage is in its partitions.
fn partitions(stage: &Value) -> String {
    let mut out = String::new();
    for p in stage["partitions"].as_array().into_iter().flatten() {
        let lag = p["next_offset"].as_i64().map(|next| (p["end_offset"].as_i64().unwrap_or(next) - next).max(0));
        out += &format!(
            "  {}/{} at {}, lag {}, {:.0} s behind, {} {}\n",
            text(&p["topic"]),
            text(&p["partition"]),
            text(&p["next_offset"]),
            lag.map_or("unknown".to_owned(), |lag| lag.to_string()),
            p["lag_seconds"].as_f64().unwrap_or_default(),
            text(&p["state"]),
            printable(p["reason"].as_str().unwrap_or_default())
        );
        if let Some(next) = p["reads_again"]["next"].as_i64() {
            out += &format!(
                "    offsets {} to {} were applied before and are read again: the database was emptied or restored, \
                 the stream renamed, or the group's offset moved\n",
                text(&p["reads_again"]["from"]),
                next - 1
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_told_in_lines() {
        let status = serde_json::json!({
            "app": "x", "ready": false,
            "stages": [{"id": "k", "trigger": "kafka", "component": "c", "digest": "0123456789abcdef",
                        "held": {"connections": 2},
                        "partitions": [{"topic": "t", "partition": 1, "next_offset": 5, "end_offset": 8,
                                        "lag_seconds": 61.4, "reads_again": {"from": 2, "next": 7},
                                        "state": "stopped", "reason": "why"}]}],
            "streams": [{"stream": "s", "watermark": null, "watermark_held_by": "nobody", "lag_records": 3,
                         "open_windows": 1, "rejected_records": 0, "gaps": 0}],
        });
        let text = render(&status);
        assert!(text.contains("x (not ready)"));
        let first = text.lines().nth(1).unwrap_or_default();
        assert_eq!(first, "STOPPED: t/1 of stage k at 5: why");
        assert!(text.contains("t/1 at 5, lag 3, 61 s behind, stopped why") && text.contains("  holds connections 2\n"));
        assert!(text.contains("    offsets 2 to 6 were applied before and are read again"));
        assert!(text.contains("stream s: watermark - (held by nobody), lag 3, 1 open windows"));
    }
}
