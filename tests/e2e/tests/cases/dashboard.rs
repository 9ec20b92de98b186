//! What people look at: the page, the JSON, the probes, Grafana's statements.

use e2e::database::Database;
use e2e::host::Host;
use e2e::root;
use serde_json::Value;

use super::World;

/// A code that would run as a script, and one that would end an SQL literal.
const HOSTILE: &str = "<script>alert(1)</script>'; DROP TABLE aggregates; --";

fn start(world: &World, name: &str) -> (Database, Host) {
    let database = world.postgres.database();
    let host = world.setup(&database, name).components(&["dashboard"]).start();
    host.wait_until_ready();
    let insert = |table: &str, more: &str, values: &str| {
        format!(
            "INSERT INTO public.{table} (window_start, window_end, code, stream, records, sum_vol, min_vol, max_vol,
                 first_edge, last_edge{more})
             SELECT w, w + interval '1 minute', c, 'exchanges', 4, 10, 1, 4,
                 exagg_edge(0, 't', 0, 0, 1), exagg_edge(1, 't', 0, 1, 4){values}
             FROM (SELECT date_trunc('minute', now() AT TIME ZONE 'UTC') AS w) AS w, unnest(ARRAY['A', {}]) AS c;",
            exagg_clients::database::literal(HOSTILE)
        )
    };
    database.execute(&insert("aggregates", ", avg_vol, first_vol, last_vol", ", 2.5, 1, 4"));
    database.execute(&insert("window_state", ", topic, partition", ", 't', 1"));
    database.execute(
        "INSERT INTO public.streams (stream, window_seconds, slide_seconds, allowed_lateness_seconds,
             idle_timeout_seconds, max_future_seconds, late) VALUES ('exchanges', 60, 60, 5, 20, 60, 'revise');
         INSERT INTO public.rejected_records (stream, topic, topic_id, partition, record_offset, reason)
             VALUES ('exchanges', 't', 'id', 0, 1, 'not_json')",
    );
    (database, host)
}

pub fn pages_json_and_probes_answer(world: &World) {
    let (database, host) = start(world, "pages");
    let page = host.get("/");
    assert_eq!(page.status, 200);
    assert!(page.headers.to_ascii_lowercase().contains("content-security-policy: default-src 'none'"));
    let plain = host.get("/plain").body;
    assert!(plain.contains("<td>exchanges</td>") && plain.contains("exagg rejects --stream exchanges"), "{plain}");
    let rows = host.get("/api/aggregates?stream=exchanges&code=A").json();
    assert_eq!(rows.as_array().unwrap().len(), 1, "{rows}");
    // Closed and pending are one row.
    assert_eq!(
        (&rows[0]["records"], &rows[0]["avg_vol"], &rows[0]["is_final"]),
        (&8.into(), &2.5.into(), &false.into())
    );
    assert_eq!(host.get("/api/aggregates?from=2000-01-01T00:00:00Z&to=2000-01-02T00:00:00Z").body, "[]");
    let encoded: String = HOSTILE.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let hostile = host.get(&format!("/api/aggregates?code={encoded}")).json();
    assert_eq!(hostile[0]["code"], HOSTILE);
    assert_eq!(host.get("/api/aggregates?from=soon").status, 400);
    assert_eq!(host.get("/nothing").status, 404);
    let streams = host.get("/api/streams").json();
    assert_eq!((&streams[0]["stream"], &streams[0]["rejected_records"]), (&"exchanges".into(), &1.into()));
    // One reject stands there.
    let health = host.get("/api/health").json();
    assert_eq!(
        (&health["state"], &health["command"]),
        (&"degraded".into(), &"exagg rejects --stream exchanges".into())
    );
    let hosts = host.get("/api/hosts").json();
    assert_eq!(hosts[0]["stages"], serde_json::json!(["dashboard-http-trigger"]), "{hosts}");

    assert_eq!(host.get("/.well-known/spin/health").status, 200);
    assert_eq!(host.get("/.well-known/exagg/ready").status, 200);
    for path in ["/livez", "/readyz"] {
        assert_eq!(host.admin(path).status, 200, "{path}");
    }
    assert_eq!(host.admin("/nothing").status, 404);
    let metrics = host.admin("/metrics").body;
    for sample in [
        "exagg_http_requests_total{stage=\"dashboard-http-trigger\",status=\"200\"}",
        "exagg_stream_rejected_records{stream=\"exchanges\"} 1",
        "exagg_component_info{component=\"dashboard\",digest=",
        "exagg_database_up 1",
        "exagg_call_seconds_bucket",
    ] {
        assert!(metrics.contains(sample), "no {sample} in {metrics}");
    }
    let status = std::process::Command::new(e2e::host::exagg())
        .args(["status", "--admin", &format!("127.0.0.1:{}", host.admin)])
        .output()
        .unwrap();
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(
        text.contains("exchange-agg-spin (ready)") && text.contains("1 open windows, 1 rejected records"),
        "{text}"
    );
    assert!(!metrics.contains(&database.url) && !text.contains(&database.url));
}

/// Grafana's macros and variables, as it would replace them.
fn as_grafana(statement: &str) -> String {
    let mut text = statement
        .replace("${stream:sqlstring}", "'exchanges'")
        .replace("${code:sqlstring}", &format!("'A', {}", exagg_clients::database::literal(HOSTILE)));
    while let Some((before, rest)) = text.split_once("$__timeFilter(") {
        let (column, after) = rest.split_once(')').unwrap();
        text = format!("{before}{column} BETWEEN now() - interval '1 hour' AND now() + interval '1 hour'{after}");
    }
    assert!(!text.contains('$'), "{text}");
    text
}

pub fn every_grafana_statement_runs(world: &World) {
    let (database, _host) = start(world, "grafana");
    let text = std::fs::read_to_string(root().join("deploy/grafana/dashboards/exchange-agg.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut client = database.client();
    let mut run = |title: &str, statement: &str| {
        let rows = client.query(&as_grafana(statement), &[]).unwrap_or_else(|error| panic!("{title}: {error}"));
        (title.to_owned(), rows.len())
    };
    let mut rows = std::collections::BTreeMap::new();
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        rows.extend([run(variable["name"].as_str().unwrap(), variable["query"].as_str().unwrap())]);
    }
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            rows.extend([run(panel["title"].as_str().unwrap(), target["rawSql"].as_str().unwrap())]);
        }
    }
    assert_eq!(rows["avg_vol by code (final)"], 2);
    assert_eq!(rows["Rejected records by reason"], 1);
    assert_eq!((rows["stream"], rows["code"], rows.len()), (1, 2, 8));
}

/// Spans of calls go where the environment says, as the SpinKube operator sets it.
pub fn calls_are_spans_for_a_collector(world: &World) {
    let database = world.postgres.database();
    let collector = e2e::http::Server::start(e2e::http::Behaviour::Answer(200, "", String::new()));
    let mut host = world
        .setup(&database, "spans")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://127.0.0.1:{}", collector.port))
        .components(&["dashboard"])
        .start();
    host.wait_until_ready();
    assert_eq!(host.get("/api/streams").status, 200);
    // What was not sent yet goes at the stop.
    host.stop();
    let request = collector.next();
    assert_eq!(request.line, "POST /v1/traces HTTP/1.1");
    assert_eq!(request.header("content-type"), Some("application/x-protobuf"));
    for text in ["exagg", "http request", "dashboard-http-trigger"] {
        assert!(request.body.contains(text), "no {text:?} in {:?}", request.body);
    }
}
