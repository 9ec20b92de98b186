//! New functions: from the templates, and in another language.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::host::Setup;
use e2e::{exchange, now, root, topic, wait_for};

use super::World;

const MINUTE: Duration = Duration::from_secs(60);

/// Fills a template in, as `spin new` does: its expressions are names, with or without a case.
fn fill(template: &Path, into: &Path, values: &[(&str, &str)]) {
    for entry in std::fs::read_dir(template).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().trim_end_matches(".tmpl").to_owned();
        let target = into.join(name);
        if path.is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            fill(&path, &target, values);
            continue;
        }
        let mut text = std::fs::read_to_string(&path).unwrap();
        for (name, value) in values {
            text = text.replace(&format!("{{{{{name}}}}}"), value);
            text = text.replace(&format!("{{{{{name} | kebab_case}}}}"), value);
            text = text.replace(&format!("{{{{{name} | snake_case}}}}"), &value.replace('-', "_"));
        }
        assert!(!text.contains("{{"), "{}: {text}", path.display());
        std::fs::write(target, text).unwrap();
    }
}

/// A project from the template, outside of the checkout; it is built with what the repository has already compiled.
pub fn fill_in(name: &str, project: &str, values: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let sdk = root().join("sdk");
    let common = [
        ("project-name", project),
        ("project-description", "a test"),
        ("authors", "nobody"),
        ("exagg-sdk", sdk.to_str().unwrap()),
    ];
    fill(&root().join("templates").join(name).join("content"), folder.path(), &[&common, values].concat());
    std::fs::copy(root().join("Cargo.lock"), folder.path().join("Cargo.lock")).unwrap();
    // The crates below are compiled once for all templates.
    let target = root().join("target/templates");
    std::fs::create_dir_all(&target).unwrap();
    std::os::unix::fs::symlink(target, folder.path().join("target")).unwrap();
    folder
}

/// The template's app, built.
fn build(name: &str, project: &str, values: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = fill_in(name, project, values);
    let built = Command::new("cargo")
        .args(["build", "--quiet", "--target", "wasm32-wasip2", "--release"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    folder
}

/// The cron template publishes what the kafka template reads.
pub fn what_spin_new_makes_builds_and_runs(world: &World) {
    let (name, brokers) = ("templates", world.kafka().brokers.clone());
    world.kafka().create_topic(&topic(name), 1, &[]);
    let topic = topic(name);
    let cron = build(
        "cron-rust",
        "my-ticker",
        &[("cron-expression", "* * * * * *"), ("kafka-broker", &brokers), ("kafka-topic", &topic)],
    );
    let kafka = build("kafka-rust", "my-reader", &[("kafka-brokers", &brokers), ("kafka-topic", &topic)]);
    let mut reader = Setup::new().from(kafka.path().to_str().unwrap()).start();
    // It starts at the end of the topic: it is there before the first record.
    reader.wait_for_log("assigned", MINUTE);
    let _ticker = Setup::new().from(cron.path().to_str().unwrap()).start();
    let records = wait_for("a record", MINUTE, || {
        let records = world.kafka().read_all(&topic, 1);
        records.into_iter().next()
    });
    assert_eq!(records.key.as_deref(), Some(&b"tick"[..]));
    reader.wait_for_log(&String::from_utf8(records.value.unwrap()).unwrap(), MINUTE);
}

/// The same WIT from Python (`examples/python`, built by `make python-example`).
pub fn a_function_in_python_reads_and_publishes(world: &World) {
    let code = root().join("target/python/large.wasm");
    if !code.exists() {
        assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped: make python-example first");
        println!("the example in Python is not built (make python-example): skipped");
        return;
    }
    let (name, brokers) = ("python", world.kafka().brokers.clone());
    let (from, to) = (topic(name), format!("{name}.large"));
    world.kafka().create_topic(&from, 1, &[]);
    world.kafka().create_topic(&to, 1, &[]);
    let sender = world.kafka().producer();
    for volume in [1.0, 5_000.0, 10.0, 7_000.0] {
        sender.send(&from, 0, None, Some(exchange("A", volume, now()).as_bytes()));
    }
    sender.send(&from, 0, None, Some(b"not JSON"));
    sender.send(&from, 0, None, None);
    sender.flush();
    let _host = Setup::new()
        .manifest(&format!(
            "spin_manifest_version = 2\n[application]\nname = \"python\"\n\
             [[trigger.kafka]]\ncomponent = \"large\"\ntopics = [\"{from}\"]\ngroup = \"{name}\"\nbrokers = \"{brokers}\"\n\
             start = \"earliest\"\n\
             [component.large]\nsource = \"{}\"\nallowed_outbound_hosts = [\"kafka://{brokers}\"]\n\
             [component.large.variables]\nlimit = \"1000\"\ntopic = \"{to}\"\nbrokers = \"{brokers}\"\n",
            code.display()
        ))
        .start();
    let wanted = 6;
    wait_for("all records", MINUTE * 2, || (world.kafka().group_offset(name, &from, 0) == Some(wanted)).then_some(()));
    let large = world.kafka().read_all(&to, 1);
    let volumes: Vec<f64> = large
        .iter()
        .map(|record| {
            let value: serde_json::Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
            value["volume"].as_f64().unwrap()
        })
        .collect();
    assert_eq!(volumes, [5_000.0, 7_000.0]);
    assert_eq!(large[0].headers, [("source-offset".to_owned(), "1".to_owned())]);
}
