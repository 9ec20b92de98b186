//! The tables of the first screen as one page of HTML, for who runs no script. Pure.

use std::fmt::Write;

use crate::overview::Overview;

/// The page.
pub fn page(overview: &Overview) -> String {
    let health = &overview.health;
    let command = health
        .command
        .as_ref()
        .map_or_else(String::new, |command| format!("<p><code>{}</code></p>\n", escape(command)));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>exchange-agg-spin</title>\n\
         <link rel=\"stylesheet\" href=\"page/page.css\">\n</head>\n<body>\n<main>\n<h1>exchange-agg-spin</h1>\n\
         <p>At {}: {}</p>\n{command}",
        escape(&overview.now),
        escape(&health.sentence),
    );
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
    table(
        &mut page,
        "Streams",
        &[
            "Stream",
            "Seconds behind",
            "Records behind",
            "Records a second",
            "Watermark",
            "Held by",
            "Open windows",
            "Rejected",
            "Gaps",
        ],
        overview.streams.iter().map(|stream| {
            vec![
                stream.stream.clone(),
                or_none(stream.seconds_behind.map(|seconds| format!("{seconds:.1}"))),
                stream.lag_records.to_string(),
                or_none(stream.records_per_second.map(|rate| format!("{rate:.1}"))),
                or_none(stream.watermark.clone()),
                stream.watermark_held_by.clone(),
                stream.open_windows.to_string(),
                stream.rejected_records.to_string(),
                stream.gaps.to_string(),
            ]
        }),
    );
    table(
        &mut page,
        "Stages",
        &["Stage", "Started by", "Hosts", "Calls", "Errors", "Records", "Trouble"],
        overview.stages.iter().map(|stage| {
            vec![
                stage.id.clone(),
                format!("{} {}", stage.trigger, stage.what),
                stage.hosts.to_string(),
                stage.calls.to_string(),
                stage.errors.to_string(),
                stage.records.to_string(),
                stage.not_ready.clone().or_else(|| stage.failing.clone()).unwrap_or_default(),
            ]
        }),
    );
    page + "<p>Rows: <a href=\"api/aggregates\">JSON</a>, <a href=\"api/aggregates?format=csv\">CSV</a>.</p>\n</main>\n</body>\n</html>\n"
}

fn table(page: &mut String, caption: &str, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let heads: String = heads.iter().map(|head| format!("<th scope=\"col\">{}</th>", escape(head))).collect();
    // Writing to a String cannot fail.
    let _ = write!(page, "<table>\n<caption>{caption}</caption>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n");
    for row in rows {
        let cells: String = row.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        let _ = writeln!(page, "<tr>{cells}</tr>");
    }
    page.push_str("</tbody>\n</table>\n");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use crate::overview::facts::{Facts, Stream};

    use super::*;

    #[test]
    fn whatever_a_stream_is_called_is_text() {
        let stream =
            Stream { stream: "<script>alert(1)</script>".to_owned(), held_by: "\"'&".to_owned(), ..Stream::default() };
        let page = page(&Overview::new(&Facts { streams: vec![stream], ..Facts::default() }));
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{page}");
        assert!(page.contains("&quot;&#39;&amp;") && page.contains("No host runs"), "{page}");
    }
}
