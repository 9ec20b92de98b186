//! The pipeline as it is, and the components that misbehave beside it.

use e2e::database::Database;
use e2e::host::{Setup, function};
use e2e::kafka::Kafka;

use crate::attacks::Chosen;
use crate::group::Cage;
use crate::{MEMORY_BYTES_MAX, NAME, WINDOW_SECONDS};

pub const PIPELINE: [&str; 3] = ["aggregator-exchanges", "window-closer", "dashboard"];
/// Topics of the Kafka functions that misbehave.
pub const WORDS: &str = "siege.words";
pub const TRAPS: &str = "siege.traps";
pub const WORDS_GROUP: &str = "siege-words";
/// Words for the first of them, two at a time.
pub const WORDS_PARTITIONS: i32 = 2;
/// HTTP functions, each a route of this name, and the attack that asks them.
const HTTP: [(&str, &str); 2] = [("held", "clients"), ("broken", "requests")];
const CRON: [&str; 4] = ["loop", "trap", "allocate", "flood"];

/// Short, so that what loops ends often; and what compiles as well.
const CALL_SECONDS_MAX: u64 = 5;
const COMPILE_SECONDS_MAX: u64 = 20;

/// The pipeline alone.
pub fn pipeline(kafka: &Kafka, database: &Database, cage: &Cage) -> Setup {
    let setup = Setup::against(&kafka.brokers, database, NAME)
        .variable("window_seconds", &WINDOW_SECONDS.to_string())
        .components(&PIPELINE);
    let budget = match cage {
        Cage::Group(_) => String::new(),
        // As the host itself would of such a group.
        Cage::Watched => format!("memory_bytes_max = {}\n", MEMORY_BYTES_MAX / 4 * 3),
    };
    let runtime = format!(
        "[exagg]\ncall_seconds_max = {CALL_SECONDS_MAX}\ncompile_seconds_max = {COMPILE_SECONDS_MAX}\n{budget}"
    );
    let file = setup.folder().join("runtime.toml");
    std::fs::write(&file, runtime).unwrap();
    let setup = setup.argument("--runtime-config-file").argument(file.to_str().unwrap());
    match cage.procs() {
        Some(procs) => setup.within(&procs),
        None => setup,
    }
}

/// Topics and tables of the components that misbehave.
pub fn prepare(kafka: &Kafka, database: &Database) {
    kafka.create_topic(WORDS, WORDS_PARTITIONS, &[]);
    kafka.create_topic(TRAPS, 1, &[]);
    for topic in [WORDS, TRAPS] {
        kafka.create_topic(&format!("{topic}.dead"), 1, &[]);
    }
    database.execute("CREATE TABLE seen (record_offset int8 PRIMARY KEY, value text)");
}

/// Adds the components that misbehave, of the attacks that are chosen.
pub fn besiege(mut setup: Setup, kafka: &Kafka, database: &Database, chosen: &Chosen) -> Setup {
    let mut ids = Vec::new();
    if chosen.has("words") {
        setup = setup.append(&kafka_function("words", WORDS, kafka, database, "{}"));
        ids.push("words".to_owned());
    }
    if chosen.has("traps") {
        setup = setup.append(&kafka_function("traps", TRAPS, kafka, database, "{ TRAP_ALWAYS = \"1\" }"));
        ids.push("traps".to_owned());
    }
    for (id, _) in HTTP.into_iter().filter(|(_, attack)| chosen.has(attack)) {
        setup = setup.append(&format!(
            "\n[[trigger.http]]\ncomponent = \"{id}\"\nroute = \"/{id}/...\"\n[component.{id}]\nsource = \"{}\"\n",
            function("guest-p2").display()
        ));
        ids.push(id.to_owned());
    }
    if chosen.has("cron") {
        for behaviour in CRON {
            setup = setup.append(&cron_function(behaviour));
            ids.push(format!("cron-{behaviour}"));
        }
    }
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    setup.components(&ids)
}

fn kafka_function(id: &str, topic: &str, kafka: &Kafka, database: &Database, environment: &str) -> String {
    format!(
        "\n[[trigger.kafka]]\ncomponent = \"{id}\"\ntopics = [\"{topic}\"]\ngroup = \"siege-{id}\"\nbrokers = \"{}\"\n\
         start = \"earliest\"\nbatch_records_max = 1\nretry_attempts_max = 1\nretry_backoff_ms_min = 10\n\
         retry_backoff_ms_max = 50\non_poison = \"dead-letter\"\ndead_letter_topic = \"{topic}.dead\"\n\
         [component.{id}]\nsource = \"{}\"\nkey_value_stores = [\"default\"]\nenvironment = {environment}\n\
         allowed_outbound_hosts = [\"postgres://{}\"]\n\
         [component.{id}.variables]\npostgres_url = \"{{{{ postgres_url }}}}\"\n",
        kafka.brokers,
        function("guest").display(),
        database.host,
    )
}

fn cron_function(behaviour: &str) -> String {
    format!(
        "\n[[trigger.cron]]\ncomponent = \"cron-{behaviour}\"\ncron_expression = \"*/2 * * * * *\"\n\
         [component.cron-{behaviour}]\nsource = \"{}\"\nenvironment = {{ BEHAVIOUR = \"{behaviour}\" }}\n",
        function("guest-cron").display(),
    )
}
