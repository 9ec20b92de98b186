//! Swaps for code that takes long to compile, or does not get through its start. None of it may ever run.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use e2e::bound_command;
use e2e::host::{Host, exagg};

use crate::attacks::{Field, more};

/// So long the impatient wait.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);

/// A function of `width` parameters and results with `depth` blocks of the same type, one in the other, each left
/// by a branch on a condition: every block is a place where all the values meet.
fn long_to_compile(functions: usize, width: usize, depth: usize) -> Vec<u8> {
    let values = "i64 ".repeat(width);
    let all: String = (0..width).map(|number| format!("local.get {number} ")).collect();
    let blocks: String = (0..depth)
        .map(|number| format!("block (type $t) local.get {} i32.wrap_i64 br_if {} ", number % width, number / 2))
        .collect();
    let function = format!("(func (type $t) {all} {blocks} {})", "end ".repeat(depth));
    let functions = function.repeat(functions);
    let text = format!("(component (core module (type $t (func (param {values}) (result {values}))) {functions}))");
    wat::parse_str(text).unwrap()
}

/// A cron function whose every instance does this when it is made.
fn bad_start(body: &str) -> Vec<u8> {
    wat::parse_str(format!(
        "(component
             (core module $m
                 (memory (export \"memory\") 1)
                 (func (export \"realloc\") (param i32 i32 i32 i32) (result i32) i32.const 0)
                 (func (export \"f\") (param i64) (result i32) i32.const 0)
                 (func $start {body})
                 (start $start))
             (core instance $i (instantiate $m))
             (type $metadata (record (field \"timestamp\" u64)))
             (export $named_metadata \"metadata\" (type $metadata))
             (type $error (variant (case \"other\" string)))
             (export $named_error \"error\" (type $error))
             (func $f async (param \"metadata\" $named_metadata) (result (result (error $named_error)))
                 (canon lift (core func $i \"f\") (memory (core memory $i \"memory\"))
                     (realloc (core func $i \"realloc\"))))
             (export \"handle-cron-event\" (func $f)))"
    ))
    .unwrap()
}

/// For whom, and what.
fn codes(folder: &Path) -> Vec<(&'static str, PathBuf)> {
    let write = |name: &str, code: Vec<u8>| {
        let path = folder.join(name);
        std::fs::write(&path, code).unwrap();
        path
    };
    let wide = write("wide.wasm", long_to_compile(1, 1_000, 1_000));
    let many = write("many.wasm", long_to_compile(2_000, 100, 100));
    let traps = write("traps.wasm", bad_start("unreachable"));
    let loops = write("loops.wasm", bad_start("(loop $l (br $l))"));
    vec![
        ("aggregator-exchanges", wide),
        ("dashboard", many.clone()),
        ("window-closer", traps),
        ("aggregator-exchanges", many),
        ("window-closer", loops),
    ]
}

/// One after another; every second one who asks goes before there is an answer.
pub fn ask(field: &Field<'_>) {
    let codes = codes(field.host.setup.folder());
    for (number, (component, code)) in codes.iter().cycle().enumerate() {
        if !field.goes_on() {
            return;
        }
        let patience = if number % 2 == 0 { None } else { Some(PATIENCE) };
        match swap(field, component, code, patience) {
            Some(true) => more(&field.counts.swaps_done),
            Some(false) => more(&field.counts.swaps_refused),
            None => more(&field.counts.swaps_given_up),
        }
        field.pause(PAUSE);
    }
}

/// Whether it was swapped; None when the asker went before.
fn swap(field: &Field<'_>, component: &str, code: &Path, patience: Option<Duration>) -> Option<bool> {
    let program = exagg();
    let mut asker = bound_command(program.to_str().unwrap())
        .args(["swap", component])
        .arg(code)
        .arg("--state-dir")
        .arg(field.host.setup.folder().join(".spin"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    loop {
        if let Some(status) = asker.try_wait().unwrap() {
            return Some(status.success());
        }
        if !field.goes_on() || patience.is_some_and(|patience| began.elapsed() > patience) {
            let _ = asker.kill();
            let _ = asker.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The digests of what runs, by component.
pub fn digests(host: &Host) -> Vec<(String, String)> {
    let status = host.admin("/status").json();
    let stages = status["stages"].as_array().unwrap().iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    stages.map(|stage| (text(&stage["component"]), text(&stage["digest"]))).collect()
}
