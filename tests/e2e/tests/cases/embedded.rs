//! `--embedded`: the whole pipeline from one command, with nothing else there.

use std::time::Duration;

use e2e::host::{Host, Setup};
use e2e::wait_for;

use super::World;

/// The address of the embedded database stands in its folder's `password` and the host's log
/// names no secret, so the test asks the dashboard.
fn rows(host: &Host, query: &str) -> Vec<serde_json::Value> {
    let Some(answer) = e2e::http::try_get(host.listen, &format!("/api/aggregates?limit=10000&{query}")) else {
        return Vec::new();
    };
    if answer.status == 200 { answer.json().as_array().unwrap().clone() } else { Vec::new() }
}

fn finals(host: &Host, stream: &str) -> Vec<(String, i64)> {
    rows(host, &format!("stream={stream}"))
        .iter()
        .filter(|row| row["is_final"] == true)
        .map(|row| (format!("{} {}", row["window_start"], row["code"]), row["records"].as_i64().unwrap()))
        .collect()
}

fn setup() -> Setup {
    Setup::new().argument("--embedded").variable("exchanges_source", "random")
}

/// Defaults throughout: windows of 60 s.
pub fn live_rows_at_once_final_rows_soon_and_a_restart_goes_on(_: &World) {
    let mut host = setup().start();
    wait_for("live rows", Duration::from_secs(15), || (!rows(&host, "").is_empty()).then_some(()));
    for stream in ["exchanges", "weather"] {
        wait_for(&format!("final rows of {stream}"), Duration::from_secs(100), || {
            (!finals(&host, stream).is_empty()).then_some(())
        });
    }
    assert!(host.log().contains("embedded: a broker in memory"), "{}", host.log());
    let before = finals(&host, "weather");
    let (status, took) = host.stop();
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(5), "the stop took {took:?}");
    host.restart();
    wait_for("rows after the restart", Duration::from_secs(30), || {
        let after = finals(&host, "weather");
        (!after.is_empty()).then_some(())
    });
    // What was final is as it was: no window is doubled or short.
    let after = finals(&host, "weather");
    for row in &before {
        assert!(after.contains(row), "{row:?} is not in {after:?}");
    }
    wait_for("a window that spans the restart", Duration::from_secs(100), || {
        (finals(&host, "weather").len() > before.len()).then_some(())
    });
    // A record a second: never more than 60 in a minute, and no key twice.
    let after = finals(&host, "weather");
    let keys: std::collections::BTreeSet<_> = after.iter().map(|(key, _)| key).collect();
    assert_eq!(keys.len(), after.len());
    assert!(after.iter().all(|(_, records)| *records <= 60), "{after:?}");
}

fn postgres_processes(folder: &std::path::Path) -> Vec<String> {
    let output = std::process::Command::new("ps").args(["-eo", "pid,args"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let folder = folder.to_string_lossy().replace('/', "-");
    text.lines()
        .filter(|line| line.contains("postgres") && line.replace('/', "-").contains(folder.as_str()))
        .map(str::to_owned)
        .collect()
}

pub fn nothing_is_doubled_or_orphaned_by_kill_9(_: &World) {
    let mut host = setup()
        .variable("window_seconds", "5")
        .variable("idle_timeout_seconds", "3")
        .variable("allowed_lateness_seconds", "1")
        .start();
    wait_for("final rows", Duration::from_secs(60), || (finals(&host, "weather").len() > 2).then_some(()));
    let folder = host.setup.folder().to_owned();
    assert!(!postgres_processes(&folder).is_empty());
    host.kill();
    wait_for("PostgreSQL's end", Duration::from_secs(5), || postgres_processes(&folder).is_empty().then_some(()));
    host.restart();
    // The page answers with the rows of the last run before this one has begun.
    host.wait_for_log("the embedded broker starts empty", Duration::from_secs(60));
    let before = finals(&host, "weather").len();
    wait_for("more final rows", Duration::from_secs(60), || {
        (finals(&host, "weather").len() > before + 1).then_some(())
    });
    let all = finals(&host, "weather");
    assert!(all.iter().all(|(_, records)| *records <= 5), "{all:?}");
}

/// Take out: the rename in `initialise`.
pub fn a_set_up_that_was_cut_off_is_begun_anew(_: &World) {
    let mut host = setup().start();
    let folder = host.setup.folder().join(".spin/postgres");
    let setups = || {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("data.setup-")).map(|entry| entry.path())
    };
    wait_for("the set-up", Duration::from_secs(60), || setups().find(|setup| setup.join("PG_VERSION").exists()));
    host.kill();
    assert!(!folder.join("data").exists());
    host.restart();
    wait_for("live rows", Duration::from_secs(30), || (!rows(&host, "").is_empty()).then_some(()));
}

/// Take out: `is_wanted` in `keep`.
pub fn a_database_that_dies_is_started_again(_: &World) {
    let mut host = setup().start();
    wait_for("live rows", Duration::from_secs(30), || (!rows(&host, "").is_empty()).then_some(()));
    let pid = std::fs::read_to_string(host.setup.folder().join(".spin/postgres/data/postmaster.pid")).unwrap();
    let pid = pid.lines().next().unwrap().to_owned();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    host.wait_for_log("it is started again", Duration::from_secs(10));
    let counted = || rows(&host, "stream=weather").iter().map(|row| row["records"].as_i64().unwrap()).sum::<i64>();
    let before = counted();
    wait_for("rows of the database that came back", Duration::from_secs(60), || {
        (counted() > before.max(1) + 2).then_some(())
    });
}
