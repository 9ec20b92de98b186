//! What each route of the dashboard takes where `aggregates` has 10,000,000 rows: many codes in some windows, and a few codes
//! in very many.

use std::time::Instant;

use e2e::browser::Browser;
use e2e::database::Server;
use e2e::host::{Host, Setup};
use e2e::http;
use serde_json::{Value, json};

/// 5,000,000 rows each: 100,000 codes in the last 50 minutes, and 50 codes in as many minutes as there are in 69 days.
const STREAMS: [(&str, u32, u32); 2] = [("many", 100_000, 50), ("long", 50, 100_000)];
const REQUESTS: usize = 20;

/// `N` is another number in each request: the same one would be answered by what is kept of the last one.
const ROUTES: [&str; 14] = [
    "/api/overview?N",
    "/api/aggregates?limit=2N",
    "/api/aggregates?limit=10000&from=2000-01-01T00:00:N",
    "/api/aggregates?stream=long&code=EX7&limit=1000&from=2000-01-01T00:00:N",
    "/api/aggregates?stream=long&code=nowhere&from=2000-01-01T00:00:N",
    "/api/aggregates?code=EX99999&limit=1000&from=2000-01-01T00:00:N",
    "/api/aggregates?stream=nowhere&from=2000-01-01T00:00:N",
    "/api/series?stream=long&code=EX7&from=2000-01-01T00:00:N",
    "/api/series?stream=many&code=EX77777&points=1N",
    "/api/codes?stream=many&search=X99N",
    "/api/codes?stream=many&search=nowhere&limit=N",
    "/api/windows?stream=many&limit=N",
    "/api/windows?stream=long&limit=N",
    "/api/window?stream=many&start=START&end=END&code=EX7N",
];

/// Measures, prints, and gives it as JSON.
pub fn run(postgres: &Server) -> Value {
    let database = postgres.database();
    let host = Setup::against("127.0.0.1:1", &database, "rows").components(&["dashboard"]).start();
    host.wait_until_ready();
    let mut client = database.client();
    for (stream, codes, windows) in STREAMS {
        client
            .batch_execute(&format!(
                "INSERT INTO public.streams (stream, window_seconds, slide_seconds, allowed_lateness_seconds,
                     idle_timeout_seconds, max_future_seconds, late) VALUES ('{stream}', 60, 60, 5, 20, 60, 'revise');
                 INSERT INTO public.aggregates (window_start, window_end, code, stream, records, sum_vol, min_vol, max_vol,
                     first_edge, last_edge, avg_vol, first_vol, last_vol)
                 SELECT w, w + interval '1 minute', 'EX' || c, '{stream}', 1, c, c, c, e, e, c, c, c
                 FROM generate_series(1, {windows}) AS n, generate_series(0, {codes} - 1) AS c,
                      LATERAL (SELECT date_trunc('minute', now() AT TIME ZONE 'UTC') - n * interval '1 minute' AS w,
                                      exagg_edge(0, 't', 0, n, c) AS e) AS of"
            ))
            .unwrap();
    }
    // As autovacuum does it.
    client.batch_execute("VACUUM (ANALYZE) public.aggregates").unwrap();
    let newest = "to_char(max(window_start), 'YYYY-MM-DD\"T\"HH24:MI:SS')";
    let row = client
        .query_one(&format!("SELECT {newest}, count(*) FROM public.aggregates WHERE stream = 'many'"), &[])
        .unwrap();
    let (start, rows): (String, i64) = (row.get(0), row.get(1));
    let end = client
        .query_one("SELECT to_char($1::text::timestamp + interval '1 minute', 'YYYY-MM-DD\"T\"HH24:MI:SS')", &[&start]);
    let end: String = end.unwrap().get(0);
    println!("routes of the dashboard over {} rows, in ms:", 2 * rows);
    let routes = ROUTES.map(|route| measured(&host, &route.replace("START", &start).replace("END", &end)));
    let found = search(&host);
    json!({ "routes": routes, "search_shown_after_ms": found })
}

/// How long after its answer the page shows one of 100,000 codes, in milliseconds; none without Chromium.
fn search(host: &Host) -> Option<f64> {
    let mut browser = Browser::start()?;
    browser.open(&format!("http://127.0.0.1:{}/#/chart?stream=many&code=EX1", host.listen));
    browser.wait("#plot canvas", None);
    let watch = "globalThis.shown = new Promise((resolve) => new MutationObserver(() => { \
                     const found = [...document.querySelectorAll('#codes [role=option]')] \
                         .some((option) => option.textContent.includes('EX77777')); \
                     if (found) resolve(performance.now()); \
                 }).observe(document.body, { childList: true, subtree: true, characterData: true })); 0";
    browser.run("evaluate", &json!({ "script": watch }));
    browser.run("fill", &json!({ "selector": "#code", "value": "X7777" }));
    let after = "globalThis.shown.then((shown) => { \
                     const answers = performance.getEntriesByType('resource').filter(({ name }) => name.includes('search=X7777')); \
                     return shown - answers[0].responseEnd; })";
    let after = browser.run("evaluate", &json!({ "script": after })).as_f64();
    println!("one of 100,000 codes is shown {after:.1?} ms after the answer to a search");
    after
}

fn measured(host: &Host, route: &str) -> Value {
    let mut times: Vec<f64> = (0..REQUESTS)
        .map(|number| {
            let path = route.replace("?N", "").replace('N', &format!("{:02}", number + 1));
            if route.ends_with("?N") {
                // It takes nothing that makes it another one.
                std::thread::sleep(std::time::Duration::from_millis(1_100));
            }
            let began = Instant::now();
            let answer = http::get(host.listen, &path);
            assert_eq!(answer.status, 200, "{path}: {}", answer.body);
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let (median, most) = (times[REQUESTS / 2], times[REQUESTS - 1]);
    println!("  {route}: median {median:.1}, at most {most:.1}");
    json!({ "route": route, "median_ms": median, "most_ms": most })
}
