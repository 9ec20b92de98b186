//! `exagg status`: what a running host says of itself, for people.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Asks the host at `admin` and prints.
pub async fn show(admin: SocketAddr, json: bool) -> Result<()> {
    let text = tokio::time::timeout(TIMEOUT, get(admin))
        .await
        .context("no answer in time")
        .and_then(|text| text)
        .with_context(|| format!("no host answers on {admin}: name its admin address with --admin"))?;
    if json {
        println!("{text}");
        return Ok(());
    }
    let status: Value = serde_json::from_str(&text).context("the host's answer is not JSON")?;
    print!("{}", render(&status));
    Ok(())
}

async fn get(admin: SocketAddr) -> Result<String> {
    let stream = tokio::net::TcpStream::connect(admin).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = http::Request::get("/status").header("host", admin.to_string()).body(Empty::<bytes::Bytes>::new())?;
    let response = sender.send_request(request).await?;
    ensure!(response.status().is_success(), "status {}", response.status());
    let body = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec())?)
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn render(status: &Value) -> String {
    let mut out =
        format!("{} ({})\n", text(&status["app"]), if status["ready"] == true { "ready" } else { "not ready" });
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for stage in list(&status["stages"]) {
        out += &format!(
            "stage {} ({} -> {}, {:.12})\n",
            text(&stage["id"]),
            text(&stage["trigger"]),
            text(&stage["component"]),
            text(&stage["digest"])
        );
        for p in list(&stage["partitions"]) {
            let lag = p["end_offset"].as_i64().unwrap_or(0) - p["next_offset"].as_i64().unwrap_or(0);
            out += &format!(
                "  {}/{} at {}, lag {}, {} {}\n",
                text(&p["topic"]),
                text(&p["partition"]),
                text(&p["next_offset"]),
                lag.max(0),
                text(&p["state"]),
                p["reason"].as_str().unwrap_or_default()
            );
        }
    }
    if let Some(error) = status["streams"]["error"].as_str() {
        out += &format!("streams: {error}\n");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_told_in_lines() {
        let status = serde_json::json!({
            "app": "x", "ready": false,
            "stages": [{"id": "k", "trigger": "kafka", "component": "c", "digest": "0123456789abcdef",
                        "partitions": [{"topic": "t", "partition": 1, "next_offset": 5, "end_offset": 8,
                                        "state": "stopped", "reason": "why"}]}],
            "streams": [{"stream": "s", "watermark": null, "watermark_held_by": "nobody", "lag_records": 3,
                         "open_windows": 1, "rejected_records": 0, "gaps": 0}],
        });
        let text = render(&status);
        assert!(text.contains("x (not ready)"));
        assert!(text.contains("t/1 at 5, lag 3, stopped why"));
        assert!(text.contains("stream s: watermark - (held by nobody), lag 3, 1 open windows"));
    }
}
