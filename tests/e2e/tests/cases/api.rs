//! The livecoinwatch API, played by a server on loopback.

use std::time::Duration;

use e2e::host::Setup;
use e2e::http::{Behaviour, Server};
use e2e::wait_for;
use serde_json::{Value, json};

use super::{World, topic};

const MINUTE: Duration = Duration::from_secs(60);
const KEY: &str = "b2a6c1f0-secret-key";

fn exchanges() -> Value {
    let item = |n: i32| {
        json!({
            "code": format!("EX{n}"), "name": "An Exchange", "png64": "https://x/64.png", "png128": "https://x/128.png",
            "color": "#000000", "markets": 500 + n, "volume": if n == 3 { Value::Null } else { json!(17_189_543.25 + f64::from(n)) },
            "bidTotal": 1.5, "askTotal": 2.5, "depth": 4.0, "centralized": true, "usCompliant": null,
            "visitors": 1000 - n, "volumePerVisitor": 12.25, "links": {"website": "https://x"},
        })
    };
    Value::Array((0..10).map(item).collect())
}

fn setup(world: &World, name: &str, server: &Server) -> Setup {
    let database = world.postgres.database();
    let topic = topic(name);
    world.kafka().create_topic(&topic, 2, &[]);
    world
        .setup(&database, name)
        .variable("exchanges_schedule", "* * * * * *")
        .variable("livecoinwatch_url", &format!("http://127.0.0.1:{}", server.port))
        .env("SPIN_VARIABLE_LIVECOINWATCH_API_KEY", KEY)
        .components(&["fetcher-exchanges"])
}

pub fn the_api_gets_the_documented_request_and_its_answer_becomes_records(world: &World) {
    let name = "api-good";
    let server = Server::start(Behaviour::Answer(200, "content-type: application/json\r\n", exchanges().to_string()));
    let host = setup(world, name, &server).start();
    let request = server.next();
    assert_eq!(request.line, "POST /exchanges/list HTTP/1.1");
    assert_eq!(request.header("x-api-key"), Some(KEY));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("host"), Some(format!("127.0.0.1:{}", server.port).as_str()));
    let body: Value = serde_json::from_str(&request.body).unwrap();
    let documented =
        json!({"currency": "USD", "sort": "visitors", "order": "descending", "offset": 0, "limit": 10, "meta": true});
    assert_eq!(body, documented);
    let records = wait_for("a tick's records", MINUTE, || {
        let records = world.kafka().read_all(&topic(name), 2);
        (records.len() >= 10).then_some(records)
    });
    let mut keys = Vec::new();
    for record in &records[..] {
        let value: Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
        let code = value["code"].as_str().unwrap();
        assert_eq!(record.key.as_deref(), Some(code.as_bytes()));
        let mut sent = exchanges().as_array().unwrap().iter().find(|item| item["code"] == code).unwrap().clone();
        let time = value["time"].as_str().unwrap();
        assert_eq!((time.len(), &time[4..5], &time[10..11]), (19, "-", " "));
        sent["time"] = json!(time);
        assert_eq!(value, sent, "unknown fields and nulls are kept as they are");
        keys.push(code.to_owned());
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 10);
    assert!(!host.log().contains(KEY));
}

pub fn bad_answers_give_a_clear_line_and_no_record(world: &World) {
    let name = "api-bad";
    let server = Server::start(Behaviour::Answer(401, "", format!("{{\"error\":\"no such key {KEY}\"}}")));
    let mut host = setup(world, name, &server).start();
    host.wait_for_log("the API refuses the key: status 401", MINUTE);
    for (behaviour, line) in [
        (Behaviour::Answer(500, "", "oops".to_owned()), "status 500: oops; given up after 3 tries"),
        (Behaviour::Answer(200, "", "<html>maintenance</html>".to_owned()), "it is not JSON"),
        (Behaviour::Answer(200, "", "[]".to_owned()), "it is an empty array"),
        (Behaviour::Answer(200, "", "[{\"name\":1}]".to_owned()), "item 0 has no code"),
        (Behaviour::Cut, "the body broke off"),
        (Behaviour::Slow(Duration::from_secs(20)), "the API did not answer in time"),
    ] {
        server.behave(behaviour);
        host.wait_for_log(line, MINUTE);
    }
    server.behave(Behaviour::Answer(429, "retry-after: 6\r\n", String::new()));
    host.wait_for_log("the API wants a pause of 6 s", MINUTE);
    server.behave(Behaviour::Answer(200, "", exchanges().to_string()));
    while server.requests.try_recv().is_ok() {}
    let began = std::time::Instant::now();
    assert_eq!(world.kafka().read_all(&topic(name), 2).len(), 0, "no record of a bad answer");
    // The pause is honoured over several ticks, then the next tick works.
    server.next();
    assert!(began.elapsed() > Duration::from_secs(3), "asked again after {:?}", began.elapsed());
    wait_for("records", MINUTE, || (world.kafka().read_all(&topic(name), 2).len() >= 10).then_some(()));
    assert!(!host.log().contains(KEY), "the key is in the log");
}
